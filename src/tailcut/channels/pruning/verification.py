"""Verification of a cut: the narrowed network must run forward and backward, and keep the shapes of its outputs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn

from tailcut.channels.graph.coupling import FIXED
from tailcut.channels.graph.groups import ChannelGraph
from tailcut.channels.graph.observer import Observer, Step
from tailcut.channels.graph.shape_only import attempt
from tailcut.channels.graph.tracing import Flow, StoppedError, Trace, trace
from tailcut.channels.pruning.surgery import Cut, apply_cut, plan_cut
from tailcut.channels.scoring.forward import Inputs, for_training, run, training, undisturbed
from tailcut.errors import ArgumentError, StructureError

Trial = Callable[[nn.Module, Inputs, ChannelGraph, set[int]], str | None]

_OTHER_WIDTHS = "other channels are reshaped into groups by its width"


def failure_reason(
    model: nn.Module, inputs: Inputs, before: Trace, *, backward: bool = True, train: bool = True
) -> str | None:
    """Return the reason why a network fails after a cut, or None if it runs. The model is not changed.

    Args:
        model: the network, cut.
        inputs: what its forward takes.
        before: the trace before the cut.
        backward: check the gradients too.
        train: run in training mode too, if it did before.
    """
    try:
        with undisturbed(model):
            with torch.set_grad_enabled(backward):
                outputs = run(model, inputs)
            why = _other_shapes(_shapes(outputs), before)
            if why is not None:
                return why
            if backward:
                attempt(lambda: _go_backward(model, outputs), shapes_only=not before.reads_numbers)
            if train and before.trains:
                with torch.no_grad(), training(model):
                    attempt(lambda: run(model, for_training(inputs)), shapes_only=not before.reads_numbers)
    except (ArgumentError, RuntimeError) as error:
        return str(error)
    return None


def _go_backward(model: nn.Module, outputs: Sequence[Tensor]) -> None:
    scalars = [output.real.sum() for output in outputs if output.requires_grad]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if scalars and parameters:
        torch.autograd.grad(scalars, parameters, allow_unused=True, retain_graph=True)


def _shapes(outputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(output.shape) for output in outputs]


def _other_shapes(shapes: list[tuple[int, ...]], before: Trace) -> str | None:
    return None if shapes == before.outputs else f"its outputs have shapes {shapes} instead of {before.outputs}"


def lock_rigid_groups(model: nn.Module, inputs: Inputs, graph: ChannelGraph) -> None:
    """Try out what was assumed: where the network's code fixes a width, the group is locked (changes the graph).

    One channel of each group in question is taken out for a forward, then the network is put back: of all groups at
    once, and where that fails of each alone that may be to blame. Where code splits channels (heads of attention), it
    may divide by the width of any other tensor: then every group is in question. Whether the network runs is tried
    first, which is quick; then it is followed.
    """
    assumed = graph.coupling.assumed_units()
    place = {unit: number for number, unit in enumerate(assumed)}
    asked = {}
    for name, group in graph.groups.items():
        first = min((unit for unit in group.units if unit in place), key=place.__getitem__, default=None)
        what = assumed[first] if first is not None else _OTHER_WIDTHS if graph.coupling.regrouped else None
        if what is not None and len(group.units) > 1 and group.free:
            asked[name] = what
    locked: dict[str, str] = {}
    for trial in (_runs, _followed):
        left = [name for name in asked if name not in locked]
        while left:
            why, order = _try_all(model, inputs, graph, left, trial)
            if why is None:
                break
            # The one to blame is most likely that of the layer that ran last, then those before it.
            for name in order:
                alone = why if len(left) == 1 else _try_all(model, inputs, graph, [name], trial)[0]
                left.remove(name)
                if alone is not None:
                    locked[name] = f"{asked[name]}, and its code fixes how many: {alone}"
                    break
    for name, why in locked.items():
        graph.coupling.lock(graph.groups[name].units, why)
    if locked:
        graph.build()


def _try_all(
    model: nn.Module, inputs: Inputs, graph: ChannelGraph, names: list[str], trial: Trial
) -> tuple[str | None, list[str]]:
    """Cut one channel of each of these groups. Returns what went wrong, and the groups, those near to it first."""
    removed: set[int] = set()
    for name in names:
        unit = graph.groups[name].free[-1]
        removed |= {unit} | _beside(graph, {unit})
    why, layers = _outcome(model, inputs, graph, removed, trial)
    place = {layer: number for number, layer in enumerate(layers)}
    nearest = {name: max(place.get(layer, -1) for layer in graph.groups[name].layers) for name in names}
    return why, sorted(names, key=nearest.__getitem__, reverse=True)


def failing_groups(
    model: nn.Module, inputs: Inputs, graph: ChannelGraph, removed: set[int], *, backward: bool = True
) -> dict[str, str]:
    """Return the groups whose removal fails, with the error of each; the rest runs. The model is not changed.

    Groups are added to the cut one after another, and one with which the network no longer runs is left out of it: so
    of groups that fail only together, say of two widths that the code compares, the first goes.

    Args:
        model: the network, not cut.
        inputs: what its forward takes.
        graph: of the network.
        removed: the units of a cut with which it does not run.
        backward: check the gradients too.
    """
    runs: set[int] = set()
    failing: dict[str, str] = {}
    for name, group in graph.groups.items():  # leaders come before their followers
        own = removed & set(group.units)
        # Where the channels beside these must stay, these must too; a group is not to blame for its leader.
        if not own or not _beside(graph, own) <= runs | own:
            continue
        why, _ = _outcome(model, inputs, graph, runs | own, _followed, backward=backward)
        if why is None:
            runs |= own
        else:
            failing[name] = why
    return failing


def lock_culprits(graph: ChannelGraph, failing: Mapping[str, str]) -> None:
    """Lock groups that `failing_groups` found (changes the graph)."""
    units = {name: graph.groups[name].units for name in failing}  # groups may be joined when one of them is locked
    for name, why in failing.items():
        graph.lock(units[name], f"its code fixes how many: {why}")


def _beside(graph: ChannelGraph, units: set[int]) -> set[int]:
    """Return the channels that must be removed with these, transitively."""
    found: set[int] = set()
    for follower in reversed(graph.followers):
        found |= {leader for unit, leader in follower.beside.items() if unit in units | found}
    return found


def _outcome(
    model: nn.Module,
    inputs: Inputs,
    graph: ChannelGraph,
    removed: set[int],
    trial: Trial,
    *,
    backward: bool = False,
) -> tuple[str | None, list[str]]:
    """Return the failure when these units are removed, or None, and the layers that ran before it."""
    cut = plan_cut(graph, removed)
    try:
        undo = apply_cut(model, cut, is_trial=not (backward or graph.trace.reads_numbers))
    except StructureError as error:
        return str(error), []
    try:
        if backward and (why := failure_reason(model, inputs, graph.trace)) is not None:
            return why, []
        return trial(model, inputs, graph, removed), list(graph.trace.layers)
    except StoppedError as error:
        return str(error), error.layers
    finally:
        undo()


def _runs(model: nn.Module, inputs: Inputs, graph: ChannelGraph, removed: set[int]) -> str | None:
    """Return what is wrong with the outputs' shapes after a cut, or None. Otherwise as `misread`, without following."""
    before = graph.trace
    ran: dict[str, None] = {}
    handles = [
        layer.module.register_forward_hook(lambda *_, name=name: ran.setdefault(name))
        for name, layer in before.layers.items()
    ]
    try:
        with undisturbed(model), torch.no_grad():
            outputs = attempt(lambda: run(model, inputs), shapes_only=not before.reads_numbers)
    except ArgumentError as error:
        raise StoppedError(str(error), list(ran)) from error
    finally:
        for handle in handles:
            handle.remove()
    return _other_shapes(_shapes(outputs), before)


def _followed(model: nn.Module, inputs: Inputs, graph: ChannelGraph, removed: set[int]) -> str | None:
    """Return what `misread` does, without following the network where its steps tell that all is well."""
    before = graph.trace
    if not before.reads_numbers:
        with suppress(ArgumentError), undisturbed(model), torch.no_grad():
            observer = Observer(before.modules, shapes_only=True)
            outputs = observer.observe(model, inputs)
            flows = [observer.steps, *_training_steps(model, inputs, before)]
            if _take_same_steps(graph, removed, flows) and not _other_shapes(_shapes(outputs), before):
                return None
    return misread(model, inputs, graph, plan_cut(graph, removed))


def _training_steps(model: nn.Module, inputs: Inputs, before: Trace) -> list[list[Step]]:
    """Return the steps of training mode in a list, an empty one where they need not be known."""
    if before.is_alike or not before.trains:
        return []
    observer = Observer(before.modules, shapes_only=not before.reads_numbers)
    with torch.no_grad(), training(model):
        observer.observe(model, for_training(inputs))
    return [observer.steps]


def misread(model: nn.Module, inputs: Inputs, graph: ChannelGraph, cut: Cut) -> str | None:
    """Return a contradiction between the channels after a cut and the graph, or None. The model is not changed.

    Args:
        model: the network, cut.
        inputs: what its forward takes.
        graph: of the network before the cut.
        cut: what was cut.

    Raises:
        StoppedError: it does not run.
    """
    after = trace(model, inputs, graph.trace)
    if graph.trace.trains and not after.trains:
        return after.failure
    return _other_shapes(after.outputs, graph.trace) or _misread(graph, cut, after)


def accepted(model: nn.Module, inputs: Inputs, graph: ChannelGraph, removed: set[int]) -> int | None:
    """Return the MACs of a network after a cut that passes every check, found in one go. The model is not changed.

    Its forward in evaluation mode is computed in full, observed and backpropagated. Where it takes the steps that it
    took before the cut, on tensors that lack the removed channels and nothing else, the same channels meet. None means
    that something is wrong, or only looks so: `misread` and `failure_reason` decide.

    Args:
        model: the network, cut.
        inputs: what its forward takes.
        graph: of the network before the cut.
        removed: the units that were removed.

    Raises:
        StoppedError: it does not run.
    """
    before = graph.trace
    observer = Observer(before.modules, shapes_only=False)
    with undisturbed(model):
        try:
            outputs = observer.observe(model, inputs)
        except ArgumentError as error:  # a second trial could hide that, where the forward depends on earlier runs
            raise StoppedError(str(error), list(before.layers)) from error
        try:
            attempt(lambda: _go_backward(model, outputs), shapes_only=not before.reads_numbers)
            flows = [observer.steps, *_training_steps(model, inputs, before)]
        except (ArgumentError, RuntimeError):
            return None
    is_good = _take_same_steps(graph, removed, flows) or not misread(model, inputs, graph, plan_cut(graph, removed))
    return observer.macs if is_good and not _other_shapes(_shapes(outputs), before) else None


def _take_same_steps(graph: ChannelGraph, removed: set[int], flows: Sequence[Sequence[Step]]) -> bool:
    """Return whether a network after a cut did what it did before, on tensors without the channels that went."""
    before = graph.trace.flows
    if graph.trace.alignments or len(flows) != len(before):  # padded shortcuts reorder channels
        return False
    gone = np.zeros(len(graph.coupling), dtype=bool)
    gone[list(removed)] = True
    return all(_takes_same_steps(graph, gone, flow, steps) for flow, steps in zip(before, flows, strict=True))


def _takes_same_steps(graph: ChannelGraph, gone: np.ndarray, before: Flow, after: Sequence[Step]) -> bool:
    steps, made = before
    if len(steps) != len(after):
        return False
    weights: set[object] = set()  # what was computed from weights alone
    for number, (old, new) in enumerate(zip(steps, after, strict=True), start=1):
        if old[:3] != new[:3] or old.num_results != new.num_results or len(old.shapes) != len(new.shapes):
            return False
        if any(token is None and shape != there for token, shape, there in zip(*old[1:4:2], new.shapes, strict=False)):
            return False
        is_weight = all(isinstance(token, str) or token in weights for token in old.tokens)
        for place, shape in enumerate(new.shapes[len(old.tokens) :]):
            if is_weight:
                weights.add((number, place))
            if not _lacks_only(shape, made[number, place], graph, gone, is_weight):
                return False
    return True


def _lacks_only(
    shape: tuple[int, ...], labels: Tensor | None, graph: ChannelGraph, gone: np.ndarray, is_weight: bool
) -> bool:
    """Return whether a shape is that of a tensor without the channels that went; False where it cannot be told.

    The labels of a weight hold the channels that it makes, not those that it takes.
    """
    if labels is None or labels.ndim != len(shape):
        return False
    roots = graph.coupling.bare_roots(labels)
    axes = [axis for axis, size in enumerate(roots.shape) if size > 1]
    if len(axes) != 1 and gone[roots].any():
        return False
    for axis, (size, there) in enumerate(zip(labels.shape, shape, strict=True)):
        if axes == [axis]:
            size = int(np.count_nonzero(~gone[roots]))
            if size == 1:  # broadcasts to any width
                return False
        if size != there and (axis in axes or not is_weight):
            return False
    return True


def _misread(graph: ChannelGraph, cut: Cut, after: Trace) -> str | None:
    """Return the place where channels meet other ones after a cut than before it, None if all meet the same.

    A width that fits is not enough: code that splits 16 channels into 8 and 8 splits 14 into 8 and 6. So the narrowed
    network is followed too, and each of its channels must come from one channel of the whole one, wherever it is met.
    """
    origins = np.full(len(after.coupling), -1, dtype=np.int64)  # number after the cut -> number before
    origins[FIXED] = FIXED
    lone = _lone(graph, after)
    for name, layer in graph.trace.layers.items():
        for attribute, axes in layer.axes.items():
            found = after.layers[name].axes.get(attribute, {}) if name in after.layers else {}
            for axis, labels in axes.items():
                old = graph.coupling.roots(labels).numpy()
                kept = cut.kept.get(layer.path(attribute), {}).get(axis)
                old = old if kept is None else old[kept]
                if len(old) == 1 < len(labels):  # of lone channels; and a PReLU with one parameter is followed no more
                    continue
                new = after.coupling.roots(found[axis]).numpy() if axis in found else old[:0]
                if len(new) != len(old) or not _are_consistent(origins, old, new, lone):
                    return f"narrower, other channels meet in {name}"
    return None


def _lone(graph: ChannelGraph, after: Trace) -> np.ndarray:
    """Return the labels of channels that are the only ones left of several.

    They cannot be checked: an axis of one entry broadcasts to any width, and its sum is the channel itself.
    """
    found = [
        after.coupling.roots(labels).numpy()
        for name, layer in graph.trace.layers.items()
        for attribute, axes in layer.axes.items()
        for axis, before in axes.items()
        if name in after.layers and (labels := after.layers[name].axes.get(attribute, {}).get(axis)) is not None
        if len(labels) == 1 < len(before)
    ]
    return np.setdiff1d(np.concatenate([np.zeros(0, dtype=np.int64), *found]), [FIXED])


def _are_consistent(origins: np.ndarray, old: np.ndarray, new: np.ndarray, lone: np.ndarray) -> bool:
    """Note where each number comes from (changes `origins`); whether all but lone ones come from there each time."""
    told = ~np.isin(new, lone)
    old, new = old[told], new[told]
    is_new = origins[new] == -1
    origins[new[is_new]] = old[is_new]
    return bool((origins[new] == old).all())
