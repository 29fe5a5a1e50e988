"""Trying a cut: the narrowed network must run forward and backward, and give what it gave before, in shape."""

from collections.abc import Mapping

import torch
from torch import nn

from tailcut.channels.coupling import FIXED
from tailcut.channels.groups import ChannelGraph, PruningGroup, units_of
from tailcut.channels.removal import Cut, apply_cut, plan_cut
from tailcut.channels.running import Inputs
from tailcut.channels.tracing import Trace, for_training, run, trace, training, undisturbed
from tailcut.errors import ArgumentError, StructureError

_OTHER_WIDTHS = "other channels are reshaped into groups by its width"


def complaint(model: nn.Module, inputs: Inputs, before: Trace, *, backward: bool = True) -> str | None:
    """What is wrong with a network after a cut, None if it runs. The model is not changed.

    Args:
        model: the network, cut.
        inputs: what its forward takes.
        before: the trace before the cut.
        backward: look at the gradients too.
    """
    try:
        with undisturbed(model), torch.set_grad_enabled(backward):
            outputs = run(model, inputs)
            shapes = [tuple(output.shape) for output in outputs]
            if shapes != before.outputs:
                return f"its outputs have shapes {shapes} instead of {before.outputs}"
            scalars = [output.real.sum() for output in outputs if output.requires_grad]
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            if backward and scalars and parameters:
                torch.autograd.grad(scalars, parameters, allow_unused=True)
            if before.trains:
                with training(model):
                    run(model, for_training(inputs))
    except (ArgumentError, RuntimeError) as error:
        return str(error)
    return None


def lock_rigid_groups(model: nn.Module, inputs: Inputs, graph: ChannelGraph) -> None:
    """Try out what was assumed: where the network's code fixes a width, the group is locked (changes the graph).

    One channel of each group in question is taken out for a forward, then the network is put back. Where code splits
    channels (heads of attention), it may divide by the width of any other tensor: then every group is in question.
    """
    for name in list(graph.groups):
        group = graph.groups[name]
        what = _assumption(graph, group) or (_OTHER_WIDTHS if graph.coupling.regrouped else None)
        if what is None or len(group.units) < 2 or not group.free:
            continue
        why = _try_one(model, inputs, graph, group)
        if why is not None:
            graph.lock(group.units, f"{what}, and its code fixes how many: {why}")


def culprits(
    model: nn.Module, inputs: Inputs, graph: ChannelGraph, removed: set[int], *, backward: bool = True
) -> dict[str, str]:
    """The groups without which the rest of a cut runs, each with what went wrong. The model is not changed.

    Groups are added to the cut one after another, and one with which the network no longer runs is left out of it: so
    of groups that fail only together, say of two widths that the code compares, the first goes.

    Args:
        model: the network, not cut.
        inputs: what its forward takes.
        graph: of the network.
        removed: the units of a cut with which it does not run.
        backward: look at the gradients too.
    """
    runs: set[int] = set()
    failing: dict[str, str] = {}
    for name, group in graph.groups.items():  # leaders come before their followers
        own = removed & set(group.units)
        # Where the channels beside these must stay, these must too; a group is not to blame for its leader.
        if not own or not _beside(graph, own) <= runs | own:
            continue
        why = _outcome(model, inputs, graph, runs | own, backward=backward)
        if why is None:
            runs |= own
        else:
            failing[name] = why
    return failing


def lock_culprits(graph: ChannelGraph, failing: Mapping[str, str]) -> None:
    """Lock groups that `culprits` found (changes the graph)."""
    units = {name: graph.groups[name].units for name in failing}  # groups may be joined when one of them is locked
    for name, why in failing.items():
        graph.lock(units[name], f"its code fixes how many: {why}")


def _assumption(graph: ChannelGraph, group: PruningGroup) -> str | None:
    numbers = sorted(graph.coupling.assumptions)
    roots = graph.coupling.roots(torch.tensor(numbers, dtype=torch.int64)).tolist()
    own = set(group.units)
    found = (graph.coupling.assumptions[number] for number, root in zip(numbers, roots, strict=True) if root in own)
    return next(found, None)


def _try_one(model: nn.Module, inputs: Inputs, graph: ChannelGraph, group: PruningGroup) -> str | None:
    unit = group.free[-1]
    return _outcome(model, inputs, graph, {unit} | _beside(graph, {unit}))


def _beside(graph: ChannelGraph, units: set[int]) -> set[int]:
    """The channels that must go with these, all the way up."""
    found: set[int] = set()
    for follower in reversed(graph.followers):
        found |= {leader for unit, leader in follower.beside.items() if unit in units | found}
    return found


def _outcome(
    model: nn.Module, inputs: Inputs, graph: ChannelGraph, removed: set[int], *, backward: bool = False
) -> str | None:
    cut = plan_cut(graph, removed)
    try:
        undo = apply_cut(model, cut)
    except StructureError as error:
        return str(error)
    try:
        why = complaint(model, inputs, graph.trace, backward=backward)
        return _misread(graph, cut, trace(model, inputs, graph.trace)) if why is None else why
    finally:
        undo()


def _misread(graph: ChannelGraph, cut: Cut, after: Trace) -> str | None:
    """Where channels meet other ones in a network after a cut than before it, None if all meet the same.

    A width that fits is not enough: code that splits 16 channels into 8 and 8 splits 14 into 8 and 6. So the narrowed
    network is followed too, and each of its channels must come from one channel of the whole one, wherever it is met.
    """
    origins = {FIXED: FIXED}
    for name, layer in graph.trace.layers.items():
        for attribute, axes in layer.axes.items():
            found = after.layers[name].axes.get(attribute, {}) if name in after.layers else {}
            for axis, labels in axes.items():
                before = units_of(graph.coupling, labels)
                kept = cut.kept.get(layer.path(attribute), {}).get(axis, range(len(before)))
                now = units_of(after.coupling, found[axis]) if axis in found else []
                pairs = zip([before[place] for place in kept], now, strict=False)
                if len(now) != len(kept) or any(origins.setdefault(new, old) != old for old, new in pairs):
                    return f"narrower, other channels meet in {name}"
    return None
