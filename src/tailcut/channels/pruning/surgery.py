"""Surgery: the indices that each tensor keeps, the cut itself, and its reversal."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from tailcut.channels.graph.groups import ChannelGraph, DependentGroup, units_of
from tailcut.channels.layer_kinds import LayerKind, layer_kind
from tailcut.errors import StructureError

Order = dict[int, int]


@dataclass(frozen=True)
class Cut:
    """Channels and layers that are kept of a network.

    Attributes:
        kept: name of a tensor -> axis -> indices to keep, in their new order. Only what changes is listed.
        sizes: name of a layer -> its new sizes, where they change.
    """

    kept: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)


def plan_cut(graph: ChannelGraph, removed: Iterable[int]) -> Cut:
    """Plan the indices to keep when these units are removed. Nothing is changed.

    Args:
        graph: of the network.
        removed: units, free ones only.
    """
    chosen = set(removed)
    order, pads = _reordered(graph, chosen)
    gone = np.zeros(len(graph.coupling), dtype=bool)  # by unit
    gone[list(chosen)] = True
    cut = Cut()
    for name, axis, units in graph.axes:
        if order:
            indices = _in_order(units.tolist(), gone, order)
            if indices != list(range(len(units))):
                cut.kept.setdefault(name, {})[axis] = indices
        elif (leaves := gone[units]).any():
            cut.kept.setdefault(name, {})[axis] = np.flatnonzero(~leaves).tolist()
    for name, layer in graph.trace.layers.items():
        ends = graph.ends[name]
        if layer.why is not None or not (name in pads or order or any(gone[units].any() for units in ends)):
            continue
        kind = layer_kind(layer.module)
        if kind is not None:
            sizes = pads.get(name) or kind.narrowed(layer.module, *(_num_kept(units, gone, order) for units in ends))
            if sizes != kind.sizes(layer.module):
                cut.sizes[name] = sizes
    return cut


def apply_cut(model: nn.Module, cut: Cut, *, is_trial: bool = False) -> Callable[[], None]:
    """Cut the tensors of `model` (changes the module).

    Narrowed parameters are new `nn.Parameter` objects without gradients; tied ones stay tied, frozen ones frozen.

    Args:
        model: the network.
        cut: what is kept of it.
        is_trial: only the shapes count: narrowed tensors hold the first numbers of the old ones, which they share.

    Returns:
        A function that puts everything back, bit for bit: the old tensors were not touched.

    Raises:
        StructureError: the cut does not fit the model, which is left as it was.
    """
    steps: list[Callable[[], None]] = []

    def undo() -> None:
        while steps:
            steps.pop()()

    made: dict[int, Tensor] = {}
    modules = dict(model.named_modules())
    try:
        with torch.inference_mode(False), torch.no_grad():
            _cut_tensors(model, cut, made, steps, is_trial)
        for name, sizes in cut.sizes.items():
            module = modules[name]
            kind = layer_kind(module)
            if kind is None:
                raise StructureError(f"{name} is a {type(module).__name__}, which has no sizes")
            before = kind.sizes(module)
            kind.set_sizes(module, sizes)
            steps.append(partial(kind.set_sizes, module, before))
            _check_shapes(name, kind, module, sizes)
    except BaseException:
        undo()
        raise
    return undo


def put_tensor(module: nn.Module, attribute: str, value: Tensor) -> None:
    """Replace a parameter or buffer by one of another shape (changes the module)."""
    holder = module._parameters if attribute in module._parameters else module._buffers
    holder[attribute] = value  # type: ignore[assignment]


def holders(model: nn.Module) -> Iterable[tuple[str, nn.Module, str, Tensor]]:
    """Full name, module, attribute and tensor of each parameter and buffer, tied ones under each name."""
    for path, module in model.named_modules():
        for attribute, x in (*module._parameters.items(), *module._buffers.items()):
            if x is not None:
                yield (f"{path}.{attribute}" if path else attribute), module, attribute, x


def _cut_tensors(
    model: nn.Module, cut: Cut, made: dict[int, Tensor], steps: list[Callable[[], None]], is_trial: bool
) -> None:
    places = list(holders(model))
    names: dict[int, str] = {}
    for name, _, _, x in places:
        first = names.setdefault(id(x), name) if name in cut.kept else name
        if name in cut.kept and cut.kept[name] != cut.kept[first]:
            raise StructureError(f"{name} and {first} are one tensor, of which they would keep different channels")
        if name in cut.kept and id(x) not in made:
            value, kept = x.detach(), cut.kept[name]
            if is_trial:
                shape = [len(kept[axis]) if axis in kept else size for axis, size in enumerate(x.shape)]
                value = value.reshape(-1)[: math.prod(shape)].view(shape)
            else:
                for axis, indices in kept.items():
                    value = value.index_select(axis, torch.tensor(indices, dtype=torch.int64, device=x.device))
                value = value.contiguous(memory_format=memory_format_of(x))
            made[id(x)] = nn.Parameter(value, requires_grad=x.requires_grad) if isinstance(x, nn.Parameter) else value
    for _, module, attribute, x in places:
        if id(x) in made:
            put_tensor(module, attribute, made[id(x)])
            steps.append(partial(put_tensor, module, attribute, x))


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return the format of a tensor that lies with its channels last, else the contiguous one."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    is_last = last is not None and x.is_contiguous(memory_format=last) and not x.is_contiguous()
    return last if is_last and last is not None else torch.contiguous_format


def _check_shapes(name: str, kind: LayerKind, module: nn.Module, sizes: Mapping[str, int]) -> None:
    for attribute, shape in kind.shapes(module, sizes).items():
        x = getattr(module, attribute, None)
        if isinstance(x, Tensor) and tuple(x.shape) != shape:
            raise StructureError(f"{name}.{attribute} would have shape {tuple(x.shape)}, {shape} was expected")


def _num_kept(units: np.ndarray, gone: np.ndarray, order: Order) -> int:
    return len(_in_order(units.tolist(), gone, order)) if order else int(np.count_nonzero(~gone[units]))


def _in_order(units: Sequence[int], gone: np.ndarray, order: Order) -> list[int]:
    """Return the indices along an axis to keep. `order` says which unit takes the place of which."""
    places: dict[int, list[int]] = {}
    for place, unit in enumerate(units):
        places.setdefault(unit, []).append(place)
    seen: dict[int, int] = {}
    indices = []
    for unit in units:
        count = seen[unit] = seen.get(unit, -1) + 1
        comes = order.get(unit, unit)
        if not gone[comes]:
            indices.append(places[comes][count])
    return indices


def _reordered(graph: ChannelGraph, gone: set[int]) -> tuple[Order, dict[str, dict[str, int]]]:
    """Return the new channel order of the dependent groups, and the padding of their shortcuts."""
    order: Order = {}
    pads: dict[str, dict[str, int]] = {}
    followed = set()
    for follower in graph.followers:
        pads[follower.alignment.name] = _reorder(graph, follower, gone, order)
        followed.add(follower.alignment.name)
    for name, alignment in graph.trace.alignments.items():
        if name not in followed:
            units = units_of(graph.coupling, alignment.outer)
            end = alignment.before + len(alignment.inner)
            before, after = units[: alignment.before], units[end:]
            counts = [sum(unit not in gone for unit in part) for part in (before, after)]
            pads[name] = {"pad_before": counts[0], "pad_after": counts[1]}
    return {slot: unit for slot, unit in order.items() if slot != unit}, pads


def _reorder(graph: ChannelGraph, follower: DependentGroup, gone: set[int], order: Order) -> dict[str, int]:
    """Put the follower's channels beside those of its leader again (changes `order`); what is padded then."""
    alignment = follower.alignment
    inner, outer = (units_of(graph.coupling, labels) for labels in (alignment.inner, alignment.outer))
    start, end = alignment.before, alignment.before + len(inner)
    place = {leader: unit for unit, leader in follower.beside.items()}
    lead = [order.get(unit, unit) for unit in inner]
    beside = [place[unit] for unit in lead if unit not in gone]
    alone = [unit for unit in outer[start:end] if unit not in gone and follower.beside[unit] in gone]
    before = [unit for unit in outer[:start] if unit not in gone] + alone
    after = [unit for unit in outer[end:] if unit not in gone]
    if any(unit in gone for unit in beside):
        raise StructureError(f"{alignment.name}: a channel went, the one beside it did not")
    kept = [*before, *beside, *after]
    order |= dict(zip(outer, [*kept, *(unit for unit in outer if unit in gone)], strict=True))
    return {"pad_before": len(before), "pad_after": len(after)}
