"""Verification of a cut: the narrowed network runs forward and backward, and its channels meet as they did before."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from tailcut.channels.graph.groups import ChannelGraph
from tailcut.channels.graph.observer import Calculation, Observer, Step, layers_of
from tailcut.channels.graph.shape_only import attempt
from tailcut.channels.graph.tracing import Flow, StoppedError, Trace
from tailcut.channels.pruning.surgery import apply_cut, plan_cut
from tailcut.channels.scoring.forward import for_training, run, training, undisturbed
from tailcut.errors import ArgumentError, StructureError
from tailcut.model_inputs import ModelInputs

Trial = Callable[[nn.Module, ModelInputs, ChannelGraph, set[int]], object]

# Numbers that were read from maps come out a little different, in another order of summation, without being others.
_TOLERANCE = 1e-5
_OTHER_WIDTHS = "other channels are reshaped into groups by its width"


def verify(
    model: nn.Module,
    inputs: ModelInputs,
    graph: ChannelGraph,
    removed: set[int],
    *,
    backward: bool = True,
    changed: set[int] | None = None,
) -> int:
    """Return the MACs of a network after a cut, if it passes every check. The model is not changed.

    It must run forward, backward, and in training mode if it did before: for its shapes alone, unless its code reads
    numbers. A width that fits is not enough: code that splits 16 channels into 8 and 8 splits 14 into 8 and 6. So the
    network must also take the steps that it took before the cut, on tensors that lack the removed channels and nothing
    else; then the same channels meet.

    Args:
        model: the network, cut.
        inputs: what its forward takes.
        graph: of the network before the cut.
        removed: the units that were removed.
        backward: check the gradients too.
        changed: to be filled with the places in `Trace.calculations` of those that have other numbers now; they
            fail no check. `note_changes` finds out why.

    Raises:
        StoppedError: a check fails; it says which.
    """
    before = graph.trace
    gone = np.zeros(len(graph.coupling), dtype=bool)
    gone[list(removed)] = True
    with undisturbed(model):
        observer = Observer(before.modules, shapes_only=not before.reads_numbers)
        try:
            with torch.set_grad_enabled(backward):
                outputs = observer.observe(model, inputs)
            _check_outputs(outputs, before)
            try:
                _check_steps(graph, gone, before.flows[0], observer.steps)
            except StoppedError:
                if not backward:
                    raise
                # Torch takes other kernels where gradients are wanted, as of attention with learned biases.
                observer = Observer(before.modules, shapes_only=not before.reads_numbers)
                with torch.no_grad():
                    observer.observe(model, inputs)
                _check_steps(graph, gone, before.flows[0], observer.steps)
            if backward:
                go_backward(model, outputs, before)
            if before.trains and not before.is_alike:
                _check_training(model, inputs, graph, gone)
        except StoppedError:
            raise
        except ArgumentError as error:
            raise StoppedError(str(error), layers_of(observer.steps)) from error
    if changed is not None:
        changed |= _differing(before.calculations, observer.calculations)
    return observer.macs


def is_finite(model: nn.Module, inputs: ModelInputs) -> bool:
    """Return whether all outputs of a network are finite numbers. The model is not changed.

    Raises:
        StoppedError: it does not run.
    """
    with undisturbed(model), torch.no_grad():
        try:
            outputs = run(model, inputs)
        except ArgumentError as error:
            raise StoppedError(str(error), []) from error
    return all(bool(x.isfinite().all()) for x in outputs if x.is_floating_point() or x.is_complex())


def note_changes(
    model: nn.Module, inputs: ModelInputs, graph: ChannelGraph, removed: set[int], changed: set[int]
) -> None:
    """Note with which groups of a cut the numbers change that the network's code calculates with (changes the graph).

    Code may divide by how many channels there are. The groups are added to the cut one after another. What also
    changes without a cut, by chance, counts for nothing.

    Args:
        model: the network, not cut.
        inputs: what its forward takes.
        graph: of the network.
        removed: the units of a cut with which it runs.
        changed: as `verify` fills it.
    """
    before = graph.trace.calculations
    width = "how many there are" if not graph.trace.reads_numbers else "a number that depends on them"
    last = _calculations(model, inputs, graph, set())
    changed = changed - _differing(before, last or ())
    cut: set[int] = set()
    suspects: list[str] = []
    for name, group in graph.groups.items() if changed and last is not None else ():  # leaders come first
        if not removed & set(group.units):
            continue
        cut |= removed & set(group.units)
        suspects.append(name)
        found = _calculations(model, inputs, graph, cut)
        if found is None:  # it runs only with others cut as well, then they are told from each other no further
            continue
        places = sorted(changed & _differing(last or (), found))
        if places:
            what, place, _ = before[places[0]]
            where = f"in {place}" if place else "in the network's forward"
            note = f"its code calculates with {width} ({what}), {where}: the number is that of those left"
            for suspect in suspects:
                graph.coupling.note(removed & set(graph.groups[suspect].units), note)
        last, suspects = found, []


def _calculations(
    model: nn.Module, inputs: ModelInputs, graph: ChannelGraph, removed: set[int]
) -> Sequence[Calculation] | None:
    """Return what a network calculates with after a cut, None if it does not run; the network is put back."""
    before = graph.trace
    observer = Observer(before.modules, shapes_only=not before.reads_numbers)

    def observe(*_: object) -> None:
        with torch.no_grad():
            observer.observe(model, inputs)

    with undisturbed(model):
        try:
            if removed:
                return observer.calculations if _failure(model, inputs, graph, removed, observe) is None else None
            observe()
        except ArgumentError:
            return None
    return observer.calculations


def _differing(before: Sequence[Calculation], after: Sequence[Calculation]) -> set[int]:
    """Return the places of the operations that calculate with other numbers; where operations differ all from there."""
    found: set[int] = set()
    for place, (old, new) in enumerate(zip(before, after, strict=False)):
        if old.what != new.what:
            return found | set(range(place, len(before)))
        if len(old.values) != len(new.values) or not all(map(_is_same, old.values, new.values)):
            found.add(place)
    return found | set(range(len(after), len(before)))


def _is_same(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=_TOLERANCE) or (math.isnan(one) and math.isnan(two))


class UnsteadyError(StructureError):
    """A network that is not cut takes other steps than it took when its channels were followed."""


def check_steady(model: nn.Module, inputs: ModelInputs, graph: ChannelGraph) -> None:
    """Raise unless the network as it is passes every check of a cut. The model is not changed.

    One that keeps something of earlier runs may do more in the second one; then no channels are to blame.

    Raises:
        UnsteadyError: it does something else than the forward that was followed.
    """
    try:
        verify(model, inputs, graph, set(), backward=False)
    except StoppedError as error:
        what = str(error).removeprefix("narrower, ")
        raise UnsteadyError(
            f"run twice as it is, the network does not do the same ({what}): does its forward depend on chance, or on "
            "earlier runs? Nothing was removed"
        ) from error


def go_backward(model: nn.Module, outputs: Sequence[Tensor], before: Trace) -> None:
    """Follow the gradients of a forward back, for their shapes alone unless the network's code reads numbers.

    Raises:
        ArgumentError: it fails.
    """
    scalars = [output.real.sum() for output in outputs if output.requires_grad]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not scalars or not parameters:
        return
    try:
        attempt(
            lambda: torch.autograd.grad(scalars, parameters, allow_unused=True, retain_graph=True),
            shapes_only=not before.reads_numbers,
        )
    except Exception as error:
        raise ArgumentError(str(error)) from error


def lock_rigid_groups(model: nn.Module, inputs: ModelInputs, graph: ChannelGraph) -> None:
    """Try out what was assumed: where the network's code fixes a width, the group is locked (changes the graph).

    One channel of each group in question is taken out for a forward, then the network is put back. A group is to blame
    where the forward gets further without its cut, or fails with its cut alone. Where code splits channels (heads of
    attention), it may divide by the width of any other tensor: then every group is in question. Whether the network
    runs is tried first, which is quick; then its steps are compared.

    Raises:
        UnsteadyError: see `check_steady`.
    """
    assumed = graph.coupling.assumed_units()
    place = {unit: number for number, unit in enumerate(assumed)}
    left = {}
    for name, group in graph.groups.items():
        first = min((unit for unit in group.units if unit in place), key=place.__getitem__, default=None)
        what = assumed[first] if first is not None else _OTHER_WIDTHS if graph.coupling.regrouped else None
        if what is not None and len(group.units) > 1 and group.free:
            left[name] = what
    locked: dict[str, str] = {}
    with undisturbed(model):
        for trial in (_run, lambda *cut: verify(*cut, backward=False)):
            failure = _try_all(model, inputs, graph, left, trial)
            if failure is not None and trial is not _run:
                check_steady(model, inputs, graph)
            suspects = [] if failure is None else _nearest(graph, left, failure)
            while failure is not None and suspects:
                name = suspects.pop(0)
                others = [other for other in left if other != name]
                next_one = _try_all(model, inputs, graph, others, trial)
                gets_further = next_one is None or len(next_one.layers) > len(failure.layers)
                if gets_further or _try_all(model, inputs, graph, [name], trial) is not None:
                    locked[name] = f"{left.pop(name)}, and its code fixes how many: {failure}"
                    failure = next_one
                    suspects = [] if failure is None else _nearest(graph, left, failure)
    for name, why in locked.items():
        graph.coupling.lock(graph.groups[name].units, why)
    if locked:
        graph.build()


def _try_all(
    model: nn.Module, inputs: ModelInputs, graph: ChannelGraph, names: Iterable[str], trial: Trial
) -> StoppedError | None:
    """Cut one channel of each of these groups. Returns what went wrong, None if nothing did."""
    removed: set[int] = set()
    for name in names:
        unit = graph.groups[name].free[-1]
        removed |= {unit} | _beside(graph, {unit})
    return _failure(model, inputs, graph, removed, trial)


def _nearest(graph: ChannelGraph, names: Iterable[str], failure: StoppedError) -> list[str]:
    """Sort groups, those of the layers that ran last before a failure first: they are most likely to blame."""
    place = {layer: number for number, layer in enumerate(failure.layers)}
    nearest = {name: max(place.get(layer, -1) for layer in graph.groups[name].layers) for name in names}
    return sorted(names, key=nearest.__getitem__, reverse=True)


def failing_groups(
    model: nn.Module, inputs: ModelInputs, graph: ChannelGraph, removed: set[int], *, backward: bool = True
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
        why = _failure(model, inputs, graph, runs | own, lambda *cut: verify(*cut, backward=backward))
        if why is None:
            runs |= own
        else:
            failing[name] = str(why)
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


def _failure(
    model: nn.Module, inputs: ModelInputs, graph: ChannelGraph, removed: set[int], trial: Trial
) -> StoppedError | None:
    """Return what is wrong when these units are removed, None if nothing is; the network is put back."""
    if not removed:
        return None
    try:
        undo = apply_cut(model, plan_cut(graph, removed), is_trial=not graph.trace.reads_numbers)
    except StructureError as error:
        return StoppedError(str(error), [])
    try:
        trial(model, inputs, graph, removed)
    except StoppedError as error:
        return error
    finally:
        undo()
    return None


def _run(model: nn.Module, inputs: ModelInputs, graph: ChannelGraph, removed: set[int]) -> None:
    """Run a network after a cut; raises `StoppedError` where it fails or gives other shapes."""
    before = graph.trace
    ran: list[str] = []
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in before.layers.items():
            hooks.enter_context(layer.module.register_forward_hook(lambda *_, name=name: ran.append(name)))
        try:
            _check_outputs(attempt(lambda: run(model, inputs), shapes_only=not before.reads_numbers), before)
        except ArgumentError as error:
            raise StoppedError(str(error), ran) from error


def _check_outputs(outputs: Sequence[Tensor], before: Trace) -> None:
    shapes = [tuple(output.shape) for output in outputs]
    if shapes != before.outputs:
        raise ArgumentError(f"its outputs have shapes {shapes} instead of {before.outputs}")


def _check_training(model: nn.Module, inputs: ModelInputs, graph: ChannelGraph, gone: np.ndarray) -> None:
    """Raise unless the network runs in training mode, and takes the same steps there if numbers do not choose them."""
    before = graph.trace
    observer = Observer(before.modules, shapes_only=not before.reads_numbers)
    with torch.no_grad(), training(model):
        observer.observe(model, for_training(inputs))
    if not before.reads_numbers:
        _check_steps(graph, gone, before.flows[1], observer.steps)


def _check_steps(graph: ChannelGraph, gone: np.ndarray, before: Flow, after: Sequence[Step]) -> None:
    """Raise unless a network after a cut does what it did before, on tensors without the channels that went."""
    steps, made = before
    weights: set[object] = set()  # what was computed from weights alone
    for number, (old, new) in enumerate(zip(steps, after, strict=False), start=1):
        tokens, shapes = old.tokens, new.shapes
        is_same = old[:3] == new[:3] and old.num_results == new.num_results and len(old.shapes) == len(shapes)
        is_same &= all(
            token is not None or one == two for token, one, two in zip(tokens, old.shapes, shapes, strict=False)
        )
        is_weight = all(isinstance(token, str) or token in weights for token in tokens)
        for place, shape in enumerate(shapes[len(tokens) :] if is_same else ()):
            if is_weight:
                weights.add((number, place))
            is_same &= _lacks_only(shape, made[number, place], graph, gone, is_weight, _expanded(old))
        if not is_same:
            what = new.what if isinstance(new.what, str) else f"the result of {new.what}"
            raise StoppedError(f"narrower, other channels meet in {what}", layers_of(after[:number]))
    if len(steps) != len(after):
        raise StoppedError("narrower, it does something else", layers_of(after))


def _lacks_only(
    shape: tuple[int, ...],
    labels: Tensor | None,
    graph: ChannelGraph,
    gone: np.ndarray,
    is_weight: bool,
    expanded: set[int],
) -> bool:
    """Return whether a shape is that of a tensor without the channels that went; False where it cannot be told.

    The labels of a weight hold the channels that it makes, not those that it takes. What is the same along an axis to
    which it was `expanded` may be expanded to another width: what it meets next tells to which.
    """
    if labels is None or labels.ndim != len(shape):
        return False
    roots = graph.coupling.bare_roots(labels)
    axes = [axis for axis, size in enumerate(roots.shape) if size > 1]
    if len(axes) != 1 and gone[roots].any():
        return False
    for axis, (size, there) in enumerate(zip(labels.shape, shape, strict=True)):
        expected = int(np.count_nonzero(~gone[roots])) if axes == [axis] else size
        if expected != there and (axis in axes or not (is_weight or axis in expanded)):
            return False
    return True


def _expanded(step: Step) -> set[int]:
    """Return the axes along which `expand` repeats one number, none for another operation."""
    if step.what is not torch.ops.aten.expand.default:
        return set()
    before, after = step.shapes
    own = (1,) * (len(after) - len(before)) + before
    return {axis for axis, size in enumerate(own) if size == 1}
