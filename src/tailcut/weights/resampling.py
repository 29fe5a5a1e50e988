"""`resample`: truncated weights evaluated for more or fewer channels, since they are smooth along that axis."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _NormBase

from tailcut.errors import StructureError
from tailcut.printing import Report, sizes, table
from tailcut.structure import record_of, source_of
from tailcut.transform.exact import exact
from tailcut.transform.order import l1_order_index
from tailcut.weights.layers import Candidate, candidates, find_layer
from tailcut.weights.parametrization.truncated_tensors import TruncatedTensor, truncated_tensors
from tailcut.weights.regularization.edit import RegularizeEdit
from tailcut.weights.regularization.regularize import check_fits, narrowest_type, regularize


@dataclass(frozen=True)
class ResampledTensor(Report):
    """One truncated tensor on both grids.

    Attributes:
        name: its plain name.
        before: its shape in the first network.
        after: its shape in the other one.
        num_before: coefficients kept before.
        num_after: coefficients kept now: fewer where the tensor has no more numbers; more where the highest frequency
            along an axis that grew was kept, since there are new ones below those of other axes.
        energy_lost: part of the coefficients' energy, 0 to 1, that the smaller tensor has no place for.
    """

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    num_before: int
    num_after: int
    energy_lost: float


@dataclass(frozen=True)
class ResamplingReport(Report):
    """Report of `resample`.

    Attributes:
        tensors: the truncated tensors, in the order of the modules.
        interpolated: names of what has one value per channel (batch norm, biases) and got more or fewer of them.
    """

    tensors: tuple[ResampledTensor, ...]
    interpolated: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            (
                tensor.name,
                sizes(tensor.before),
                sizes(tensor.after),
                f"{tensor.num_before:,}",
                f"{tensor.num_after:,}",
                f"{tensor.energy_lost:.2%}" if tensor.energy_lost else "",
            )
            for tensor in self.tensors
        ]
        text = table(("resampled", "before", "after", "kept", "now", "energy lost"), rows, align="<<<>>>")
        if self.interpolated:
            text += f"\n\ninterpolated, one value a channel: {len(self.interpolated)} tensors"
        return text


def resample(model: nn.Module, other: nn.Module) -> ResamplingReport:
    """Give `other`, the same network with other numbers of channels, the weights of `model`. Changes `other`.

    A truncated weight is a sum of a few cosines along its channels: a smooth function that the tensor samples at its
    channels' centres. So the same coefficients on a finer or coarser grid are nearly the same network, as long as the
    grid carries the highest cosine and everything else with one value per channel (batch norm, biases) is smooth too.
    A sum over n input channels is a mean times n: coefficients are scaled by sqrt(outputs' ratio / inputs' ratio)
    for an orthonormal DCT, which is 1 where all channels grow alike. Values per channel are interpolated linearly.

    It is not the same network where something depends on how many channels there are: attention divides by the root
    of their number (`nn.MultiheadAttention` is refused). Measure the result; batch norm's statistics can be measured
    again (`channels.recalibrate`).

    Args:
        model: a regularised network, or a fused view of one; it is not changed.
        other: the same class with other widths, not regularised; its own weights are replaced. What it has
            in the same shape is copied. It keeps its device and type.

    Returns:
        A report that prints as a table.

    Raises:
        StructureError: `model` is not regularised or `other` is; names or numbers of axes differ; a tensor that is not
            truncated, a kernel, or an axis that is not transformed has another size. `other` is unchanged.
        ArgumentError: a number does not fit into the type of `other` (float16). `other` is unchanged.

    >>> import torch
    >>> wide, narrow = (torch.nn.Sequential(torch.nn.Linear(4, n), torch.nn.Linear(n, 2)) for n in (64, 16))
    >>> _ = regularize(wide, num_kept=6)
    >>> print(resample(wide, narrow))
    resampled  before  after   kept  now  energy lost
    ---------  ------  ------  ----  ---  -----------
    0.weight   64 x 4  16 x 4     6    6
    1.weight   2 x 64  2 x 16     6    6
    <BLANKLINE>
    interpolated, one value a channel: 1 tensors
    """
    model, other = source_of(model), source_of(other)
    sources = truncated_tensors(model)
    places = {candidate.names[0]: candidate for candidate in candidates(other)}
    _check_networks(sources, model, other)
    for source in sources:
        _check_range(source, _check_tensor(source, places.get(source.name)))
    values = {name: value for name, value in _values(model).items() if "parametrizations" not in name.split(".")}
    truncated = {name for source in sources for name in (source.name, *source.aliases)}
    _check_values(values, {name: value for name, value in _values(other).items() if name not in truncated})
    with torch.inference_mode(False), torch.no_grad():
        regularize(
            other,
            num_kept={source.name: _count_in(source, tuple(places[source.name].parameter.shape)) for source in sources},
            overrides={source.name: _setting(source) for source in sources},
            warn=False,  # the coefficients come from elsewhere
        )
        targets = {target.name: target for target in truncated_tensors(other)}
        moved = tuple(_move(source, targets[source.name], _roles(places[source.name])) for source in sources)
        interpolated = tuple(_copy_values(values, _values(other)))
    return ResamplingReport(moved, interpolated)


def _values(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers as a state dict has them: what it leaves out is made from the widths."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def _check_networks(sources: list[TruncatedTensor], model: nn.Module, other: nn.Module) -> None:
    if not sources:
        raise StructureError("nothing to resample: only truncated weights are smooth along channels; regularize first")
    if truncated_tensors(other):
        raise StructureError("the other network is regularised already; give a fresh one")
    changes, others = (
        [edit.kind for edit in record_of(network).edits if not isinstance(edit, RegularizeEdit)]
        for network in (model, other)
    )
    if changes != others:
        what = [", ".join(kinds) or "nothing" for kinds in (changes, others)]
        raise StructureError(
            f"before it was regularised, the network was changed by {what[0]}, the other one by {what[1]}: change the "
            "other one alike first"
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            raise StructureError(f"{name}: attention divides by the root of its channels' number, so it cannot change")


def _check_tensor(source: TruncatedTensor, place: Candidate | None) -> Candidate:
    """Return the parameter of the same name, which must fit the tensor."""
    if place is None:
        raise StructureError(f"the other network has no parameter {source.name!r}; expected the same class")
    if place.obstacle is not None:
        raise StructureError(f"{source.name} of the other network cannot be regularised: {place.obstacle}")
    shape = tuple(place.parameter.shape)
    if len(shape) != len(source.shape):
        raise StructureError(
            f"{source.name}: expected as many axes as in {source.shape}, the other network has {shape}"
        )
    roles = _roles(place)
    tied = {_roles_at(*owner) for owner in place.owners}
    for axis, (before, after) in enumerate(zip(source.shape, shape, strict=True)):
        if before == after:
            continue
        where = f"{source.name}: axis {axis} has {before} places, the other network's {after}"
        if roles is None or roles[axis] not in ("output", "input"):
            raise StructureError(f"{where}; only channels can be resampled")
        if len({None if there is None else there[axis] for there in tied}) > 1:
            raise StructureError(f"{where}, and it is tied: its layers sum over this axis or make it; untie it first")
        if axis not in source.axes:
            raise StructureError(f"{where}; it is not transformed, so nothing is known between its places")
    return place


def _check_range(source: TruncatedTensor, place: Candidate) -> None:
    scale = _scale(source.shape, tuple(place.parameter.shape), _roles(place))
    narrowest = narrowest_type(place.parameter.dtype, source.truncation.precision)
    _check_numbers(f"{source.name}: its coefficients", source.vector.detach() * scale, narrowest)


def _check_numbers(what: str, values: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise `ArgumentError` if a finite number would become infinite."""
    finite = values[values.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    check_fits(what, largest, dtype, "resample into a network in float32 (other.float())")


def _check_values(values: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> None:
    for name in values.keys() ^ others.keys():
        raise StructureError(f"{name!r} is in only one of the two networks; expected the same class")
    for name, value in values.items():
        before, after = tuple(value.shape), tuple(others[name].shape)
        if before != after and not (value.is_floating_point() and _has_one_axis(before, after)):
            raise StructureError(
                f"{name} has shape {before}, the other network's {after}, and it is not truncated: regularise it too"
            )
        if value.is_floating_point() and others[name].is_floating_point():
            _check_numbers(f"{name}: its numbers", value, others[name].dtype)


def _has_one_axis(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Return whether both are one value per channel: vectors, but for axes of size 1."""
    same_place = [size > 1 for size in before] == [size > 1 for size in after]
    return same_place and math.prod(before) == max(before, default=0) and math.prod(after) == max(after, default=0)


def _roles(place: Candidate) -> tuple[str, ...] | None:
    """Return the meaning of the axes in the layer table, or None for a parameter that is not in it."""
    return _roles_at(*place.owners[0])


def _roles_at(module: nn.Module, attribute: str) -> tuple[str, ...] | None:
    if isinstance(module, _NormBase):
        return ("output",)
    layer = find_layer(module)
    if layer is None:
        return None
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return None  # gates are concatenated along this axis, so that it has no smooth order
    if attribute in layer.biases:
        return ("output",)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "row", "output"  # a row is looked up; there is no sum over them
    return layer.roles(attribute)


def _count_in(source: TruncatedTensor, shape: tuple[int, ...]) -> int:
    """Return how many coefficients the tensor of another shape needs, so that it has all of the source's.

    As many, unless an axis grows whose highest frequency was kept: there the order has new ones between.
    """
    count, total = source.num_kept, math.prod(shape)
    corner = source.truncation.corner_shape
    grows = any(kept == old < new for kept, old, new in zip(corner, source.shape, shape, strict=True))
    if not grows:
        return min(count, total)
    order = {"axes": source.axes, "weights": source.truncation.order_weights}
    own = l1_order_index(source.shape, count, **order)
    last = own[(own < np.array(shape)).all(1)][-1]
    while True:
        (places,) = np.nonzero((l1_order_index(shape, min(count, total), **order) == last).all(1))
        if len(places):
            return max(min(source.num_kept, total), int(places[0]) + 1)
        count *= 2


def _setting(source: TruncatedTensor) -> dict[str, Any]:
    truncation = source.truncation
    return {
        "axes": list(source.axes),
        "order_weights": list(truncation.order_weights),
        "precision": truncation.precision,
    }


def _move(source: TruncatedTensor, target: TruncatedTensor, roles: tuple[str, ...] | None) -> ResampledTensor:
    corner, positions = source.corner().detach(), target.truncation.positions
    placed = corner.new_zeros(target.truncation.corner_shape)
    shared = tuple(slice(min(pair)) for pair in zip(corner.shape, placed.shape, strict=True))
    placed[shared] = corner[shared]
    kept = placed.reshape(-1)[positions.to(placed.device)]
    carried = (
        torch.zeros_like(placed).reshape(-1).index_copy(0, positions.to(placed.device), kept).reshape(placed.shape)
    )
    missing = corner.clone()
    missing[shared] -= carried[shared]
    energy = float(exact(corner).square().sum())
    lost = float(exact(missing).square().sum()) / energy if energy else 0.0
    target.vector.copy_(kept * _scale(source.shape, target.shape, roles))
    return ResampledTensor(source.name, source.shape, target.shape, source.num_kept, target.num_kept, lost)


def _scale(before: tuple[int, ...], after: tuple[int, ...], roles: tuple[str, ...] | None) -> float:
    """Return the factor that preserves the outputs when an axis changes its length.

    An orthonormal coefficient grows with the root of the axis, a sum over it with its length.
    """
    scale = 1.0
    for old, new, role in zip(before, after, roles or (), strict=roles is not None):
        scale *= math.sqrt(old / new if role == "input" else new / old)
    return scale


def _copy_values(values: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Copy what has the same shape, interpolate the rest; gives the names of the rest."""
    for name, value in values.items():
        target = others[name]
        if value.shape == target.shape:
            target.copy_(value)
            continue
        line = value.detach().reshape(1, 1, -1).to(torch.promote_types(value.dtype, torch.float32))
        # The centres of channels are those that the DCT samples at; never beyond the given values (variances!).
        target.copy_(interpolate(line, size=target.numel(), mode="linear", align_corners=False).reshape(target.shape))
        yield name
