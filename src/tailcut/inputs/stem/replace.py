"""`replace_stem`: makes a network read frequency channels instead of pixels (section 3.1, figure 3)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError, StructureError
from tailcut.inputs.selection.gate import FrequencyGate, check_temperature
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.stem import surgery
from tailcut.inputs.stem.edit import MAX_MAP_SIZE, MAX_SIDE, GateEntry, ReplaceStemEdit, Setting, transform_of
from tailcut.inputs.stem.trace import trial_copy
from tailcut.inputs.stem.trial import found, noise
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.inputs.transform.input_transform import InputTransform, input_transform_of
from tailcut.printing import Report, table
from tailcut.structure import Edit, add_edit, base_of, example_shape, family, image_size, record_of
from tailcut.structure.views import check_is_bare
from tailcut.transform.block import BLOCK_SIZE

VARIANTS = ("paper", "published")
_RESNET = ("conv1", "bn1", "layer1", "layer2", "layer3")


def first_kept_module(model: nn.Module) -> str | None:
    """Return the name of the first module that is kept when channels replace pixels, or None for an unknown network.

    Families are recognised by torchvision's module names: ResNet (`layer1`), MobileNetV2 (the first inverted residual,
    `features.1`) and VGG (the first convolution after the second pooling). In all of them a 448-pixel image (896 for
    MobileNetV2) gives the kept modules maps of the size that a 224-pixel RGB image gave them, so that their weights
    still fit. (VGG without the third pooling is `first="features.17"`: RGB's map size at 448, at four times the cost.)
    """
    children = dict(model.named_children())
    if all(name in children for name in _RESNET):
        return "layer1"
    features = children.get("features")
    if not isinstance(features, nn.Sequential):
        return None
    if any(type(module).__name__ == "InvertedResidual" for module in features.children()) and len(features) > 1:
        return "features.1" if type(features[1]).__name__ == "InvertedResidual" else None
    pools = [place for place, module in enumerate(features) if isinstance(module, nn.MaxPool2d)]
    convolutions = [module for module in features if isinstance(module, nn.Conv2d)]
    is_vgg = len(pools) > 2 and all(layer.kernel_size == (3, 3) and layer.stride == (1, 1) for layer in convolutions)
    return f"features.{pools[1] + 1}" if is_vgg else None


def stride_settings(model: nn.Module, strides: str | Mapping[str, int]) -> tuple[Setting, ...]:
    """Return the strides to set for a variant.

    Args:
        model: the network; it is not changed.
        strides: "paper" changes none. "published" sets stride 1 in `layer2` of a ResNet, as the published code does:
            3.3 times the multiplications, which the paper does not mention. Or a dict: name of a convolution ->
            its stride.

    Raises:
        ArgumentError: no such variant, not for this network, or no such convolution.
    """
    if isinstance(strides, Mapping):
        return tuple(_setting(model, name, stride) for name, stride in strides.items())
    if strides not in VARIANTS:
        raise ArgumentError(f"strides must be {' or '.join(VARIANTS)} or a dict of convolutions, got {strides!r}")
    if strides == "paper":
        return ()
    if first_kept_module(model) != "layer1":
        raise ArgumentError('strides="published" is for ResNets; for others give a dict of convolutions and strides')
    stage = model.get_submodule("layer2")
    return tuple(
        Setting(f"layer2.{name}", "stride", 1)
        for name, layer in stage.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)
    )


def _setting(model: nn.Module, name: str, stride: int) -> Setting:
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, nn.Conv2d):
        raise ArgumentError(f"strides: the model has no convolution {name!r}")
    if isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride <= MAX_SIDE:
        raise ArgumentError(f"strides: {name} needs a stride of 1 to {MAX_SIDE}, got {stride!r}")
    return Setting(name, "stride", stride)


_log = logging.getLogger(__name__)

EXAMPLE_SHAPE = (1, 3, 224, 224)
MAX_SIZE = MAX_MAP_SIZE * BLOCK_SIZE
MANY = 6  # more names than this are not printed one by one
Channels = int | Sequence[int] | Selection | BlockDCT


@dataclass(frozen=True)
class StemReport(Report):
    """A network that reads frequency channels, as `describe_stem` sees it.

    Attributes:
        num_channels: channels that it reads.
        chroma: how they are made, "two_scale" or "full".
        image_size: height and width of the image, in pixels.
        map_size: height and width of the channels.
        removed: modules that gave way.
        gate: whether a gate chooses among the channels.
        changed: layers that take other channels or have another stride, and shortcuts that became projections.
        num_parameters: of the network.
        macs: multiply-accumulate operations for one image, without those of the transform.
    """

    num_channels: int
    chroma: str
    image_size: tuple[int, int]
    map_size: tuple[int, int]
    removed: tuple[str, ...]
    gate: bool
    changed: tuple[str, ...]
    num_parameters: int
    macs: int

    def __str__(self) -> str:
        """Return the report as a table."""
        (height, width), (rows, columns) = self.image_size, self.map_size
        rows_of_table = [
            ("image", f"{height} x {width}"),
            ("channels", f"{self.num_channels} x {rows} x {columns}, {self.chroma} chroma{', gated' * self.gate}"),
            ("removed", _listed(self.removed)),
            *(("changed" if place == 0 else "", what) for place, what in enumerate(self.changed or ("nothing",))),
            ("parameters", f"{self.num_parameters:,}"),
            ("MACs", f"{self.macs:,}"),
        ]
        return table(("stem", ""), rows_of_table)


def replace_stem(
    model: nn.Module,
    channels: Channels = 64,
    *,
    first: str | None = None,
    part: str = "",
    strides: str | Mapping[str, int] = "paper",
    gate: bool | float = False,
    example_input: Tensor | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> nn.Module:
    """Make a network read frequency channels instead of pixels. Changes the model.

    The modules that run before the first kept one become `nn.Identity`. Layers that read the channels are rebuilt
    where their number differs, with new weights started as the family starts its own (He et al., fan out; as PyTorch
    does in other networks); all other weights stay. A depthwise convolution becomes as wide as what enters it. A
    residual block whose shortcut was the identity (the first of ResNet-18's) gets a 1 x 1 convolution with batch norm
    there, as ResNets have wherever a block changes the width; only so the width of all blocks behind it stays. One of
    MobileNetV2 loses its shortcut, as MobileNetV2 has none there.

    The model then takes `(batch, channels, height / 8, width / 8)`. It keeps the transform that makes these channels
    as its child `input_transform` (see `transform_of`), so that its statistics are saved with it; the forward does not
    apply it. The change is recorded: `tailcut.save` and `load` restore it. Make the optimiser afterwards.

    Args:
        model: a ResNet, MobileNetV2 or VGG, registered or torchvision's; or any CNN, with `first`.
        channels: how many (`Selection.of`), a list, a `Selection`, or a `BlockDCT` (it becomes the model's own).
        first: name of the first module that is kept, for example "layer1".
        part: name of the module that reads the pixels, if it is not the model itself, for example "backbone.body" of
            a detector. `first` and `strides` are then names in this part, and it is the part that is tried.
        strides: "paper"; or "published", stride 1 in a ResNet's `layer2`; or a dict of convolutions and strides.
        gate: put a `FrequencyGate` before the first kept module; a number is its temperature.
        example_input: pixels that the model (or its part) takes as it is, (batch, 3, height, width); of its example
            shape when None (224 x 224 for a network of your own).
        image_size: side, or (height, width), in pixels, of the images that the transform will get; files record it
            to those who predict. None: such that the first kept module sees maps of the size that it saw, 448 for a
            ResNet that was built for 224.

    Returns:
        The model.

    Raises:
        ArgumentError: `first` is needed, does not exist or does not run; the other arguments do not fit.
        StructureError: the stem cannot be replaced so; the message says why. The model is unchanged.
    """
    transform = channels if isinstance(channels, BlockDCT) else BlockDCT(channels)
    check_unedited(model)
    reader = submodule(model, part, "part")
    usual = first_kept_module(reader)
    boundary = usual if first is None else first
    if boundary is None:
        raise ArgumentError('this network is not known: name the first module to keep, for example first="layer1"')
    if boundary == "":
        raise ArgumentError("first: the whole network cannot be the first module that is kept")
    submodule(reader, boundary, "first")
    entry = None if gate is False else GateEntry(check_temperature(1.0 if gate is True else gate))
    settings = stride_settings(reader, strides)
    edit = ReplaceStemEdit(transform.selection, transform.chroma, transform.padding, entry=entry, settings=settings)
    example = example_of(reader) if example_input is None else example_input
    with torch.random.fork_rng(devices=[]):
        edit = found(edit, trial_copy(reader), boundary, example).within(part)
    if part:  # what a part runs has nothing to do with the network's own children
        edit = replace(edit, inside=type(model).forward is nn.Sequential.forward)
    if image_size is not None:
        edit = replace(edit, map_size=_map_size(image_size)[1])
    known = usual is not None  # then new layers are initialised like the family's own
    make(model, edit, transform)
    for layer in edit.resized:
        _start(model.get_submodule(layer.name), known=known)
    for shortcut in edit.projections:
        _start(getattr(model.get_submodule(shortcut.name), shortcut.attribute)[0], known=known)
    if entry is not None:
        gates = (module for module in model.modules() if isinstance(module, FrequencyGate))
        next(gates).reset_parameters()
    _log.debug("replaced the stem (%s) by %d channels", ", ".join(edit.removed), transform.num_channels)
    return model


def describe_stem(model: nn.Module, *, image_size: int | tuple[int, int] | None = None) -> StemReport:
    """Report the channels that a network with a replaced stem reads, and their cost. Does not change the model.

    Args:
        model: changed by `replace_stem`, `transplant_stem` or `convert_patch_embedding`, or loaded from a file.
        image_size: side of the image, or (height, width), in pixels; not every network takes every size. None: the
            size that the model was made for, see `replace_stem`.

    Raises:
        ArgumentError: no such size.
        StructureError: the model reads pixels, or does not take images of this size.
    """
    transform = transform_of(model)
    edit = next((edit for edit in record_of(model).edits if isinstance(edit, ReplaceStemEdit)), None)
    if transform is None or edit is None:
        raise StructureError("the model reads pixels: its stem was not replaced")
    own = edit.map_size[0] * BLOCK_SIZE, edit.map_size[1] * BLOCK_SIZE
    image_size, map_size = _map_size(own if image_size is None else image_size)
    changed = [f"{layer.name} ({layer.in_channels} to {layer.out_channels})" for layer in edit.resized]
    changed += [
        f"{item.name}.{item.attribute} ({item.in_channels} to {item.out_channels})" for item in edit.projections
    ]
    changed += [f"{item.name} ({item.attribute} {item.value})" for item in edit.settings]
    return StemReport(
        transform.num_channels,
        transform.chroma,
        image_size,
        map_size,
        edit.removed,
        isinstance(edit.entry, GateEntry),
        tuple(changed),
        count_parameters(model),
        # Of a copy, since a gate remembers what it saw; without numbers, since only shapes matter.
        count_macs(trial_copy(model).to("meta"), torch.empty(1, transform.num_channels, *map_size)).total,
    )


def check_unedited(model: nn.Module) -> None:
    """Raise `StructureError` if the stem of `model` can no longer be replaced, `ArgumentError` for a wrapper."""
    check_is_bare("change the input of", model)
    ReplaceStemEdit(Selection.of(6)).check(model)


def example_of(model: nn.Module) -> Tensor:
    """Pixels of the example shape of `model` (224 x 224 for networks of no family), on its device, in its type."""
    base = base_of(model)
    shape = EXAMPLE_SHAPE if base is None else family(base.name).example_shape(**base.arguments)
    return noise(shape, surgery.like_model(model))


def image_shape(model: nn.Module) -> tuple[int, int, int] | None:
    """(channels, height, width) of the images that a registered network reads, through its transform if it has one.

    The size is the recorded one (`tailcut.inputs.image_size`), or else its family's. None for a user's own class,
    and for a network that takes no images. The model is not changed.
    """
    shape = example_shape(model)
    if shape is None or len(shape) != 4:
        return None
    _, channels, height, width = shape
    if transform_of(model) is not None:
        channels, height, width = 3, BLOCK_SIZE * height, BLOCK_SIZE * width
    return channels, *(image_size(model) or (height, width))


def make(model: nn.Module, edit: Edit, transform: InputTransform) -> None:
    """Check, apply and record `edit` and take over the statistics of `transform`. Changes the model."""
    edit.check(model)
    edit.apply(model)
    own = input_transform_of(model)
    if own is not None and not own.mean.is_meta:
        own.load_state_dict(transform.state_dict())
    add_edit(model, edit)


def submodule(model: nn.Module, name: str, argument: str) -> nn.Module:
    """Return the module with this name; raise `ArgumentError` if there is none."""
    module: nn.Module | None = dict(model.named_modules()).get(name)
    if module is None:
        raise ArgumentError(f"{argument}: the model has no module {name!r}")
    return module


def image_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image; `ArgumentError` unless they are 1 to `MAX_SIZE`."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(type(side) is not int or not 1 <= side <= MAX_SIZE for side in sides):
        raise ArgumentError(f"expected the side of an image, or (height, width), of 1 to {MAX_SIZE}; got {size!r}")
    height, width = sides
    return height, width


def _map_size(size: int | tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of an image and of its channels."""
    height, width = image_sides(size)
    return (height, width), (-(-height // BLOCK_SIZE), -(-width // BLOCK_SIZE))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing" if len(names) < MANY else f"{names[0]} to {names[-1]}, {len(names)} modules"


def _start(layer: nn.Module, *, known: bool) -> None:
    """Give a new layer its first numbers: as the known families do, else as PyTorch does. Changes the layer."""
    if known:
        surgery.initialize(layer)
    elif isinstance(layer, nn.Conv2d):
        layer.reset_parameters()
