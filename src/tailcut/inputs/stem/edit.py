"""The `replace_stem` edit in files: replaced modules, changed widths, selected channels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import nn
from torch.nn.utils import parametrize

from tailcut.errors import CorruptFileError, LimitError, StructureError
from tailcut.inputs.selection.gate import FrequencyGate
from tailcut.inputs.selection.patterns import NUM_CHANNELS
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.stem import surgery
from tailcut.inputs.transform.block_dct import BlockDCT, Chroma, Padding
from tailcut.inputs.transform.input_transform import TRANSFORM, input_transform_of
from tailcut.structure import Edit, Reader, Writer, register_edit

SELECTION_BYTES = NUM_CHANNELS // 8
MAX_MODULES = 1 << 12
MAX_WIDTH = 1 << 16
MAX_SIDE = 64
MAX_MAP_SIZE = 1 << 10  # an image of 8,192 pixels a side: running a file's example takes no more
# Numbers in files: only ever append.
CHROMA: tuple[Chroma, ...] = ("two_scale", "full")
PADDING: tuple[Padding, ...] = ("edge", "error")
# Strides of convolutions, counts of pixels (also timm's) and of channels (transformers'), switches of a shortcut
# (Tailcut's, torchvision's).
ATTRIBUTES = ("stride", "image_size", "patch_size", "has_shortcut", "use_res_connect", "img_size", "num_channels")
SWITCHES = ("has_shortcut", "use_res_connect")
_NOTHING, _GATE, _LAYER = 0, 1, 2


class GateEntry(NamedTuple):
    """The first module of the stem became a gate, trained at this temperature."""

    temperature: float


class LayerEntry(NamedTuple):
    """The first module of the stem became a convolution over the channels, its maps enlarged by `shuffle`."""

    out_channels: int
    kernel: int
    stride: int
    padding: int
    shuffle: int


class Resized(NamedTuple):
    """A layer that takes another number of channels; groups are 0 where it is no convolution."""

    name: str
    in_channels: int
    out_channels: int
    groups: int


class Projection(NamedTuple):
    """A block whose shortcut, the identity before, changes the number of channels."""

    name: str
    attribute: str
    in_channels: int
    out_channels: int


class Setting(NamedTuple):
    """A convolution with another stride, or another attribute of a module, of `ATTRIBUTES`."""

    name: str
    attribute: str
    value: int


@register_edit
@dataclass(frozen=True)
class ReplaceStemEdit(Edit):
    """A network that reads frequency channels instead of pixels.

    Attributes:
        selection: the channels.
        chroma: how the transform makes chroma, one of `CHROMA`.
        padding: what it does with sizes that are no multiple of 8, one of `PADDING`.
        removed: modules that became `nn.Identity`, in the order in which they ran.
        entry: what the first of them became instead, None for nothing else.
        inside: the transform is a child of the first removed module, not of the network (an `nn.Sequential`
            would run it).
        resized: layers that take another number of channels.
        projections: shortcuts that do.
        settings: changed strides, counts of pixels, and shortcuts switched off.
        map_size: height and width of the channels of an example image.
    """

    number = 2
    kind = "replace_stem"

    selection: Selection
    chroma: Chroma = CHROMA[0]
    padding: Padding = PADDING[0]
    removed: tuple[str, ...] = ()
    entry: GateEntry | LayerEntry | None = None
    inside: bool = False
    resized: tuple[Resized, ...] = ()
    projections: tuple[Projection, ...] = ()
    settings: tuple[Setting, ...] = ()
    map_size: tuple[int, int] = (56, 56)

    def apply(self, model: nn.Module) -> None:
        """Replace the stem; the new layers have new numbers, the transform no statistics. Changes the model."""
        # What is made here is filled in later: the global random state stays as it is.
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            self.replace_modules(model)
            transform = BlockDCT(self.selection, chroma=self.chroma, padding=self.padding)
            owner = model.get_submodule(self.removed[0]) if self.inside else model
            transform = transform.to(surgery.like_model(model)).train(owner.training)
            owner.add_module(TRANSFORM, transform)

    def replace_modules(self, model: nn.Module) -> None:
        """`apply` without the transform. Changes the model."""
        like = surgery.like_model(model)
        for layer in self.resized:
            surgery.resize(model.get_submodule(layer.name), layer[1:])
        for shortcut in self.projections:
            block = model.get_submodule(shortcut.name)
            new = surgery.projection(shortcut.in_channels, shortcut.out_channels, like).train(block.training)
            setattr(block, shortcut.attribute, new)
        for name, attribute, value in self.settings:
            module = model.get_submodule(name)
            setattr(module, attribute, _as_attribute(attribute, value, getattr(module, attribute)))
        for place, name in enumerate(self.removed):
            surgery.replace(model, name, self._entry(like) if place == 0 else nn.Identity())

    def check(self, model: nn.Module) -> None:
        """Raise `StructureError` unless the modules are there and can be changed so. The model is not changed."""
        modules = dict(model.named_modules())
        if input_transform_of(model) is not None:
            raise StructureError("the model's input is replaced already; start from a fresh network")
        parametrized = next((name for name, module in modules.items() if parametrize.is_parametrized(module)), None)
        if parametrized is not None:
            raise StructureError(
                f"{parametrized or 'the model'} is parametrised, for example by regularize: replace the stem first, "
                "then regularise"
            )
        changed: tuple[Resized | Projection | Setting, ...] = (*self.resized, *self.projections, *self.settings)
        touched = [*self.removed, *(item.name for item in changed)]
        for name in touched:
            if name not in modules:
                raise StructureError(f"the model has no module {name!r}, which the edit changes")
        _check_apart(self.removed, touched)
        for layer in self.resized:
            surgery.check_widths(layer.name, modules[layer.name], layer[1:])
        for shortcut in self.projections:
            if surgery.empty_shortcut(modules[shortcut.name]) != shortcut.attribute:
                raise StructureError(f"{shortcut.name} has no empty shortcut {shortcut.attribute!r} to fill")
        for setting in self.settings:
            _check_setting(setting, modules[setting.name])
        if not self.inside and hasattr(model, TRANSFORM):
            raise StructureError(f"the model has an attribute {TRANSFORM!r}, which is reserved for the transform")

    def current(self, model: nn.Module) -> Self:
        """Return the edit with the transform and the temperature that `model` has now."""
        transform = transform_of(model)
        if transform is None:
            raise StructureError(f"the model has lost its {TRANSFORM}, though its record says that it reads channels")
        entry = self.entry
        if isinstance(entry, GateEntry):
            gate = model.get_submodule(self.removed[0])
            if not isinstance(gate, FrequencyGate):
                raise StructureError(f"{self.removed[0]} is no longer the gate that the model's record says it is")
            entry = GateEntry(gate.temperature)
        return replace(
            self, selection=transform.selection, chroma=transform.chroma, padding=transform.padding, entry=entry
        )

    def example_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an example input: channels instead of images of `shape`, (batch, 3, height, width)."""
        return (shape[0], self.selection.num_channels, *self.map_size)

    def within(self, part: str) -> Self:
        """Return this edit of the module `part` as an edit of the whole network."""
        if part == "":
            return self
        return replace(
            self,
            removed=tuple(f"{part}.{name}" for name in self.removed),
            resized=tuple(layer._replace(name=_joined(part, layer.name)) for layer in self.resized),
            projections=tuple(item._replace(name=_joined(part, item.name)) for item in self.projections),
            settings=tuple(item._replace(name=_joined(part, item.name)) for item in self.settings),
        )

    def encode(self, writer: Writer, model: nn.Module | None) -> None:
        """Transform, removed modules, entry, changed layers; see `format/SPEC.md`."""
        name = _name_writer(writer, model)
        writer.byte(CHROMA.index(self.chroma) + 2 * PADDING.index(self.padding) + 4 * self.inside)
        writer.raw(sum(1 << index for index in self.selection.indices).to_bytes(SELECTION_BYTES, "little"))
        for size in self.map_size:
            writer.uint(size)
        writer.uint(len(self.removed))
        for removed in self.removed:
            name(removed)
        _write_entry(writer, self.entry)
        writer.uint(len(self.resized))
        for layer in self.resized:
            name(layer.name)
            for width in layer[1:]:
                writer.uint(width)
        writer.uint(len(self.projections))
        for shortcut in self.projections:
            name(shortcut.name)
            writer.uint(surgery.SHORTCUTS.index(shortcut.attribute))
            writer.uint(shortcut.in_channels)
            writer.uint(shortcut.out_channels)
        writer.uint(len(self.settings))
        for setting in self.settings:
            name(setting.name)
            writer.uint(ATTRIBUTES.index(setting.attribute))
            writer.uint(setting.value)

    @classmethod
    def decode(cls, reader: Reader, model: nn.Module | None) -> Self:
        """Read what `encode` wrote; every number is bounded, the network is not yet asked."""
        name = _name_reader(reader, model)
        flags = reader.byte()
        if flags > 7:
            raise CorruptFileError(f"the transform of a replaced stem has the flags {flags}, at most 7 is known")
        bits = int.from_bytes(reader.raw(SELECTION_BYTES), "little")
        indices = [index for index in range(NUM_CHANNELS) if bits >> index & 1]
        if not indices:
            raise CorruptFileError("a replaced stem without channels")
        map_size = _map_size(reader), _map_size(reader)
        removed = tuple(name() for _ in range(_count(reader, "removed modules")))
        entry = _read_entry(reader)
        resized = tuple(
            Resized(name(), _width(reader), _width(reader), reader.uint(at_most=MAX_WIDTH, of="a number of groups"))
            for _ in range(_count(reader, "resized layers"))
        )
        projections = tuple(
            Projection(name(), _choice(reader, surgery.SHORTCUTS, "a shortcut"), _width(reader), _width(reader))
            for _ in range(_count(reader, "projections"))
        )
        settings = tuple(
            Setting(name(), _choice(reader, ATTRIBUTES, "a setting"), reader.uint(at_most=MAX_WIDTH, of="a setting"))
            for _ in range(_count(reader, "settings"))
        )
        edit = cls(
            Selection.of(indices),
            CHROMA[flags & 1],
            PADDING[flags >> 1 & 1],
            removed,
            entry,
            bool(flags >> 2),
            resized,
            projections,
            settings,
            map_size,
        )
        edit._check_consistent()
        return edit

    def _check_consistent(self) -> None:
        if not self.removed and (self.inside or self.entry is not None):
            raise CorruptFileError("a replaced stem adds a replacement, but removes no module")
        for names in (self.removed, [item.name for item in self.resized], [item.name for item in self.projections]):
            if len(set(names)) < len(names):
                raise CorruptFileError("a replaced stem names a module twice")
        if len({setting[:2] for setting in self.settings}) < len(self.settings):
            raise CorruptFileError("a replaced stem sets an attribute twice")

    def _entry(self, like: torch.Tensor) -> nn.Module:
        if self.entry is None:
            return nn.Identity()
        if isinstance(self.entry, GateEntry):
            return FrequencyGate(self.selection, temperature=self.entry.temperature).to(like)
        out_channels, kernel, stride, padding, shuffle = self.entry
        width = self.selection.num_channels, out_channels * shuffle**2
        convolution = nn.Conv2d(*width, kernel, stride, padding, device=like.device, dtype=like.dtype)
        return convolution if shuffle == 1 else surgery.FinerConvolution(convolution, shuffle)


def transform_of(model: nn.Module) -> BlockDCT | None:
    """Return the transform from pixels to the channels of `model`, or None if it reads pixels (model not changed)."""
    return next((module for module in model.modules() if isinstance(module, BlockDCT)), None)


def _joined(part: str, name: str) -> str:
    return f"{part}.{name}" if name else part


def _check_apart(removed: Sequence[str], touched: Sequence[str]) -> None:
    """Check that no changed module is inside a removed one."""
    gone = set(removed)
    if "" in gone:
        raise StructureError("the edit removes the whole network")
    for name in touched:
        parts = name.split(".")
        above = next((".".join(parts[:end]) for end in range(1, len(parts)) if ".".join(parts[:end]) in gone), None)
        if above is not None:
            raise StructureError(f"the edit changes {name}, which goes away with {above}")


def _as_attribute(attribute: str, value: int, present: object) -> object:
    """Return a setting as the attribute holds it now: a number, a switch, or one number along both axes."""
    if attribute == "stride":
        return value, value
    if isinstance(present, (list, tuple)):
        return type(present)((value, value))
    return bool(value) if attribute in SWITCHES else value


def _check_setting(setting: Setting, module: nn.Module) -> None:
    name, attribute, value = setting
    if attribute == "stride":
        if not isinstance(module, nn.Conv2d):
            raise StructureError(f"{name} is a {type(module).__name__}; only a convolution's stride can be set")
    elif type(count_of(module, attribute)) is not (bool if attribute in SWITCHES else int):
        raise StructureError(f"{name or 'the model'} has no attribute {attribute!r} to set to {value}")
    if value == 0 and attribute not in SWITCHES:
        raise StructureError(f"{name or 'the model'}: {attribute} cannot be 0")


def count_of(module: nn.Module, attribute: str) -> object:
    """Return an attribute of a module, of two equal numbers in a list or tuple the one; None if there is none."""
    found = vars(module).get(attribute)
    is_pair = isinstance(found, (list, tuple)) and len(found) == 2 and found[0] == found[1]
    return found[0] if is_pair and found is not None else found


def _write_entry(writer: Writer, entry: GateEntry | LayerEntry | None) -> None:
    if entry is None:
        writer.byte(_NOTHING)
    elif isinstance(entry, GateEntry):
        writer.byte(_GATE)
        writer.float64(entry.temperature)
    else:
        writer.byte(_LAYER)
        for number in entry:
            writer.uint(number)


def _read_entry(reader: Reader) -> GateEntry | LayerEntry | None:
    kind = reader.byte()
    if kind == _NOTHING:
        return None
    if kind == _GATE:
        temperature = reader.float64()
        if not 0 < temperature < float("inf"):
            raise CorruptFileError(f"a gate has the temperature {temperature}, which must be above 0")
        return GateEntry(temperature)
    if kind != _LAYER:
        raise CorruptFileError(f"unknown kind {kind} of what takes the place of a stem")
    out_channels = _width(reader)
    kernel, stride, padding, shuffle = (reader.uint(at_most=MAX_SIDE, of="a size of a layer") for _ in range(4))
    if 0 in (kernel, stride, shuffle):
        raise CorruptFileError("a layer in the place of a stem has a size of 0")
    if out_channels * shuffle**2 > MAX_WIDTH:
        raise LimitError(f"a layer in the place of a stem has more than {MAX_WIDTH} channels")
    return LayerEntry(out_channels, kernel, stride, padding, shuffle)


def _name_writer(writer: Writer, model: nn.Module | None) -> Callable[[str], None]:
    if model is None:
        return writer.text
    places = {name: place for place, (name, _) in enumerate(model.named_modules())}

    def write(name: str) -> None:
        if name not in places:
            raise StructureError(f"the recorded base has no module {name!r}")
        writer.uint(places[name])

    return write


def _name_reader(reader: Reader, model: nn.Module | None) -> Callable[[], str]:
    if model is None:
        return reader.text
    names = [name for name, _ in model.named_modules()]
    return lambda: names[reader.uint(at_most=len(names) - 1, of="the number of a module")]


def _count(reader: Reader, what: str) -> int:
    return reader.uint(at_most=MAX_MODULES, of=f"the number of {what}")


def _width(reader: Reader) -> int:
    return _positive(reader, MAX_WIDTH, "a number of channels of a replaced stem")


def _map_size(reader: Reader) -> int:
    return _positive(reader, MAX_MAP_SIZE, "the size of a map")


def _positive(reader: Reader, at_most: int, what: str) -> int:
    number = reader.uint(at_most=at_most, of=what)
    if number == 0:
        raise CorruptFileError(f"{what} is 0")
    return number


def _choice(reader: Reader, choices: Sequence[str], what: str) -> str:
    return choices[reader.uint(at_most=len(choices) - 1, of=what)]
