"""`prune`: removes the least important channels of a network, and reports those that it could not remove."""

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tailcut.channels.graph.groups import ChannelGraph, find_groups
from tailcut.channels.graph.shape_only import attempt
from tailcut.channels.graph.tracing import StoppedError
from tailcut.channels.pruning.edit import PruneEdit, record_edit
from tailcut.channels.pruning.plan import Amount, Planner, PruningPlan
from tailcut.channels.pruning.plan import Rates as Rates
from tailcut.channels.pruning.report import PruneReport, by_reason
from tailcut.channels.pruning.selection import Limits, check_scores
from tailcut.channels.pruning.surgery import apply_cut
from tailcut.channels.pruning.verification import (
    UnsteadyError,
    check_steady,
    failing_groups,
    go_backward,
    is_finite,
    lock_culprits,
    lock_rigid_groups,
    note_changes,
    verify,
)
from tailcut.channels.scoring.forward import run, undisturbed
from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError, StructureError
from tailcut.model_inputs import InputTensors, ModelInputs, example_inputs
from tailcut.structure import check_initialized, check_not_shared, record_of
from tailcut.structure.views import check_is_bare

_log = logging.getLogger(__name__)


def prune(
    model: nn.Module,
    example_input: InputTensors,
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
        example_input: its input, a tuple of its inputs, or a dict of them by name; a batch of one makes the report's
            MACs those of one input. Code that asks for sizes is followed the way that it takes with this one's.
        scores: layer name -> importance of each output channel, as `channels.score` gives them.
        rates: part of the channels to remove of each layer, from 0 up to 1, not included. One number for all layers
            that have scores; a dict by layer; a list, one rate for each pruning group in order or, for a network of
            the paper, for each entry of the paper's list; "paper" or "extended", a list of
            `tailcut.channels.pruning.rates`. A list's rate for a group that must keep its channels counts for nothing,
            and the report says why.
        macs_ratio: instead of rates: prune by one ranking of all channels until at most this part of the MACs is left.
        params_ratio: the same for parameters.
        ignore: shell-style patterns on names of layers, or of modules that hold layers, that keep their channels.
        min_channels: the fewest channels that a layer keeps.
        round_to: layers that lose channels keep a multiple of this many.
        max_rate: the largest part of a layer's channels that goes.

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
    if sum(given is not None for given in (rates, macs_ratio, params_ratio)) != 1:
        misplaced = f"; {scores!r} stands in the place of the scores" if isinstance(scores, (int, float)) else ""
        raise ArgumentError(f"give one of rates, macs_ratio and params_ratio{misplaced}")
    if not isinstance(scores, Mapping):
        raise ArgumentError(
            f"scores must map names of layers to vectors, got {type(scores).__name__}; the network comes first, then "
            "an example input, then the scores"
        )
    inputs = _check_network(model, example_input)
    amount = Amount(rates, macs_ratio, params_ratio, Limits(min_channels, round_to, max_rate))
    patterns = _patterns(ignore)
    # In inference mode torch does not show all operations, and new parameters could not be trained.
    with torch.inference_mode(False):
        return _prune(model, inputs.map(lambda x: x.detach().clone()), scores, amount, patterns)


def _prune(
    model: nn.Module,
    inputs: ModelInputs,
    scores: Mapping[str, Tensor],
    amount: Amount,
    ignore: tuple[str, ...],
) -> PruneReport:
    """Prune, and once more where a first forward is not like others: caches, sums over all runs. Changes the module."""
    try:
        return _prune_traced(model, inputs, scores, amount, find_groups(model, inputs, ignore))
    except UnsteadyError:
        return _prune_traced(model, inputs, scores, amount, find_groups(model, inputs, ignore))


def _prune_traced(
    model: nn.Module, inputs: ModelInputs, scores: Mapping[str, Tensor], amount: Amount, graph: ChannelGraph
) -> PruneReport:
    """Plan what goes of the channels that were followed, cut and verify, report. Changes the module."""
    # A parametrised weight is computed by operations that do not count.
    has_own = not any(parametrize.is_parametrized(module) for module in model.modules())
    macs = graph.trace.macs if has_own else _macs(model, inputs, graph)
    parameters = count_parameters(model)
    vectors = check_scores(scores, model, graph)
    # Rates by layer and lists need to know at once which groups must stay; else a cut that works tells all.
    if amount.is_by_layer:
        lock_rigid_groups(model, inputs, graph)
    listed = tuple(name for name, group in graph.groups.items() if group.free)
    planner = Planner(model, graph, vectors, amount, macs, parameters, listed)
    if amount.is_by_layer:
        plan, after = _cut_what_runs(model, inputs, planner)
    else:
        plan = planner.plan()
        why, after = _try_cut(model, inputs, plan) if plan.removed else ("", None)
        if why is not None:
            lock_rigid_groups(model, inputs, graph)
            plan, after = _cut_what_runs(model, inputs, planner, refused=plan, why=why)
    if plan.removed and graph.trace.idle:
        _log.warning(
            "did not run on the example input: %s; where another input runs them, they may not take what is left of "
            "the channels before them. Prune with an input that runs them, or name the layers before them in ignore.",
            ", ".join(graph.trace.idle),
        )
    if plan.held and not plan.removed:
        _log.warning("nothing was removed: %s", by_reason(plan.held.items()))
    left_macs = after if after is not None and has_own else _macs(model, inputs, graph)
    counts = macs, left_macs, parameters, count_parameters(model)
    report = PruneReport(*counts, plan.layers, plan.skipped, plan.notes)
    percent = 100 * report.macs_ratio, 100 * report.params_ratio
    _log.info("pruned to %.1f %% of the MACs, %.1f %% of the parameters", *percent)
    return report


def _cut_what_runs(
    model: nn.Module,
    inputs: ModelInputs,
    planner: Planner,
    *,
    refused: PruningPlan | None = None,
    why: str = "",
) -> tuple[PruningPlan, int | None]:
    """Cut by the first plan with which the network runs; the groups to blame for one that fails are locked.

    `refused` is a plan that was tried, and `why` what went wrong.
    """
    while True:
        plan = planner.plan()
        is_known = refused is not None and plan.removed and plan.removed == refused.removed
        failing, after = _cut(model, inputs, plan, why if is_known else None)
        if not failing:
            return plan, after
        lock_culprits(planner.graph, failing)


def _macs(model: nn.Module, inputs: ModelInputs, graph: ChannelGraph) -> int:
    count: int = attempt(lambda: count_macs(model, inputs).total, shapes_only=not graph.trace.reads_numbers)
    return count


def _patterns(ignore: str | Sequence[str]) -> tuple[str, ...]:
    found = (ignore,) if isinstance(ignore, str) else tuple(ignore) if isinstance(ignore, Iterable) else ()
    if not isinstance(ignore, Iterable) or not all(isinstance(pattern, str) for pattern in found):
        raise ArgumentError(f"ignore must be a pattern on names of layers, or a list of such; got {ignore!r}")
    return found


def _check_network(model: nn.Module, example_input: InputTensors) -> ModelInputs:
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_is_bare("prune", model)
    scripted = next((path for path, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise ArgumentError(
            f"{scripted} is of TorchScript, whose layers can neither be followed nor narrowed: put the torch.nn.Module "
            "that it was made from in its place, prune, and script that part of the narrower network"
        )
    # torch.export gives its modules a `train` of their own, which refuses.
    if any(isinstance(part, torch.fx.GraphModule) and "train" in vars(part) for part in model.modules()):
        raise ArgumentError(
            "the network is a module of torch.export, whose layers cannot be narrowed: prune the torch.nn.Module that "
            "it was made from, then export the narrower network"
        )
    tensors = [*model.parameters(), *model.buffers()]
    check_initialized(model)
    if any(x.is_inference() for x in tensors):
        raise ArgumentError(
            "the network was built or loaded under torch.inference_mode, so that its numbers can neither be changed "
            "nor trained: build or load it outside of that, then prune it"
        )
    check_not_shared("pruning", [*model.named_parameters(), *model.named_buffers()])
    if any(x.is_meta for x in tensors):
        raise ArgumentError("the network lies on the meta device, where it has no weights to keep")
    if any(edit.coefficients(model) for edit in record_of(model).edits):
        raise StructureError(
            "the model is regularised: its weights are coefficients, which have no channels; prune first, then "
            "regularise (or prune tailcut.to_dense(model))"
        )
    return example_inputs(example_input)


def _cut(
    model: nn.Module, inputs: ModelInputs, plan: PruningPlan, why: str | None
) -> tuple[dict[str, str], int | None]:
    """Cut the model and record it; where it then no longer runs, put it back and give the groups to blame, and why.

    `why` says that this cut was tried, and what went wrong. The number is its MACs after the cut, if known.
    """
    if not plan.cut.kept:
        return {}, None
    graph, after, backward = plan.graph, None, True
    if not why:
        why, after = _try_cut(model, inputs, plan)
    if why is not None and not _runs_backward(model, inputs, graph):  # the cut is not to blame for that
        backward = False
        why, after = _try_cut(model, inputs, plan, backward=False)
    if why is None:
        return {}, after
    check_steady(model, inputs, graph)
    failing = failing_groups(model, inputs, graph, plan.removed, backward=backward)
    if not failing:
        raise StructureError(
            f"pruned, the network no longer runs ({why}), but it did when the same channels were cut to find which are "
            "to blame: does its forward depend on chance, or on earlier runs? It was put back as it was"
        )
    return failing, None


def _try_cut(
    model: nn.Module, inputs: ModelInputs, plan: PruningPlan, *, backward: bool = True
) -> tuple[str | None, int | None]:
    """Cut the model and record it; where it no longer runs, or other channels meet, put it back and say why not.

    Returns:
        What is wrong, None if nothing; and the MACs of the model after the cut.
    """
    try:
        undo = apply_cut(model, plan.cut)
    except StructureError as error:
        return str(error), None
    changed: set[int] = set()
    try:
        after = verify(model, inputs, plan.graph, plan.removed, backward=backward, changed=changed)
        if changed:
            undo()
            note_changes(model, inputs, plan.graph, plan.removed, changed)
            undo = apply_cut(model, plan.cut)
        if not is_finite(model, inputs):
            undo()
            if is_finite(model, inputs):
                raise StructureError(
                    "pruned so, the network gives numbers that are not finite, and gave finite ones before: its code "
                    "may divide by how many channels there are less one, as an unbiased std does; keep more of them, "
                    "for example by min_channels. It was put back as it was"
                )
            undo = apply_cut(model, plan.cut)
    except StoppedError as error:
        undo()
        return str(error), None
    except BaseException:
        undo()
        raise
    record_edit(model, PruneEdit.of(model, plan.cut))
    return None, after


def _runs_backward(model: nn.Module, inputs: ModelInputs, graph: ChannelGraph) -> bool:
    """Return whether gradients can be followed back through the network as it is."""
    with undisturbed(model), torch.enable_grad():
        try:
            go_backward(model, run(model, inputs), graph.trace)
        except ArgumentError:
            return False
    return True
