"""`regularize` replaces a network's weights by truncated DCT coefficients in place; `to_dense` is the inverse."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from tailcut.errors import ArgumentError, StructureError
from tailcut.printing import Report, sizes, table
from tailcut.structure import (
    NetworkView,
    Record,
    add_edit,
    check_module,
    deepcopied,
    record_of,
    set_record,
    view_in,
    without_views,
)
from tailcut.weights.layers import Candidate, quantized_weights
from tailcut.weights.parametrization.attach import attach, detach, finish_attaching, finish_detaching
from tailcut.weights.parametrization.truncated_tensors import truncated_tensors
from tailcut.weights.parametrization.truncation import PRECISIONS, Truncation
from tailcut.weights.planning.byte_budget import ByteBudget, byte_budget
from tailcut.weights.planning.counts import check_named_counts
from tailcut.weights.planning.settings import (
    EXCLUDED,
    NOT_INCLUDED,
    Setting,
    TensorPlan,
    plan_tensors,
    reasons_to_leave,
)
from tailcut.weights.regularization.edit import RegularizeEdit
from tailcut.weights.regularization.energy import (
    Loss,
    energy,
    lost_of_trained,
    percent,
    total_lost,
    warn_of_loss,
    which_are_trained,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegularizedTensor(Report):
    """One tensor that became coefficients.

    `energy_lost` is the part of its sum of squares that lies in the coefficients left out, 0 to 1; None where it
    cannot be measured (on the meta device).
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    order_weights: tuple[int, ...]
    num_parameters: int
    num_kept: int
    energy_lost: float | None


@dataclass(frozen=True)
class SkippedTensor(Report):
    """One parameter, or weight that is quantised already, that was left as it was, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class RegularizationReport(Report):
    """Report of `regularize`: tensors that became coefficients, and skipped ones with the reason.

    Attributes:
        num_parameters: numbers in the tensors that became coefficients.
        num_kept: coefficients that are kept of them.
        energy_lost: the part of their energy (the sum of squares) that lies in the coefficients left out.
        energy_lost_of_trained: the same of those weights only that are not as a random initialisation leaves them; None
            where there is none, or none of them lost anything.
        tensors: those that became coefficients.
        skipped: those that did not.
        planned: what the bytes of the file will be spent on, with `target_bytes`; None without.
    """

    num_parameters: int
    num_kept: int
    energy_lost: float | None
    energy_lost_of_trained: float | None
    tensors: tuple[RegularizedTensor, ...]
    skipped: tuple[SkippedTensor, ...]
    planned: ByteBudget | None = None

    def __str__(self) -> str:
        entries = [(entry.name, sizes(entry.shape), *_figures(entry)) for entry in self.tensors]
        # What a random weight loses was not learned, and is the part that is cut: no news.
        columns = 4 if self.energy_lost_of_trained is None else 5
        rows = [row[:columns] for row in (*entries, ("in all", "", *_figures(self)))]
        header = ("regularised", "shape", "numbers", "kept", "energy lost")[:columns]
        text = table(header, rows, align="<<>>>"[:columns])
        if self.skipped:
            skipped = [(tensor.name, sizes(tensor.shape), tensor.reason) for tensor in self.skipped]
            text += "\n\n" + table(("left as it is", "shape", "why"), skipped)
        if self.planned is not None:
            text += f"\n\n{self.planned}"
        return text


def _figures(entry: RegularizedTensor | RegularizationReport) -> tuple[str, str, str]:
    return f"{entry.num_parameters:,}", f"{entry.num_kept:,}", percent(entry.energy_lost)


def regularize(
    model: nn.Module,
    *,
    keep_ratio: float | None = None,
    num_kept: int | Mapping[str, int] | None = None,
    target_bytes: int | None = None,
    axes: str | Sequence[int] = "all",
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    min_kept: int = 1,
    order_weights: Sequence[int] | None = None,
    precision: str = "float32",
    warn: bool = True,
) -> RegularizationReport:
    """Replace the weights of `model` by the first coefficients of their DCT. Changes the model.

    Each chosen parameter W becomes a vector of n coefficients in the canonical order, and W is computed from
    it in every forward (Frequency Regularization, equation 2; orthonormal here). At keep_ratio 1 the outputs
    change by rounding only. Parameters stay the same objects, so an optimiser made before (and that has
    no state yet, which would have the weights' shapes) goes on; tied weights
    share one vector; frozen parameters stay frozen.

    Left are normalisation, the padding of embeddings, and frozen parameters of a network that trains others, unless
    `include` (or `num_kept`) has their full names. Where everything is frozen, nothing is left for that.

    Args:
        model: any network but a fused view of one; weights of the layers in `tailcut.weights.layers.LAYERS` are
            chosen by default.
        keep_ratio: part of each tensor's coefficients to keep, above 0, at most 1. 1 if nothing is given.
        num_kept: instead of a ratio: how many coefficients of each tensor, or a dict by name (then only those
            named are regularised, unless `include` says otherwise).
        target_bytes: instead: how large the file shall be, once it is compressed (`tailcut.compress`) or trained for
            bytes (`tailcut.RateLoss`): equal counts for all tensors, about as many as there is room for beside all
            other numbers. The report says what will take most.
        axes: "all", or the axes to transform; the others are kept whole.
        include: shell-style patterns on names ("features.*.weight", "*.bias"); all layers' weights when None.
        exclude: patterns of names to leave as they are.
        overrides: pattern -> settings (keep_ratio or num_kept, axes, order_weights, min_kept,
            precision).
        min_kept: the fewest coefficients a ratio leaves of a tensor.
        order_weights: one integer per transformed axis: coefficients are ordered by the weighted sum of
            their index. Ones when None. Tensors with fewer axes use the first ones.
        precision: "float32"; or "float16" or "bfloat16": the forward rounds the float32 coefficients to it
            (straight-through).
        warn: warn where much of what a trained network has learned is left out. False where it is trained next.

    Returns:
        A report that prints as a table: each regularised tensor (of a trained network with the energy it lost), and
        each one left with the reason.

    Warns:
        EnergyWarning: weights that look trained lose more than 1 % of their energy (their sum of squares): expect
            the network to be less accurate. Weights as a random initialisation leaves them do not count: in these all
            slices along an axis have the same energy but for chance.

    Raises:
        ArgumentError: a setting is out of range, a pattern matches nothing, coefficients are too large for the
            type they are kept in or rounded to, or the model is a fused view; the model is unchanged.
        StructureError: the model is regularised already.

    >>> import torch
    >>> print(regularize(torch.nn.Linear(20, 10), keep_ratio=0.1))
    regularised  shape    numbers  kept
    -----------  -------  -------  ----
    weight       10 x 20      200    20
    in all                    200    20
    <BLANKLINE>
    left as it is  shape  why
    -------------  -----  --------------------------------------
    bias           10     not a layer weight; name it in include
    """
    _check_model(model)
    if sum(amount is not None for amount in (keep_ratio, num_kept, target_bytes)) > 1:
        raise ArgumentError("give either keep_ratio or num_kept, or target_bytes")
    planned = None if target_bytes is None else byte_budget(model, target_bytes, include=include, exclude=exclude)
    if planned is not None:
        num_kept = planned.num_kept
    counts = check_named_counts(num_kept) if isinstance(num_kept, Mapping) else None
    whole = keep_ratio is None and num_kept is None
    setting = Setting(
        keep_ratio=1.0 if whole else keep_ratio,
        num_kept=None if isinstance(num_kept, Mapping) else num_kept,
        axes=axes,
        order_weights=order_weights,
        min_kept=min_kept,
        precision=precision,
    )
    # The counts of a plan are of all that it could choose from.
    found = reasons_to_leave(model, include, exclude, counts if planned is None else None)
    chosen, skipped = _choose(model, found)
    plans = plan_tensors(chosen, setting, counts, overrides or {})
    losses = _attach_all(plans, [entry.parameter for entry, _ in found if entry.is_weight and entry.obstacle is None])
    finish_attaching(model)
    add_edit(model, RegularizeEdit.of(model))
    report = replace(_report(plans, losses, skipped), planned=planned)
    if warn:
        warn_of_loss(losses, stacklevel=2)
    _log.debug(f"regularised {len(plans)} tensors: {report.num_kept:,} of {report.num_parameters:,} numbers kept")
    return report


def _check_model(model: nn.Module) -> None:
    """Raise unless it is a network that is not regularised yet, and no view of one."""
    check_module("regularize", model)
    if truncated_tensors(model):
        raise StructureError(
            "the model is regularised already; cut it further with TailTruncation, or start from to_dense(model)"
        )
    view = view_in(model)
    if view is not None:
        raise ArgumentError(
            f"{view or 'the model'} is a {type(model.get_submodule(view)).__name__}, which only runs another network, "
            "its .source: regularise first, and fuse the regularised network"
        )


Network = TypeVar("Network", bound=nn.Module)


@overload
def to_dense(model: NetworkView) -> nn.Module: ...  # a copy of its source


@overload
def to_dense(model: Network) -> Network: ...


def to_dense(model: nn.Module) -> nn.Module:
    """Return a copy of `model` with plain weights and plain state_dict keys; the model is not changed.

    Args:
        model: a regularised network, or a fused view of one, or one with fused parts (a plain one is just copied).

    Returns:
        The dense network: same class, device, type, mode and outputs, nothing of Tailcut in it.

    Raises:
        ArgumentError: no network.
    """
    check_module("to_dense", model)
    with torch.inference_mode(False), torch.no_grad():
        dense = deepcopied(without_views(model))
        modules = dict(dense.named_modules(remove_duplicate=False))
        for tensor in truncated_tensors(dense):
            frozen = not tensor.vector.requires_grad
            weight = nn.Parameter(tensor.truncation.expand(tensor.vector).detach().clone(), requires_grad=not frozen)
            for name in (tensor.name, *tensor.aliases):
                path, _, attribute = name.rpartition(".")
                detach(modules[path], attribute, weight)
    finish_detaching(dense)
    record = record_of(dense)
    set_record(dense, Record(record.base, [edit for edit in record.edits if not isinstance(edit, RegularizeEdit)]))
    return dense


def _choose(
    model: nn.Module, found: Sequence[tuple[Candidate, str | None]]
) -> tuple[list[Candidate], list[SkippedTensor]]:
    chosen = [candidate for candidate, reason in found if reason is None]
    skipped = [
        SkippedTensor(candidate.names[0], tuple(_shape(candidate)), reason)
        for candidate, reason in found
        if reason is not None
    ]
    skipped += [
        SkippedTensor(name, shape, f"quantised already ({dtype})") for name, shape, dtype in quantized_weights(model)
    ]
    if not chosen:
        told = sorted(skipped, key=lambda tensor: tensor.reason in (EXCLUDED, NOT_INCLUDED))[:3]
        why = "; ".join(f"{tensor.name}: {tensor.reason}" for tensor in told) or "it has no parameters"
        raise ArgumentError(f"nothing to regularise in {len(found)} parameters ({why})")
    return chosen, skipped


def _truncation(plan: TensorPlan) -> Truncation:
    parameter = plan.candidate.parameter
    return Truncation(
        plan.shape,
        plan.num_kept,
        axes=plan.axes,
        order_weights=plan.order_weights,
        precision=plan.precision,
        device=parameter.device,
        dtype=parameter.dtype,
    )


def narrowest_type(dtype: torch.dtype, precision: str) -> torch.dtype:
    """Of the type of coefficients and that of their precision the one with the smaller range."""
    types = [each for each in (dtype, PRECISIONS[precision]) if each is not None]
    return min(types, key=lambda each: torch.finfo(each).max)


def check_fits(what: str, largest: float, dtype: torch.dtype, advice: str) -> None:
    """Raise `ArgumentError`, with the advice, if `dtype` has no number as large as the largest of `what`."""
    limit = torch.finfo(dtype).max
    if largest > limit:
        raise ArgumentError(f"{what} reach {largest:,.0f}, and {dtype} holds at most {limit:,.0f}; {advice}")


def _check_range(plan: TensorPlan, truncation: Truncation) -> None:
    """Raise `ArgumentError` if a coefficient would be infinite: one may be as large as all the weight's numbers."""
    weight = plan.candidate.parameter
    narrowest = narrowest_type(weight.dtype, plan.precision)
    if weight.is_meta or torch.finfo(narrowest).max >= torch.finfo(torch.float32).max:
        return
    check_fits(
        f"{plan.candidate.names[0]}: its coefficients",
        float(truncation.project(weight).abs().max()),
        narrowest,
        'regularise the network in float32 (model.float(), precision="float32"), or scale the weight',
    )


def _attach_all(plans: Sequence[TensorPlan], weights: Sequence[nn.Parameter]) -> list[Loss]:
    """Replace weights by coefficients (changes their modules), all or none; return what each lost of its energy.

    `weights` are all of the network's, by which small ones are known to be trained.
    """
    with torch.inference_mode(False), torch.no_grad():
        truncations = [_truncation(plan) for plan in plans]
        for plan, truncation in zip(plans, truncations, strict=True):
            _check_range(plan, truncation)
        cut = [plan.candidate.parameter for plan in plans if plan.num_kept < plan.candidate.parameter.numel()]
        known = set(map(id, cut))
        trained = which_are_trained(cut, (weight for weight in weights if id(weight) not in known))
        is_trained = {id(parameter): is_one for parameter, is_one in zip(cut, trained, strict=True)}
        return [
            _attach(plan, truncation, is_trained=is_trained.get(id(plan.candidate.parameter), False))
            for plan, truncation in zip(plans, truncations, strict=True)
        ]


def _attach(plan: TensorPlan, truncation: Truncation, *, is_trained: bool) -> Loss:
    """Replace a weight by coefficients (changes its modules), and return its loss of energy."""
    parameter, name = plan.candidate.parameter, plan.candidate.names[0]
    before = energy(parameter)
    cuts = plan.num_kept < parameter.numel()
    attach(plan.candidate, truncation)
    return Loss(name, before, energy(parameter) if cuts else before, is_trained)  # now the vector


def _report(
    plans: Sequence[TensorPlan], losses: Sequence[Loss], skipped: Sequence[SkippedTensor]
) -> RegularizationReport:
    tensors = tuple(
        RegularizedTensor(
            plan.candidate.names[0],
            plan.shape,
            plan.axes,
            plan.order_weights,
            torch.Size(plan.shape).numel(),
            plan.num_kept,
            loss.part,
        )
        for plan, loss in zip(plans, losses, strict=True)
    )
    return RegularizationReport(
        sum(tensor.num_parameters for tensor in tensors),
        sum(tensor.num_kept for tensor in tensors),
        total_lost(losses),
        lost_of_trained(losses),
        tensors,
        tuple(skipped),
    )


def _shape(candidate: Candidate) -> Sequence[int]:
    uninitialised = isinstance(candidate.parameter, UninitializedParameter)
    return () if uninitialised else candidate.parameter.shape
