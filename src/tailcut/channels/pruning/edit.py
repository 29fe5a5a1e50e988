"""The `prune` edit in files: the layers that are narrower than built, and their widths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tailcut.channels.layer_kinds import KIND_BY_NUMBER, LayerKind, PaddedShortcut, layer_kind
from tailcut.channels.pruning.surgery import Cut, holders, memory_format_of, put_tensor
from tailcut.errors import CorruptFileError, StructureError, UnsupportedVersionError
from tailcut.structure import Edit, Reader, Writer, record_of, register_edit, set_record
from tailcut.structure.record import Record

MAX_ENTRIES = 1 << 14


class NarrowedLayer(NamedTuple):
    """A layer and its sizes.

    Attributes:
        name: of the module.
        kind: number of its row in `layer_kinds`.
        sizes: values of the row's attributes, in their order.
    """

    name: str
    kind: int
    sizes: tuple[int, ...]


class NarrowedTensor(NamedTuple):
    """A parameter or buffer outside of layers, and its shape."""

    name: str
    shape: tuple[int, ...]


@register_edit
@dataclass(frozen=True)
class PruneEdit(Edit):
    """Layers with fewer channels. The removed channels are not recorded: the file holds the kept numbers."""

    number = 3
    kind = "prune"

    layers: tuple[NarrowedLayer, ...]
    tensors: tuple[NarrowedTensor, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, cut: Cut) -> Self:
        """Return the edit that describes a cut already made on `model`. Does not change the model."""
        modules = dict(model.named_modules())
        layers = []
        for name in (name for name in modules if name in cut.sizes):
            kind = _kind(name, modules[name])
            layers.append(NarrowedLayer(name, kind.number, tuple(cut.sizes[name][key] for key in kind.attributes)))
        own = _layer_tensors(modules)
        free = [
            NarrowedTensor(name, tuple(x.shape))
            for name, _, _, x in holders(model)
            if name in cut.kept and name not in own
        ]
        return cls(tuple(layers), tuple(free))

    def followed_by(self, other: "PruneEdit", model: nn.Module) -> "PruneEdit":
        """Return this edit and the one right after it, both made on `model`, as one. Does not change the model."""
        layers = {layer.name: layer for layer in (*self.layers, *other.layers)}
        tensors = {tensor.name: tensor for tensor in (*self.tensors, *other.tensors)}
        names = [name for name, _ in model.named_modules()]
        places = [name for name, *_ in holders(model)]
        return PruneEdit(
            tuple(layers[name] for name in names if name in layers),
            tuple(tensors[name] for name in places if name in tensors),
        )

    def current(self, model: nn.Module) -> Self:
        """Return the edit itself: widths do not change in training."""
        return self

    def check(self, model: nn.Module) -> None:
        """Raise `StructureError` unless `model` has these layers, of these kinds, and each is at least as wide."""
        modules = dict(model.named_modules())
        widest = max((size for *_, x in holders(model) for size in x.shape), default=0)
        for layer in self.layers:
            if layer.name not in modules:
                raise StructureError(f"the model has no layer {layer.name!r} to narrow")
            module = modules[layer.name]
            kind = _kind(layer.name, module)
            if kind.number != layer.kind:
                expected = type(KIND_BY_NUMBER[layer.kind]).__name__
                raise StructureError(f"{layer.name} is of the kind {type(kind).__name__}, recorded is {expected}")
            sizes = dict(zip(kind.attributes, layer.sizes, strict=True))
            why = kind.failure_reason(module, sizes)
            if isinstance(kind, PaddedShortcut) and max(layer.sizes) > widest:
                why = f"it pads {max(layer.sizes)} channels, the widest tensor of the model has {widest}"
            if why is not None:
                raise StructureError(f"{layer.name} cannot be narrowed: {why}")
        self._check_tensors(model, modules)

    def apply(self, model: nn.Module) -> None:
        """Narrow the layers; their new tensors are not filled in. Changes the model."""
        modules = dict(model.named_modules())
        shapes = {tensor.name: tensor.shape for tensor in self.tensors}
        for layer in self.layers:
            module = modules[layer.name]
            kind = _kind(layer.name, module)
            sizes = dict(zip(kind.attributes, layer.sizes, strict=True))
            kind.set_sizes(module, sizes)
            prefix = f"{layer.name}." if layer.name else ""
            shapes |= {f"{prefix}{attribute}": shape for attribute, shape in kind.shapes(module, sizes).items()}
        _reshape_tensors(model, shapes)

    def encode(self, writer: Writer, model: nn.Module | None) -> None:
        """Layers, then tensors outside of layers; see `format/SPEC.md`."""
        writer.uint(len(self.layers))
        names = None if model is None else [name for name, _ in model.named_modules()]
        last = -1
        for layer in self.layers:
            if names is None:
                writer.text(layer.name)
            else:
                if layer.name not in names:
                    raise StructureError(f"the recorded base has no layer {layer.name!r}")
                place = names.index(layer.name)
                writer.uint(place - last - 1)
                last = place
            writer.byte(layer.kind)
            for size in layer.sizes:
                writer.uint(size)
        writer.uint(len(self.tensors))
        for tensor in self.tensors:
            writer.text(tensor.name)
            writer.shape(tensor.shape)

    @classmethod
    def decode(cls, reader: Reader, model: nn.Module | None) -> Self:
        """Read what `encode` wrote."""
        names = None if model is None else [name for name, _ in model.named_modules()]
        layers: list[NarrowedLayer] = []
        last = -1
        for _ in range(reader.uint(at_most=MAX_ENTRIES, of="the number of narrowed layers")):
            if names is None:
                name = reader.text()
            else:
                last += 1 + reader.uint(of="the place of a layer")
                if last >= len(names):
                    raise CorruptFileError(f"layer number {last} is narrowed, the network has {len(names)} modules")
                name = names[last]
            number = reader.byte()
            if number not in KIND_BY_NUMBER:
                raise UnsupportedVersionError(f"unknown kind of layer {number}; the file may need a newer version")
            sizes = tuple(reader.uint(of="a size") for _ in KIND_BY_NUMBER[number].attributes)
            layers.append(NarrowedLayer(name, number, sizes))
        count = reader.uint(at_most=MAX_ENTRIES, of="the number of narrowed tensors")
        tensors = [NarrowedTensor(reader.text(), reader.shape()) for _ in range(count)]
        for entries in (layers, tensors):
            if len({entry.name for entry in entries}) < len(entries):
                raise CorruptFileError("a layer or tensor is narrowed twice")
        return cls(tuple(layers), tuple(tensors))

    def _check_tensors(self, model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
        there = {name: x for name, _, _, x in holders(model)}
        own = _layer_tensors(modules)
        for name, shape in self.tensors:
            if name not in there or name in own:
                raise StructureError(f"the model has no tensor {name!r} outside of layers to narrow")
            before = tuple(there[name].shape)
            if len(shape) != len(before) or not all(1 <= new <= old for new, old in zip(shape, before, strict=True)):
                raise StructureError(f"{name} of shape {before} cannot be narrowed to {shape}")


def record_edit(model: nn.Module, edit: PruneEdit) -> None:
    """Write an edit that was made on `model` into its record; edits right after one another become one."""
    record = record_of(model)
    edits = list(record.edits)
    last = edits[-1] if edits else None
    if isinstance(last, PruneEdit):
        edit = last.followed_by(edit, model)
        edits.pop()
    set_record(model, Record(record.base, [*edits, edit]))


def _kind(name: str, module: nn.Module) -> LayerKind:
    kind = layer_kind(module)
    if kind is None:
        raise StructureError(f"{name} is a {type(module).__name__}, which cannot be narrowed")
    if parametrize.is_parametrized(module):
        raise StructureError(f"{name} is parametrised, so it cannot be narrowed; prune first, parametrise afterwards")
    return kind


def _layer_tensors(modules: Mapping[str, nn.Module]) -> set[str]:
    """Return the tensors that narrow with a layer; other tensors of a layer (a gain) are narrowed on their own."""
    found: set[str] = set()
    for name, module in modules.items():
        kind = layer_kind(module)
        attributes = () if kind is None else kind.shapes(module, kind.sizes(module))
        found |= {f"{name}.{attribute}" if name else attribute for attribute in attributes}
    return found


def _reshape_tensors(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give tensors new shapes, tied ones together, without filling them (changes the model)."""
    places = list(holders(model))
    made: dict[int, Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():
        for name, _, _, x in places:
            shape = shapes.get(name)
            if shape is None or (shape == tuple(x.shape) and id(x) not in made):
                continue
            if id(x) in made and tuple(made[id(x)].shape) != shape:
                raise StructureError(f"{name} is tied to a tensor of another width")
            value = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))
            made.setdefault(
                id(x), nn.Parameter(value, requires_grad=x.requires_grad) if isinstance(x, nn.Parameter) else value
            )
    for _, module, attribute, x in places:
        if id(x) in made:
            put_tensor(module, attribute, made[id(x)])
