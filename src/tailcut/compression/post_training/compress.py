"""`compress`: a small file from a trained network and some of its inputs, without training."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from tailcut.arguments import check_positive, check_seed, is_number
from tailcut.compression.post_training.correction import MAX_INPUTS, CoarseStepError, Original, write_numbers
from tailcut.compression.post_training.refit import Refit
from tailcut.compression.sensitivity.fisher import GRADIENT_BATCH, Drawn, check_measurable, measure_sensitivity
from tailcut.errors import ArgumentError
from tailcut.files import check_output_path, write_atomically
from tailcut.format.container.contents import decode
from tailcut.format.container.streams import decode_values
from tailcut.format.encoder.quantization import (
    Rounding,
    coarsest_eighth,
    completed,
    finest_eighth,
    naming_exact,
    types_of_others,
)
from tailcut.format.encoder.sensitivity import Sensitivity
from tailcut.format.encoder.step_search import (
    COARSEST,
    FINEST,
    PARTS_PER_OCTAVE,
    checked_max_bytes,
    coarsest_fitting,
    finest_step,
    too_few,
)
from tailcut.format.network.tensors import NetworkTensors, current_tensors, network_tensors
from tailcut.format.network.verification import check_not_wrapped, warn_of_wrapper
from tailcut.format.quantized import Coded, check_codable
from tailcut.format.quantized.values import FineStepError, step_size
from tailcut.format.save import (
    ContentSettings,
    check_finite,
    checked_step,
    encode_network,
    exact_within,
    warn_of_nothing_left,
)
from tailcut.format.save_report import SaveReport, save_report
from tailcut.limits import non_finite_allowed
from tailcut.model_inputs import Loader, ModelInputs, first_inputs
from tailcut.structure import (
    check_module,
    check_not_shared,
    deepcopied,
    in_evaluation,
    record_of,
    running_eagerly,
    separate,
    without_views,
)
from tailcut.transform.exact import check_has_float64

Network = TypeVar("Network", bound=nn.Module)

MAX_GRADIENTS = 4000

COARSER = (2, 3, 4, 6)
"""So many eighths of an octave above the coarsest step that was found good others are tried: a metric of some hundred
inputs goes up and down by some of them, so that one step too coarse does not rule out all that are coarser."""

MAX_FINER = 3
"""So many times a finer step is tried where fitted weights leave some of the bytes that were asked for."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompressReport(SaveReport):
    """Report of `compress`: that of `save`, and what was measured.

    Attributes:
        step: of the whole network, in units of the root of the loss; see `tailcut.save`. 0 where its numbers of 16 bits
            take no more bytes as they are.
        before: what `evaluate` gave for the network; None without it.
        after: what it gave for the network of the file.
    """

    step: float
    before: float | None
    after: float | None

    def __str__(self) -> str:
        measured = ""
        if self.after is not None and self.before is not None:
            # A part of all, such as an accuracy, reads better as a percentage; a loss or a score is no such thing.
            is_part = 0 <= self.after <= 1 and 0 <= self.before <= 1
            after, before = (f"{100 * x:.2f} %" if is_part else f"{x:.4g}" for x in (self.after, self.before))
            measured = f"; {after}, before {before}"
        return f"{self.size_text}{measured}"


@torch.inference_mode(False)
def compress(
    model: Network,
    path: str | Path,
    loader: Loader,
    *,
    max_bytes: int | None = None,
    max_drop: float | None = None,
    step: float | None = None,
    evaluate: Callable[[Network], float] | None = None,
    sensitivity: Sensitivity | None = None,
    num_gradients: int | None = None,
    loss: Drawn | None = None,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    registered: bool = True,
    levels: Sequence[float] = (),
) -> CompressReport:
    """Write a trained network to a small file: quantised, without training. Does not change the model.

    Each tensor's step follows from how much it matters (`measure_sensitivity`), and numbers make good what the rounding
    of those before them spoiled: within a tensor, and from layer to layer, where plain weights, biases and batch norm's
    statistics are fitted to the inputs that the rounded layers before them give.

    Args:
        model: any trained network, regularised or not; it is compressed as it is in evaluation.
        path: the file.
        loader: batches of inputs, as the network takes them, from training data; some hundred inputs are enough. A
            `DataLoader` will do, whose targets are not looked at. A dict of tensors is given by name; several inputs
            by place are a tuple in the place of the one, `((image, mask), targets)`.
        max_bytes: the most bytes of the file.
        max_drop: instead: how much lower the metric of `evaluate` may be; it is called for some fifteen networks.
        step: instead: the step itself; 1 makes each number's error worth about a twelfth of a unit of the loss.
        evaluate: a metric of a network, the higher the better, on data that are not the test data.
        sensitivity: measured before; None measures it on `loader`, unless the file needs no rounding.
        num_gradients: for that; by the network's size when None.
        loss: for that: what the outputs are. None takes them for logits of classes, or for one number;
            "squared_error" for numbers, as those of a regression; or a function, see `measure_sensitivity`.
        seed: for that: of the draws.
        metadata: see `tailcut.save`.
        registered: see `tailcut.save`.
        levels: of a progressive file, see `tailcut.save`, to which `loader` goes too.

    Returns:
        The sizes, the step that was found, and the metric before and after.

    Raises:
        ArgumentError: not just one of `max_bytes`, `max_drop` and `step` is given, `max_drop` without `evaluate`,
            `loss` beside `sensitivity`, the metric of the network itself is not finite, there are no inputs, no file
            can lie at `path`, or no step makes the file so small or so good.
        MissingExtraError: the network has over a million numbers, and numba (the extra `fast`) is not installed.
    """
    check_module("compress", model)
    check_has_float64("compress", model)
    check_not_wrapped(model, registered=registered)
    warn_of_wrapper(without_views(model), registered=registered)
    check_goal(max_bytes, max_drop, step)
    _check_measuring(sensitivity, num_gradients, loss, seed)
    _check_metric(max_drop, evaluate)
    check_output_path(path)  # the rest takes up to hours
    _check_tensors(current_tensors(model), sensitivity, is_rounded=max_bytes is None)
    settings: ContentSettings = {"metadata": metadata, "registered": registered, "levels": levels}
    check_room(model, max_bytes, settings)
    count = usual_gradients(model) if num_gradients is None else num_gradients
    batches = first_inputs(loader, max(MAX_INPUTS, GRADIENT_BATCH * count), whole=GRADIENT_BATCH)
    own = in_evaluation(deepcopied(without_views(model)))
    separate(own.state_dict(keep_vars=True).values())
    work = _Work(own, batches, settings, partial(_measured, sensitivity, model, batches, count, loss, seed))
    before = None if evaluate is None else _metric(evaluate, work.model)
    with running_eagerly(own):
        if evaluate is not None and before is not None and max_drop is not None:
            made = work.as_good(evaluate, _least(before, max_drop))
        else:
            made = work.made(checked_step(step)) if max_bytes is None else work.within(max_bytes)
    write_atomically(path, made.content)  # before the user's function, which may fail, is called for the report alone
    if evaluate is not None and made.metric is None:
        made = made._replace(metric=_metric(evaluate, made.network))
    _check_left(made.network, work, is_by_metric=max_drop is not None)
    report = _report(path, work, made, before)
    _log.info("saved %s", report)
    return report


def _check_measuring(sensitivity: Sensitivity | None, num_gradients: int | None, loss: Drawn | None, seed: int) -> None:
    """Raise `ArgumentError` if the sensitivity cannot be measured so, or is there and would not be measured."""
    check_seed(seed)
    if num_gradients is not None:
        check_positive("num_gradients", num_gradients)
    if loss is not None and sensitivity is not None:
        raise ArgumentError("loss= is for measuring the sensitivity: give it to measure_sensitivity, or one of the two")


def _measured(
    known: Sensitivity | None,
    model: nn.Module,
    batches: Sequence[ModelInputs],
    num_gradients: int,
    loss: Drawn | None,
    seed: int,
) -> Sensitivity:
    if known is not None:
        return known
    _log.info("measuring how much each number matters")
    return measure_sensitivity(model, batches, num_gradients=num_gradients, loss=loss, seed=seed)


def _least(before: float, max_drop: float) -> float:
    """Return the lowest metric that is allowed."""
    if not math.isfinite(before):
        raise ArgumentError(f"evaluate gives {before} for the network itself, from which nothing can fall by max_drop")
    return before - max_drop


def check_goal(max_bytes: object, max_drop: float | None, step: object) -> None:
    """Raise `ArgumentError` unless just one goal is given, a drop as a number of 0 or more."""
    if sum(value is not None for value in (max_bytes, max_drop, step)) != 1:
        raise ArgumentError("give one of max_bytes, max_drop and step: each sets the others")
    if max_drop is not None and not (is_number(max_drop) and 0 <= max_drop < math.inf):
        raise ArgumentError(f"the metric can fall by 0 or more, got {max_drop!r}")
    if max_bytes is not None:
        checked_max_bytes(max_bytes)
    if step is not None:
        checked_step(step)


def check_room(model: nn.Module, max_bytes: int | None, settings: ContentSettings) -> None:
    """Raise an error if no file can hold the network, or if it has too many bytes even with all numbers rounded away.

    Args:
        model: the network.
        max_bytes: the most bytes; None for any number.
        settings: of `encode_network`: what else lies in the file.

    Raises:
        ArgumentError: numbers, metadata or levels cannot be packed, or not within `max_bytes`.
        StructureError: the network is not what its class and edits make.
    """

    def size_of(step: float) -> int:
        return len(encode_network(model, dtype="quantized", step=step, **settings)[0])

    with suppress(FineStepError):  # numbers beyond the coarsest step: what they do is told where the network is run
        if max_bytes is None:
            size_of(step_size(COARSEST))
        else:
            with naming_exact(current_tensors(model)):
                coarsest_fitting(size_of, max_bytes)


def _num_rounded(tensors: NetworkTensors) -> int:
    """Return how many numbers of a network are rounded: all of floating point."""
    others = (other.tensor for other in tensors.others)
    kept = sum(entry.num_kept for entry in tensors.coefficients)
    return kept + sum(tensor.numel() for tensor in others if tensor.is_floating_point())


def _check_tensors(tensors: NetworkTensors, sensitivity: Sensitivity | None, *, is_rounded: bool) -> None:
    """Raise an error unless the network's numbers can be rounded, and first measured if they were not.

    With a number of bytes the exact file may do, so that it is not sure that they will be rounded.
    """
    check_not_shared("rounding", tensors.named())
    if not non_finite_allowed(False):
        check_finite(tensors.others, "train the network again, or begin from an earlier state of it")
    if is_rounded:
        check_codable(_num_rounded(tensors))
    if sensitivity is None:
        check_measurable(tensors)
    else:
        completed(sensitivity, tensors)


def _check_metric(max_drop: object, evaluate: object) -> None:
    if max_drop is not None and evaluate is None:
        raise ArgumentError("max_drop needs evaluate, a function of a network that gives the metric")
    if evaluate is not None and not callable(evaluate):
        raise ArgumentError(f"evaluate must be a function of a network, got {evaluate!r}")


def _check_left(network: nn.Module, work: "_Work", *, is_by_metric: bool) -> None:
    """Warn where everything was rounded away."""
    tensors = network_tensors(network, work.edits)
    numbers = [entry.values for entry in tensors.coefficients], [other.tensor for other in tensors.others]
    hint = "; and evaluate= must be the higher the better (of a loss its negative)" if is_by_metric else ""
    warn_of_nothing_left(tensors, *numbers, hint=hint)


def _metric(evaluate: Callable[[Any], float], network: nn.Module) -> float:
    metric = evaluate(deepcopied(network))  # which may move it elsewhere, change its type, or count its calls
    try:
        return float(metric)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"evaluate must return a number, got {type(metric).__name__}") from error


class _Made(NamedTuple):
    """A file as it would be.

    Attributes:
        step: of the network.
        content: the file.
        network: what it holds.
        metric: of that network, where it was measured.
    """

    step: float
    content: bytes
    network: nn.Module
    metric: float | None = None


def _is_better(made: _Made, best: _Made | None, least: float) -> bool:
    """Return whether a file reaches the metric, in fewer bytes than the best until now."""
    is_good = made.metric is not None and made.metric >= least
    return is_good and (best is None or len(made.content) < len(best.content))


def _report(path: str | Path, work: "_Work", made: _Made, before: float | None) -> CompressReport:
    written = save_report(path, len(made.content), work.tensors)
    return CompressReport(**vars(written), step=made.step, before=before, after=made.metric)


class _Work:
    """A network, to be rounded at several steps by its sensitivity, which is measured once it is needed."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[ModelInputs],
        settings: ContentSettings,
        measured: Callable[[], Sensitivity],
    ) -> None:
        self.model, self.inputs, self.settings, self._measured = model, inputs, settings, measured
        self.edits = [edit.current(model) for edit in record_of(model).edits]
        self.tensors = network_tensors(model, self.edits)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        return completed(self._measured(), self.tensors)

    @cached_property
    def rounding(self) -> Rounding:
        types = types_of_others(self.tensors.others, None)
        return Rounding(self.tensors, types, bool(self.tensors.coefficients), self.sensitivity)

    @cached_property
    def _original(self) -> Original:
        names = self.rounding.rounded_by_rows
        return Original(self.model, self.inputs, Refit(self.model, names) if names else None)

    def made(self, step: float) -> _Made:
        """Return the file at that step."""
        known: dict[str, Coded] = {}

        def round_weight(name: str, weight: Tensor) -> Tensor:
            known[name], values = self.rounding.rounded_weight(name, weight, step)
            return values

        moved = self._original.corrected(self.rounding.values(step), round_weight)
        content = self._pack(moved, step, known)
        self._read_back(moved, content)
        return _Made(step, content, moved)

    def _read_back(self, network: nn.Module, content: bytes) -> None:
        """Give a network the numbers of the file that was made of it (changes the network)."""
        tensors = network_tensors(network, self.edits)
        vectors, values = decode_values(decode(content), tensors.coefficients, tensors.stored_others)
        names = [entry.name for entry in tensors.coefficients] + [other.name for other in tensors.others]
        write_numbers(network, dict(zip(names, vectors + values, strict=True)))

    def within(self, max_bytes: int) -> _Made:
        """Return the file at the finest step for at most so many bytes."""
        exact = exact_within(self.model, max_bytes, loader=self._level_inputs, **self.settings)
        if exact is not None:
            return _Made(0.0, exact, self.model)
        _log.info("searching for the finest step for %s bytes", max_bytes)
        step = finest_step(
            lambda size: len(self._pack(self.model, size)),
            max_bytes,
            finest=finest_eighth(self.sensitivity, self.tensors),
            coarsest=coarsest_eighth(self.sensitivity, self.tensors),
            estimate=self.rounding.estimated_bytes,
        )
        _log.info("fitting weights, biases and statistics to what is rounded")
        return self._used_up(self._fitted_within(step, max_bytes), max_bytes)

    def _fitted_within(self, step: float, max_bytes: int) -> _Made:
        """Return the file at a step, or at a coarser one: a fit makes it a little longer or shorter than it was."""
        made, coarser = self.made(step), 1
        coarsest = step_size(coarsest_eighth(self.sensitivity, self.tensors) + 8)
        while len(made.content) > max_bytes:
            if made.step > coarsest:
                raise too_few(max_bytes, len(made.content))
            made = self.made(made.step * 2.0 ** (coarser / PARTS_PER_OCTAVE))
            coarser *= 2
        return made

    def _used_up(self, made: _Made, max_bytes: int) -> _Made:
        """Return the file at a finer step, if it leaves bytes enough for one."""
        finer = self._parts_finer(max_bytes - len(made.content))
        for _ in range(MAX_FINER):
            if finer < 1:
                break
            try:
                longer = self.made(made.step * 2.0 ** (-finer / PARTS_PER_OCTAVE))
            except FineStepError:
                break
            if len(longer.content) <= max_bytes:
                made, finer = longer, self._parts_finer(max_bytes - len(longer.content))
            else:
                finer //= 2
        return made

    def _parts_finer(self, room: int) -> int:
        """Return how much finer a step so many bytes are enough for, in parts: a bit of each number halves it."""
        numbers = sum(entry.num_kept for entry in self.tensors.coefficients)
        numbers += sum(other.tensor.numel() for other in self.tensors.others)
        return int(8 * room * PARTS_PER_OCTAVE / max(1, numbers))

    def as_good(self, evaluate: Callable[[Any], float], least: float) -> _Made:
        """Return the smallest file of those that were tried whose network reaches that metric."""
        coarsest = coarsest_eighth(self.sensitivity, self.tensors)
        best, eighth = self._bisected(evaluate, least, coarsest, FINEST)
        if best is None:
            best, eighth = self._bisected(evaluate, least, FINEST, finest_eighth(self.sensitivity, self.tensors))
        if best is None:
            raise ArgumentError(f"no step keeps the metric at {least:.4f} or more: is evaluate= the same each time?")
        for coarser in (eighth + more for more in COARSER if eighth + more < coarsest):
            with suppress(CoarseStepError, FineStepError):
                made = self._measured_at(evaluate, coarser)
                best = made if _is_better(made, best, least) else best
        return best

    def _bisected(
        self, evaluate: Callable[[Any], float], least: float, coarse: int, fine: int
    ) -> tuple[_Made | None, int]:
        """Return the smallest good file of a bisection, and the coarsest step that was good, in eighths."""
        best: _Made | None = None
        while coarse - fine > 1:
            middle = (coarse + fine) // 2
            try:
                made = self._measured_at(evaluate, middle)
            except CoarseStepError:
                coarse = middle
                continue
            except FineStepError:
                fine = middle
                continue
            best = made if _is_better(made, best, least) else best
            if made.metric is not None and made.metric >= least:
                fine = middle
            else:
                coarse = middle
        return best, fine

    def _measured_at(self, evaluate: Callable[[Any], float], eighth: int) -> _Made:
        made = self.made(step_size(eighth))
        metric = _metric(evaluate, made.network)
        _log.info("%s bytes: %.4f", f"{len(made.content):,}", metric)
        return made._replace(metric=metric)

    @property
    def _level_inputs(self) -> Sequence[ModelInputs] | None:
        """The inputs for a file with levels, whose statistics, of each its own, count for the size."""
        return self.inputs if len(self.settings["levels"]) else None

    def _pack(self, model: nn.Module, step: float, known: Mapping[str, Coded] | None = None) -> bytes:
        return encode_network(
            model,
            dtype="quantized",
            step=step,
            sensitivity=self.sensitivity,
            loader=self._level_inputs,
            known=known,
            **self.settings,
        )[0]


def usual_gradients(model: nn.Module) -> int:
    """Return a usual number of gradients: the coefficients where these are few, 100 where only steps are chosen."""
    kept = sum(entry.num_kept for edit in record_of(model).edits for entry in edit.coefficients(model))
    return min(max(100, kept), MAX_GRADIENTS)
