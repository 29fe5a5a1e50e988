"""YCbCr pixels without a DCT, to measure the effect of the colour space alone."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, CorruptFileError, StructureError
from tailcut.inputs.jpeg.coefficients import LEVEL_SHIFT, JpegCoefficients
from tailcut.inputs.selection.patterns import COMPONENTS
from tailcut.inputs.stem.replace import MAX_SIZE, example_of, image_sides, make
from tailcut.inputs.stem.surgery import like_model
from tailcut.inputs.stem.trace import run, trial_copy
from tailcut.inputs.stem.trial import runs_transform
from tailcut.inputs.transform.input_transform import (
    TRANSFORM,
    InputTransform,
    check_images,
    compute_type,
    input_transform_of,
)
from tailcut.structure import Edit, Reader, Writer, base_of, family, register_edit
from tailcut.structure.views import check_is_bare
from tailcut.transform.color import RGB_TO_YCBCR, rgb_to_ycbcr


class YCbCrPixels(InputTransform):
    """RGB images to normalised planes of Y, Cb and Cr, all of the image's size.

    The colours are those of `BlockDCT` (JFIF, full range, not rounded, 128 subtracted); with blocks of one pixel its
    channels would be these. Until `fit`, mean is 0 and std is 1.
    """

    def __init__(self) -> None:
        super().__init__(len(COMPONENTS))

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised planes of RGB images.

        Args:
            images: (..., 3, height, width) on the device of this module; uint8, 0 to 255, or floating point, 0 to 1.

        Returns:
            The same shape, of the images' type if floating point, else of the type of `mean`. float16 and bfloat16
            are computed in float32.

        Raises:
            ArgumentError: another shape or type, or an empty image.
        """
        is_integer = check_images(images)
        out = self.mean.dtype if is_integer else images.dtype
        planes = _planes(images, compute_type(out))
        mean, std = (value.to(planes.dtype)[:, None, None] for value in (self.mean, self.std))
        return ((planes - mean) / std).to(out)

    def convolution(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias, see the base class; k is 1."""
        std = self.std.to(compute_type(self.std.dtype))
        rows = torch.tensor(RGB_TO_YCBCR, dtype=torch.float64, device="cpu").to(std.dtype).to(std.device)
        shift = torch.zeros_like(std)
        shift[0] = LEVEL_SHIFT
        return (rows * (255.0 / std)[:, None])[:, :, None, None], -(self.mean.to(std.dtype) + shift) / std

    def unnormalized(self, images: Tensor | JpegCoefficients) -> Tensor:
        """Return Y, Cb and Cr minus 128, without normalisation; images as for `forward`, on any device.

        Raises:
            ArgumentError: as `forward`, or coefficients of a JPEG file, which are no pixels.
        """
        if isinstance(images, JpegCoefficients):
            raise ArgumentError("expected images as tensors, got the coefficients of a JPEG file: decode it first")
        check_images(images)
        dtype = images.dtype if images.dtype.is_floating_point else self.mean.dtype
        return _planes(images.to(self.mean.device), compute_type(dtype))


@register_edit
@dataclass(frozen=True)
class YCbCrEdit(Edit):
    """A network that reads YCbCr pixels instead of RGB.

    Attributes:
        image_size: height and width of an example image.
    """

    number = 4
    kind = "ycbcr"

    image_size: tuple[int, int]

    def apply(self, model: nn.Module) -> None:
        """Give the model the transform as a child, without statistics. Changes the model."""
        with torch.inference_mode(False):
            transform = YCbCrPixels().to(like_model(model).device)
        model.add_module(TRANSFORM, transform.train(model.training))

    def check(self, model: nn.Module) -> None:
        """Raise `StructureError` unless the model reads RGB and has a place for the transform; it is not changed."""
        if input_transform_of(model) is not None:
            raise StructureError("the model's input is replaced already; start from a fresh network")
        if hasattr(model, TRANSFORM):
            raise StructureError(f"the model has an attribute {TRANSFORM!r}, which is reserved for the transform")
        if type(model).forward is nn.Sequential.forward:
            raise StructureError("an nn.Sequential would run the transform; make it a child of a module of your own")

    def current(self, model: nn.Module) -> Self:
        """Return the edit itself: nothing in it changes."""
        if not isinstance(input_transform_of(model), YCbCrPixels):
            raise StructureError(f"the model has lost its {TRANSFORM}, though its record says that it reads YCbCr")
        return self

    def example_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an example input that replaces `shape`, (batch, 3, height, width)."""
        return (shape[0], len(COMPONENTS), *self.image_size)

    def encode(self, writer: Writer, model: nn.Module | None) -> None:
        """Height and width; see `format/SPEC.md`."""
        for side in self.image_size:
            writer.uint(side)

    @classmethod
    def decode(cls, reader: Reader, model: nn.Module | None) -> Self:
        """Read what `encode` wrote."""
        height, width = (reader.uint(at_most=MAX_SIZE, of="the side of an image") for _ in range(2))
        if 0 in (height, width):
            raise CorruptFileError("the side of an image is 0")
        return cls((height, width))


def use_ycbcr(
    model: nn.Module,
    transform: YCbCrPixels | None = None,
    *,
    example_input: Tensor | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> nn.Module:
    """Make a network read YCbCr pixels instead of RGB. Changes the model.

    No layer changes. The model keeps the transform as its child `input_transform`, so that its statistics are saved
    with it; the forward does not apply it. The change is recorded: `tailcut.save` and `load` restore it.

    Args:
        model: any network that reads RGB images, but an `nn.Sequential`.
        transform: its statistics become the model's own; None for 0 and 1.
        example_input: pixels that the model takes as it is, (batch, 3, height, width); of its example shape when None
            (224 x 224 for a network of your own).
        image_size: side, or (height, width), in pixels, of the images that the model will get; files tell it to
            those who predict. That of the example when None.

    Returns:
        The model.

    Raises:
        ArgumentError: the model does not read images of three channels or is a wrapper, or there is no such size.
        StructureError: the model's input is replaced already, or it has no place for the transform. The model is
            unchanged.
    """
    check_is_bare("change the input of", model)
    base = base_of(model)
    if base is not None and family(base.name).example_shape(**base.arguments)[1:2] != (len(COMPONENTS),):
        raise ArgumentError(f"{base.name} does not read images of three channels, so its input cannot be YCbCr")
    example = example_of(model) if example_input is None else example_input
    size = (example.shape[-2], example.shape[-1]) if image_size is None else image_sides(image_size)
    edit = YCbCrEdit(size)
    edit.check(model)
    trial = trial_copy(model)
    if runs_transform(trial, lambda: run(trial, example, what="the example input")):
        raise StructureError("the model runs all its children, so it would run the transform; name them in its forward")
    make(model, edit, YCbCrPixels() if transform is None else transform)
    return model


def _planes(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Y, Cb and Cr less 128 of checked images, in `dtype`."""
    scale = 1.0 if images.dtype == torch.uint8 else 255.0
    return rgb_to_ycbcr(images.to(dtype) * scale) - LEVEL_SHIFT
