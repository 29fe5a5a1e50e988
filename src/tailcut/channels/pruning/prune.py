"""`prune`: removes the least important channels of a network, and reports those that it could not remove."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from tailcut.channels.graph.groups import ChannelGraph, find_groups, units_of
from tailcut.channels.graph.shape_only import attempt
from tailcut.channels.graph.tracing import StoppedError, Trace
from tailcut.channels.pruning.edit import record_cut
from tailcut.channels.pruning.global_ranking import CostModel, select_by_budget
from tailcut.channels.pruning.rates import PAPER_RATES, named_rates
from tailcut.channels.pruning.report import PrunedLayer, PruneReport, SkippedChannels
from tailcut.channels.pruning.selection import (
    Limits,
    Rate,
    check_rate,
    check_scores,
    held_by_limits,
    is_scored,
    number_of,
    rates_for_dict,
    rates_for_list,
    select_by_rates,
)
from tailcut.channels.pruning.surgery import Cut, apply_cut, plan_cut
from tailcut.channels.pruning.verification import (
    accepted,
    failing_groups,
    failure_reason,
    lock_culprits,
    lock_rigid_groups,
    misread,
)
from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError, StructureError
from tailcut.structure import base_of, record_of
from tailcut.structure.views import unwrapped

Rates = float | str | Sequence[float] | Mapping[str, float]


_log = logging.getLogger(__name__)


def prune(
    model: nn.Module,
    example_input: Tensor | tuple[Tensor, ...],
    scores: Mapping[str, Tensor],
    rates: Rates | None = None,
    *,
    macs_ratio: float | None = None,
    params_ratio: float | None = None,
    ignore: str | Sequence[str] = (),
    min_channels: int = 1,
    round_to: int = 1,
    max_rate: float = 1.0,
) -> PruneReport:
    """Remove the channels with the lowest scores from a network. Changes the module.

    Channels that can only go together go together: those that are added, gated, tied, or taken one by one by a
    depthwise convolution; of grouped convolutions the same channels of each group. Such channels are found by one
    forward of the network as it is. What cannot be followed or cut stays, and the report says why. At the end the
    narrower network must run forward, and backward if it did before; if it does not, everything is put back, bit for
    bit, the channels whose number its code fixes stay too, and those that go are chosen again.

    Narrowed parameters are new `nn.Parameter` objects: make the optimiser afterwards. Tied ones stay tied, frozen
    ones frozen. The cut is recorded on the model, so that `save` and `load` restore it.

    Of channels that go together the importance is the mean over their layers, after the scores of each layer were
    divided by their mean; linear layers that `channels.score` scored unasked (`Scores.fallback`) count only where no
    other of them has scores. A list or dict names layers: then the named layer's own scores decide.

    Args:
        model: any network; prune first, regularise afterwards.
        example_input: its input, or a tuple of its inputs; a batch of one makes the report's MACs those of one input.
        scores: layer name -> importance of each output channel, as `channels.score` gives them.
        rates: part of the channels to remove of each layer, from 0 up to 1, not included. One number for all layers
            that have scores; a dict by layer; a list, one rate for each pruning group in order or, for a network of
            the paper, for each entry of the paper's list; "paper" or "extended", a list of `tailcut.channels.rates`. A
            list's rate for a group that must keep its channels counts for nothing, and the report says why.
        macs_ratio: instead of rates: prune by one ranking of all channels until at most this part of the MACs is left.
        params_ratio: the same for parameters.
        ignore: shell-style patterns on names of layers, or of modules that hold layers, that keep their channels.
        min_channels: the fewest channels that a layer keeps.
        round_to: layers that lose channels keep a multiple of this many.
        max_rate: the largest part of a layer's channels to remove.

    Returns:
        A report that prints as tables: each layer before and after, MACs, parameters, what was left and why.

    Raises:
        ArgumentError: an argument is out of range, scores or rates do not fit the layers, a dict names a layer that
            must keep its channels, nothing can be pruned, or the network does not run on the input. The model is
            unchanged.
        StructureError: the model is regularised, or does not run once it is pruned and no channels are to blame. The
            model is unchanged.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> print(prune(net, torch.randn(1, 3, 8, 8), {"0": torch.arange(8.0)}, rates=0.25))
    layer  goes with  channels  kept
    -----  ---------  --------  ----
    0                        8     6
    2                        4     4
    <BLANKLINE>
                before  after
    ----------  ------  -----  -------
    MACs        12,384  9,288  -25.0 %
    parameters     516    388  -24.8 %
    <BLANKLINE>
    not pruned  channels  why
    ----------  --------  --------------------
    2                  4  the network's output
    """
    inputs = _check_network(model, example_input)
    if sum(given is not None for given in (rates, macs_ratio, params_ratio)) != 1:
        raise ArgumentError("give one of rates, macs_ratio and params_ratio")
    amount = _Amount(rates, macs_ratio, params_ratio, Limits(min_channels, round_to, max_rate))
    patterns = _patterns(ignore)
    # In inference mode torch does not show all operations, and new parameters could not be trained.
    with torch.inference_mode(False):
        return _prune(model, tuple(x.detach().clone() for x in inputs), scores, amount, patterns)


@dataclass(frozen=True)
class _Amount:
    """How much shall go."""

    rates: Rates | None
    macs_ratio: float | None
    params_ratio: float | None
    limits: Limits


def _prune(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    scores: Mapping[str, Tensor],
    amount: _Amount,
    ignore: tuple[str, ...],
) -> PruneReport:
    graph = find_groups(model, inputs, ignore)
    # A parametrised weight is computed by operations that do not count.
    has_own = not any(parametrize.is_parametrized(module) for module in model.modules())
    macs = graph.trace.macs if has_own else _macs(model, inputs, graph)
    parameters = count_parameters(model)
    vectors = check_scores(scores, model, graph)
    # Rates by layer and lists need to know at once which groups must stay; else one working cut is enough.
    is_tried = not (amount.rates is None or number_of(amount.rates) is not None)
    if is_tried:
        lock_rigid_groups(model, inputs, graph)
    listed = [name for name, group in graph.groups.items() if group.free]
    refused: tuple[set[int], str | None] = set(), None  # a cut with which the network does not run, and why
    while True:
        _check_something_free(graph, vectors)
        if amount.rates is not None:
            by_group = _rates_by_group(model, graph, amount.rates, vectors, listed)
            removed = select_by_rates(graph, by_group, vectors, amount.limits)
            held = held_by_limits(graph, by_group, removed, amount.limits)
        else:
            costs = CostModel(model, graph, macs=macs, parameters=parameters)
            removed, held = _select_by_ratio(graph, vectors, amount, costs), {}
        layers, skipped = _rows(graph, removed, vectors, held)
        if not is_tried:
            why, after = _try_cut(model, inputs, graph, plan_cut(graph, removed)) if removed else ("", None)
            refused = removed, why
            if why is None:
                break
            lock_rigid_groups(model, inputs, graph)
            is_tried = True
            continue
        failing, after = _cut(model, inputs, graph, removed, refused[1] if removed and removed == refused[0] else None)
        if not failing:
            break
        lock_culprits(graph, failing)
    left_macs = after.macs if after is not None and has_own else _macs(model, inputs, graph)
    report = PruneReport(macs, left_macs, parameters, count_parameters(model), layers, skipped)
    percent = 100 * report.macs_ratio, 100 * report.parameters_ratio
    _log.info("pruned to %.1f %% of the MACs, %.1f %% of the parameters", *percent)
    return report


def _macs(model: nn.Module, inputs: tuple[Tensor, ...], graph: ChannelGraph) -> int:
    count: int = attempt(lambda: count_macs(model, inputs).total, shapes_only=not graph.trace.reads_numbers)
    return count


def _patterns(ignore: str | Sequence[str]) -> tuple[str, ...]:
    found = (ignore,) if isinstance(ignore, str) else tuple(ignore) if isinstance(ignore, Iterable) else ()
    if not isinstance(ignore, Iterable) or not all(isinstance(pattern, str) for pattern in found):
        raise ArgumentError(f"ignore must be a pattern on names of layers, or a list of such; got {ignore!r}")
    return found


def _check_network(model: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if unwrapped(model) is not model:
        raise ArgumentError(
            f"{type(model).__name__} is a wrapper: prune the network itself (its .module, .source or ._orig_mod)"
        )
    tensors = [*model.parameters(), *model.buffers()]
    if any(is_lazy(x) for x in tensors):
        raise ArgumentError("the network is not initialised yet: run one forward first")
    if any(x.is_inference() for x in tensors):
        raise ArgumentError(
            "the network was built or loaded under torch.inference_mode, so that its numbers can neither be changed "
            "nor trained: build or load it outside of that, then prune it"
        )
    if any(x.is_meta for x in tensors):
        raise ArgumentError("the network lies on the meta device, where it has no weights to keep")
    if any(edit.coefficients(model) for edit in record_of(model).edits):
        raise StructureError(
            "the model is regularised: its weights are coefficients, which have no channels; prune first, then "
            "regularise (or prune tailcut.to_dense(model))"
        )
    inputs = (example_input,) if isinstance(example_input, Tensor) else example_input
    if not isinstance(inputs, tuple) or not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise ArgumentError(f"example_input must be a tensor or a tuple of tensors, got {type(example_input).__name__}")
    return inputs


def _check_something_free(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> None:
    if any(group.free and is_scored(group, scores) for group in graph.groups.values()):
        return
    reasons = {reason for group in graph.groups.values() for reason in group.locked.values()}
    reasons |= {f"{name}: {layer.why}" for name, layer in graph.trace.layers.items() if layer.why is not None}
    unscored = [name for name, group in graph.groups.items() if group.free]
    if unscored:
        reasons.add(f"the scores name none of the layers that can be pruned, {', '.join(unscored[:3])}, ...")
    raise ArgumentError(f"nothing can be pruned: {'; '.join(sorted(reasons)) or 'no layer has prunable channels'}")


def _rates_by_group(
    model: nn.Module, graph: ChannelGraph, rates: Rates, scores: Mapping[str, Tensor], listed: Sequence[str]
) -> dict[str, Rate]:
    """Rates by group; `listed` are the groups that a list has rates for, even where some of them were locked since."""
    if isinstance(rates, Mapping):
        return rates_for_dict(graph, model, rates)
    base = base_of(model)
    name = None if base is None else base.name
    given = named_rates(rates, name) if isinstance(rates, str) else rates
    if isinstance(given, Sequence):
        known = None if name is None else PAPER_RATES.get(name)
        if known is not None:
            return rates_for_list(graph, known.layers, given, as_published=True)
        return rates_for_list(graph, [(group,) for group in listed], given)
    if number_of(given) is None:
        raise ArgumentError(
            f"rates must be one number, a list of numbers, a dict by layer or the name of a list; got {given!r}"
        )
    names = [group.name for group in graph.groups.values() if group.free and is_scored(group, scores)]
    return {name: Rate(check_rate(given, name)) for name in names}


def _select_by_ratio(graph: ChannelGraph, scores: Mapping[str, Tensor], amount: _Amount, costs: CostModel) -> set[int]:
    name, of, target = (
        ("macs_ratio", "macs", amount.macs_ratio)
        if amount.macs_ratio is not None
        else ("params_ratio", "parameters", amount.params_ratio)
    )
    ratio = number_of(target)
    if ratio is None or not 0 < ratio <= 1:
        raise ArgumentError(f"{name} must be above 0 and at most 1, got {target!r}")
    return select_by_budget(graph, scores, amount.limits, lambda removed: costs.ratio(of, removed), float(ratio))


def _cut(
    model: nn.Module, inputs: tuple[Tensor, ...], graph: ChannelGraph, removed: set[int], why: str | None
) -> tuple[dict[str, str], Trace | None]:
    """Cut the model and record it; where it then no longer runs, put it back and give the groups to blame, and why.

    `why` says that this cut was tried, and what went wrong. The trace is that of the model after the cut, if known.
    """
    cut, after = plan_cut(graph, removed), None
    if not cut.kept:
        return {}, None
    backward = True
    if not why:
        why, after = _try_cut(model, inputs, graph, cut)
    if why is not None and failure_reason(model, inputs, graph.trace) is not None:
        # It did not run backward before either, so the cut is not to blame for that.
        backward = False
        why, after = _try_cut(model, inputs, graph, cut, backward=False)
    if why is None:
        return {}, after
    failing = failing_groups(model, inputs, graph, removed, backward=backward)
    if not failing:
        raise StructureError(
            f"pruned, the network no longer runs ({why}), but it did when the same channels were cut to find which are "
            "to blame: does its forward depend on chance, or on earlier runs? It was put back as it was"
        )
    return failing, None


def _try_cut(
    model: nn.Module, inputs: tuple[Tensor, ...], graph: ChannelGraph, cut: Cut, *, backward: bool = True
) -> tuple[str | None, Trace | None]:
    """Cut the model and record it; where it no longer runs, or other channels meet, put it back and say why not.

    Returns:
        What is wrong, None if nothing; and the trace of the model after the cut, if it is known.
    """
    try:
        undo = apply_cut(model, cut)
    except StructureError as error:
        return str(error), None
    why, after = None, None
    try:
        after = accepted(model, inputs, graph, cut) if backward else None
        if after is None:
            why = misread(model, inputs, graph, cut)
        if after is None and why is None:
            why = failure_reason(model, inputs, graph.trace, backward=backward, train=False)
    except StoppedError as error:
        why = str(error)
    except BaseException:
        undo()
        raise
    if why is None:
        record_cut(model, cut)
    else:
        undo()
    return why, after


def _rows(
    graph: ChannelGraph, removed: set[int], scores: Mapping[str, Tensor], held: Mapping[str, str]
) -> tuple[tuple[PrunedLayer, ...], tuple[SkippedChannels, ...]]:
    layers, skipped = [], []
    for name, layer in graph.trace.layers.items():
        group = graph.group_of(name)
        if group is None or layer.outer is None:
            if layer.why is not None:
                skipped.append(SkippedChannels(name, 0 if layer.outer is None else len(layer.outer), layer.why))
            continue
        units = units_of(graph.coupling, layer.outer)
        gone = tuple(place for place, unit in enumerate(units) if unit in removed)
        layers.append(PrunedLayer(name, group.name, len(units), len(units) - len(gone), gone))
        for reason in dict.fromkeys(group.locked[unit] for unit in units if unit in group.locked):
            count = sum(group.locked.get(unit) == reason for unit in units)
            skipped.append(SkippedChannels(name, count, reason))
        if group.free and not is_scored(group, scores):
            skipped.append(
                SkippedChannels(name, len(units), f"no scores were given for it: score(layers=[{name!r}, ...])")
            )
        if group.name in held:
            skipped.append(SkippedChannels(name, sum(unit not in group.locked for unit in units), held[group.name]))
    skipped += [
        SkippedChannels(name, 0, "it did not run, so nothing is known of its channels") for name in graph.trace.idle
    ]
    return tuple(layers), tuple(skipped)
