"""Faster and Mask R-CNN that read frequency channels (sections 4.3 and 4.4 of the paper, and its supplement).

Importing this module registers both for `create_model` and for files; building one needs the extra
`detection`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, importing_torchvision
from tailcut.inputs.detection.inputs import DetectorInputs, Target, read_pixels
from tailcut.inputs.selection.gate import FrequencyGate
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.stem.edit import transform_of
from tailcut.inputs.stem.replace import replace_stem
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.inputs.transform.input_transform import InputTransform, input_transform_of
from tailcut.structure import create_model, register_model
from tailcut.structure.wire import Value

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101")
READS = ("dct", "rgb")
NORMS = ("frozen", "batch")
NUM_STAGES = 4
TRIAL_SIDE = 64  # pixels of the image on which the stem is found: the smallest that all stages halve
MAX_WIDTH = 1 << 16
GATE_LOSS = "loss_gate"

Images = Sequence[Tensor | str | Path] | Tensor


class Detector(nn.Module):
    """A two-stage detector over a residual network with a feature pyramid, on frequency channels or RGB.

    Base of `FasterRCNN` and `MaskRCNN`. The parts are torchvision's, and so are the names of the tensors: with
    `reads="rgb"` the weights of its detectors fit.

    In training a call gives the losses by name, to be added up; in evaluation what was found in each image: `boxes`
    float (objects, 4) as left, top, right, bottom in pixels of the image, `labels` int64 (objects,), `scores`
    (objects,), best first, and of Mask R-CNN `masks` float (objects, height, width) in 0..1, to be cut at 0.5.

    Args:
        backbone: one of `BACKBONES`.
        channels: the frequency channels, as `Selection.of` takes them.
        num_classes: the classes, of which 0 is the background; COCO's category numbers need 91.
        min_size: length of the shorter side of an image in pixels of RGB; the DCT is of an image twice as large. The
            paper's 1600 x 2666 is 800 and 1333.
        max_size: what its longer side has at most.
        reads: "dct", or "rgb" for the usual network, to compare with.
        norm: batch norm of the backbone: "frozen" at what the backbone was trained with; or "batch", to train from
            scratch.
        frozen_stages: the weights of so many stages of the backbone are not trained, the stem counting to the first;
            a gate always is.
        gate: choose channels for each image by a `FrequencyGate`; it needs batches of two images or more.
        gate_strength: what the mean probability of its channels counts in the loss (the paper's lambda).
        score_threshold: what is less likely than this is not reported.
        width: channels of the backbone's first stage.
        pyramid_channels: of all maps of the pyramid, and of the mask head.
        head_features: width of the two layers of the box head.
        proposals: regions per image that the region proposal network hands on in evaluation; twice as many in
            training.
        regions: of these so many are taken for the losses of the heads.
        anchor_offset: where in its cell an anchor lies, as a part of the stride: 0 for its corner, as torchvision has
            it, 0.5 for its middle, as mmdetection has.

    Attributes:
        transform: the `DetectorInputs`; `transform.dct` is the `BlockDCT`.

    Raises:
        ArgumentError: an argument is none of these.
        MissingExtraError: torchvision is missing or does not work.
    """

    has_masks: ClassVar[bool] = False

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        channels: int | tuple[int, ...] = 64,
        num_classes: int = 91,
        min_size: int = 800,
        max_size: int = 1333,
        reads: str = "dct",
        norm: str = "frozen",
        frozen_stages: int = 0,
        gate: bool = False,
        gate_strength: float = 0.1,
        score_threshold: float = 0.05,
        width: int = 64,
        pyramid_channels: int = 256,
        head_features: int = 1024,
        proposals: int = 1000,
        regions: int = 512,
        anchor_offset: float = 0.0,
    ) -> None:
        super().__init__()
        parts = require_torchvision()
        _check_choices(backbone=(backbone, BACKBONES), reads=(reads, READS), norm=(norm, NORMS))
        if gate and reads == "rgb":
            raise ArgumentError("a gate chooses frequency channels; it needs reads='dct'")
        _check_counts(
            frozen_stages=(frozen_stages, 0, NUM_STAGES),
            num_classes=(num_classes, 2, MAX_WIDTH),  # the background is one
            pyramid_channels=(pyramid_channels, 1, MAX_WIDTH),
            head_features=(head_features, 1, MAX_WIDTH),
            proposals=(proposals, 1, MAX_WIDTH),
            regions=(regions, 1, MAX_WIDTH),
        )
        self.gate_strength, self.num_classes = float(gate_strength), num_classes
        network = create_model(backbone, width=width, num_classes=1)
        if reads == "dct":
            replace_stem(network, channels, gate=gate, example_input=torch.zeros(1, 3, TRIAL_SIDE, TRIAL_SIDE))
        self.transform = DetectorInputs(transform_of(network), min_size=min_size, max_size=max_size)
        if norm == "frozen":
            parts.freeze_batch_norm(network)
        self.backbone = parts.make_backbone(network, pyramid_channels)
        heads = {"head_features": head_features, "score_threshold": score_threshold, "anchor_offset": anchor_offset}
        heads |= {"num_classes": num_classes, "proposals": proposals, "regions": regions}
        self.rpn, self.roi_heads = parts.make_heads(self.backbone, masks=self.has_masks, **heads)
        _freeze_stages(self.body, frozen_stages)

    @property
    def body(self) -> nn.Module:
        """The residual network without its head."""
        body: nn.Module = self.backbone.get_submodule("body")
        return body

    @property
    def gate(self) -> FrequencyGate | None:
        """The gate before the backbone; None without."""
        return next((module for module in self.body.modules() if isinstance(module, FrequencyGate)), None)

    def forward(self, images: Images, targets: Sequence[Target] | None = None) -> Any:
        """See the class.

        Args:
            images: RGB images, (3, height, width) each, float in 0..1, of any sizes; or paths of PNG or JPEG
                files; or one tensor (batch, 3, height, width).
            targets: in training the objects of each image: `boxes` float (objects, 4) in pixels, `labels` int64
                (objects,) from 1 on, and for Mask R-CNN `masks` bool or uint8 (objects, height, width). An image
                may have none. All on this module's device.

        Returns:
            In training a dict of losses, else a list of one dict per image.

        Raises:
            ArgumentError: images or targets are not of this form.
            DataError: a file cannot be read.
        """
        tensors = [self._checked(image) for image in images]
        if not tensors:
            raise ArgumentError("expected at least one image, got none")
        if self.training:
            self._check_targets(tensors, targets)
        batch = self.transform(tensors, targets if self.training else None)
        parts = require_torchvision()
        found, losses = parts.run(self.backbone, self.rpn, self.roi_heads, batch)
        if self.training:
            gate = self.gate
            return losses if gate is None else {**losses, GATE_LOSS: gate.penalty(self.gate_strength)}
        results = []
        for one, size, image in zip(found, batch.sizes, tensors, strict=True):
            original = (image.shape[1], image.shape[2])
            result = self.transform.restored(one, size, original)
            if self.has_masks:
                result["masks"] = parts.whole_masks(result, original)
            results.append(result)
        return results

    def fit(self, images: Iterable[Tensor]) -> Self:
        """Set mean and spread of each channel to those of these images, resized (changes the module).

        Args:
            images: RGB images (3, height, width), one by one.

        Raises:
            ArgumentError: the detector reads RGB.
            DataError: there are no images.
        """
        dct = self.transform.dct
        if dct is None:
            raise ArgumentError("this detector reads RGB, which has fixed statistics: there is nothing to fit")
        dct.fit(self.transform.resized(self._checked(image))[None] for image in images)
        return self

    def load_backbone(self, network: nn.Module) -> Self:
        """Take weights and statistics over from a classification network (changes this module).

        Args:
            network: the same residual network, on the same channels; its head is left out. Where only one of the two
                has a gate, a gate here starts anew and one there is left out.

        Raises:
            ArgumentError: it is another network, or on other channels, or on RGB that is normalised otherwise.
        """
        theirs, own = network.state_dict(), self.body.state_dict()
        dct, their_dct = self.transform.dct, input_transform_of(network)
        if _channels_text(dct) != _channels_text(their_dct):
            raise ArgumentError(
                f"the backbone reads {_channels_text(their_dct)}, the detector {_channels_text(dct)}: both must read "
                "the same"
            )
        which = getattr(getattr(network, "normalize", None), "which", None)
        if dct is None and which != "imagenet":
            pixels = "pixels in 0..1" if which is None else f"pixels normalised as for {which}"
            raise ArgumentError(
                f"the detector normalises RGB as for ImageNet, the backbone takes {pixels}: train it with "
                "normalize = true among its arguments"
            )
        gates = _gate_prefixes(self.body) + _gate_prefixes(network)
        names = [name for name in own if name in theirs or not name.startswith(gates)]
        unfit = [name for name in names if name not in theirs or theirs[name].shape != own[name].shape]
        if unfit:
            raise ArgumentError(f"the backbone has no tensor {unfit[0]!r} of shape {tuple(own[unfit[0]].shape)}")
        stages = tuple(f"{name}." for name, _ in self.body.named_children())
        counts = ".num_batches_tracked"  # frozen batch norm has none
        known = {*own, *(name for name in theirs if name.endswith(counts) or name.startswith(gates))}
        spare = [name for name in theirs if name.startswith(stages) and name not in known]
        if spare:
            raise ArgumentError(f"the backbone has a tensor {spare[0]!r}, for which the detector has no place")
        _check_strides(self.body, network)
        self.body.load_state_dict({name: theirs[name] for name in names}, strict=False)
        if dct is not None and their_dct is not None:
            dct.load_state_dict(their_dct.state_dict())
        return self

    def _checked(self, image: Tensor | str | Path) -> Tensor:
        if isinstance(image, (str, Path)):
            return read_pixels(image).to(self.transform.rgb_mean.device)
        is_image = isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3
        if not is_image or not image.is_floating_point() or 0 in image.shape:
            what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise ArgumentError(f"a detector takes float images (3, height, width) in 0..1, got {what}")
        own = next(iter(self.parameters())).dtype
        if own.itemsize < torch.float32.itemsize or image.dtype != own:
            raise ArgumentError(
                f"the detector is in {own}, the image in {image.dtype}: both must be float32 (detector.float(), "
                "image.float()), or both float64"
            )
        return image

    def _check_targets(self, images: Sequence[Tensor], targets: Sequence[Target] | None) -> None:
        if targets is None or len(targets) != len(images):
            given = "none" if targets is None else len(targets)
            raise ArgumentError(f"training needs the objects of each of the {len(images)} images, got {given}")
        for place, (image, target) in enumerate(zip(images, targets, strict=True)):
            num_objects = _check_boxes(target, f"targets[{place}]")
            labels = target["labels"]
            if labels.shape != (num_objects,) or labels.dtype != torch.int64:
                raise ArgumentError(
                    f"targets[{place}]: expected {num_objects} labels of int64, got {labels.dtype} "
                    f"{tuple(labels.shape)}"
                )
            if num_objects and not 1 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                raise ArgumentError(
                    f"targets[{place}]: labels must be 1 to {self.num_classes - 1}, got {int(labels.min())} to "
                    f"{int(labels.max())}; give the detector a larger num_classes"
                )
            shape = (num_objects, *image.shape[1:])
            if self.has_masks and ("masks" not in target or target["masks"].shape != shape):
                masks = tuple(target["masks"].shape) if "masks" in target else "none"
                raise ArgumentError(f"targets[{place}]: expected masks {shape}, got {masks}")


@register_model("faster_rcnn", example_shape=(1, 3, 800, 800))
class FasterRCNN(Detector):
    """Boxes of objects; see `Detector`. With a ResNet-50 41.8 M parameters."""


@register_model("mask_rcnn", example_shape=(1, 3, 800, 800))
class MaskRCNN(Detector):
    """Boxes and masks of objects; see `Detector`. With a ResNet-50 44.4 M parameters."""

    has_masks = True


def faster_rcnn(
    backbone: str = "resnet50", channels: int | Sequence[int] | Selection = 64, **settings: Value
) -> FasterRCNN:
    """Return a Faster R-CNN that files can restore; for the arguments see `Detector`."""
    return cast(FasterRCNN, create_model("faster_rcnn", backbone=backbone, channels=_plain(channels), **settings))


def mask_rcnn(
    backbone: str = "resnet50", channels: int | Sequence[int] | Selection = 64, **settings: Value
) -> MaskRCNN:
    """Return a Mask R-CNN that files can restore; for the arguments see `Detector`."""
    return cast(MaskRCNN, create_model("mask_rcnn", backbone=backbone, channels=_plain(channels), **settings))


def require_torchvision() -> ModuleType:
    """Return the module that holds torchvision's parts.

    Raises:
        MissingExtraError: torchvision is not installed, or cannot be imported beside this torch.
    """
    with importing_torchvision("a detector", "torchvision", "detection"):
        from tailcut.inputs.detection import rcnn
    return rcnn


def _plain(channels: int | Sequence[int] | Selection) -> int | tuple[int, ...]:
    """Channels as files keep them."""
    if isinstance(channels, int):
        return channels
    return Selection.of(channels).indices


def _check_choices(**choices: tuple[str, Sequence[str]]) -> None:
    """Raise `ArgumentError` unless each value is one of those beside it."""
    for name, (value, known) in choices.items():
        if value not in known:
            raise ArgumentError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")


def _check_counts(**counts: tuple[int, int, int]) -> None:
    """Raise `ArgumentError` unless each number lies between the two beside it."""
    for name, (value, least, most) in counts.items():
        if not least <= value <= most:
            raise ArgumentError(f"{name} must be {least} to {most}, got {value}")


def _gate_prefixes(network: nn.Module) -> tuple[str, ...]:
    return tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, FrequencyGate))


def _freeze_stages(body: nn.Module, num_stages: int) -> None:
    """No training for the first stages of a backbone and the stem before them (changes the module)."""
    free = [f"layer{number}" for number in range(num_stages + 1, NUM_STAGES + 1)]
    for name, child in body.named_children():
        if num_stages and name not in free and not isinstance(child, FrequencyGate):
            child.requires_grad_(False)


def _check_boxes(target: Mapping[str, Tensor], where: str) -> int:
    """Return the number of objects."""
    missing = [key for key in ("boxes", "labels") if key not in target]
    if missing:
        raise ArgumentError(f"{where} lacks {' and '.join(missing)}")
    boxes = target["boxes"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ArgumentError(f"{where}: expected float boxes (objects, 4), got {boxes.dtype} {tuple(boxes.shape)}")
    flat = ~(boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if flat.any():
        raise ArgumentError(f"{where}: a box needs left < right and top < bottom, got {boxes[flat][0].tolist()}")
    return len(boxes)


def _channels_text(dct: InputTransform | None) -> str:
    if not isinstance(dct, BlockDCT):
        return "RGB" if dct is None else "YCbCr pixels"
    return f"the {dct.num_channels} channels {dct.selection.indices} with {dct.chroma} chroma"


def _check_strides(body: nn.Module, network: nn.Module) -> None:
    """Raise `ArgumentError` if a convolution's strides differ, which no tensor shows."""
    others = dict(network.named_modules())
    for name, module in body.named_modules():
        other = others.get(name)
        if isinstance(module, nn.Conv2d) and isinstance(other, nn.Conv2d) and module.stride != other.stride:
            raise ArgumentError(f"{name} has stride {other.stride} in the backbone, {module.stride} in the detector")
