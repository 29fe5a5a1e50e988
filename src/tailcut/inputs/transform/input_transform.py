"""Base class of input transforms, which replace RGB pixels and keep their normalisation statistics."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, DataError, StructureError
from tailcut.inputs.jpeg.coefficients import JpegCoefficients
from tailcut.inputs.transform.statistics import ChannelStatistics
from tailcut.model_inputs import check_loader

TRANSFORM = "input_transform"  # the child of a network that its transform is
# A channel that varies less than this (in grey levels times 8) is constant but for rounding; its spread counts as 1.
MIN_STD = 1e-3

SPREADS = ("pixels", "images")

# Floats of 0 to 1 may go a little beyond (noise, contrast); of 0 to 255 hardly an image stays below.
MAX_FLOAT = 8.0
# Of -1 to 1, or normalised by a mean and a spread, hardly an image stays above.
MIN_FLOAT = -1.0


class InputTransform(nn.Module, ABC):
    """RGB images to normalised channels. Abstract: `forward` and `unnormalized` say to which.

    Attributes:
        mean: buffer (n,), subtracted from each channel; 0 until `fit`.
        std: buffer (n,), each channel is divided by it; 1 until `fit`.
        block_size: pixels along a side that make one pixel of a channel.
        margin: pixels beyond its block that a channel reads on each side; those beyond the image repeat its edge.
    """

    mean: Tensor
    std: Tensor
    block_size = 1
    margin = 0

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("std", torch.ones(num_channels))

    @property
    def num_channels(self) -> int:
        """Number of output channels."""
        return len(self.mean)

    @abstractmethod
    def unnormalized(self, images: Tensor | JpegCoefficients) -> Tensor:
        """Return the channels of images on any device, without normalisation."""

    def sides(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return how often the edge of an image is repeated, for `torch.nn.functional.pad`: margins, whole blocks."""
        margin, size = self.margin, self.block_size
        return margin, margin + -width % size, margin, margin + -height % size

    def convolution(self) -> tuple[Tensor, Tensor]:
        """Return weight (n, 3, k, k) and bias (n,) of `forward` as a convolution with stride `block_size`.

        It is for pixels of 0 to 1.

        Raises:
            StructureError: the transform is none.
        """
        raise StructureError(f"{type(self).__name__} is no convolution, so no program of layers can include it")

    @torch.no_grad()
    def fit(self, loader: Iterable[Any], *, over: str = "pixels") -> Self:
        """Set `mean` and `std` to those of each channel over all pixels of all images (changes this module).

        One pass, batch by batch, in float64. A channel that never varies gets std 1.

        Args:
            loader: yields what `unnormalized` takes, or tuples and lists that begin with it, as a `DataLoader` does.
            over: "pixels"; or "images" for the spread of the images' means, which is what the published constants
                are. It is many times smaller for all but the lowest frequencies, so those channels stay large.

        Returns:
            This module.

        Raises:
            ArgumentError: the loader yields something else, or `over` is neither.
            DataError: it yields nothing, or images with numbers that are not finite.
        """
        return self._take(self.statistics(loader, over=over))

    @torch.no_grad()
    def fit_channels(self, batches: Iterable[Tensor], *, over: str = "pixels") -> Self:
        """As `fit`, of channels that are not normalised yet, such as a JPEG file's stored coefficients.

        Args:
            batches: yields channels (batch, n, height, width), n as many as those of this transform.
            over: see `fit`.

        Raises:
            ArgumentError: other channels, or `over` is unknown.
            DataError: there are none, or they hold numbers that are not finite.
        """
        check_loader(batches, "batches must be tensors of channels")
        return self._take(self._statistics_of(batches, over))

    def normalized(self, channels: Tensor) -> Tensor:
        """Return channels (..., n, height, width) minus `mean`, over `std`, in their own type."""
        mean, std = self.mean.to(channels.dtype), self.std.to(channels.dtype)
        return (channels - mean[:, None, None]) / std[:, None, None]

    @torch.no_grad()
    def statistics(self, loader: Iterable[Any], *, over: str = "pixels") -> ChannelStatistics:
        """Mean and spread of each channel without normalisation; arguments and errors as for `fit`."""
        check_loader(loader, "loader must be a tensor or batches of images")
        return self._statistics_of((self.unnormalized(images) for item in loader for images in _images_of(item)), over)

    def _statistics_of(self, batches: Iterable[Tensor], over: str) -> ChannelStatistics:
        if over not in SPREADS:
            raise ArgumentError(f"over must be one of {', '.join(SPREADS)}, got {over!r}")
        statistics = ChannelStatistics(self.num_channels)
        for maps in batches:
            statistics.update(maps if over == "pixels" else maps.mean(dim=(-2, -1), keepdim=True))
        return statistics

    def _take(self, statistics: ChannelStatistics) -> Self:
        """Set `mean` and `std` to these (changes this module)."""
        if statistics.count == 0:
            raise DataError("cannot fit the statistics of no images: the loader is empty")
        std = statistics.std
        self.mean.copy_(statistics.mean)
        self.std.copy_(torch.where(std < MIN_STD, 1.0, std))
        return self


def input_transform_of(model: nn.Module) -> InputTransform | None:
    """Return the transform from RGB pixels to the input of `model`, or None if it reads pixels. Not changed."""
    return next((module for module in model.modules() if isinstance(module, InputTransform)), None)


def check_images(images: Tensor) -> bool:
    """Return whether RGB images are uint8, 0 to 255, and not floats, 0 to 1.

    Raises:
        ArgumentError: no tensor, another type, not of shape (..., 3, height, width), empty, sparse, or floats far
            beyond 0 and 1.
    """
    if not isinstance(images, Tensor):
        raise ArgumentError(
            f"expected images as a tensor (..., 3, height, width), got {type(images).__name__}; of an array of "
            "(height, width, 3): torch.from_numpy(array).movedim(-1, -3)"
        )
    is_integer = images.dtype == torch.uint8
    if not is_integer and not images.dtype.is_floating_point:
        raise ArgumentError(f"expected images of uint8 (0 to 255) or floats (0 to 1), got {images.dtype}")
    if images.ndim < 3 or images.shape[-3] != 3 or 0 in images.shape[-2:]:
        raise ArgumentError(f"expected RGB images (..., 3, height, width), got shape {tuple(images.shape)}")
    if images.layout != torch.strided:
        raise ArgumentError(f"expected images as a dense tensor, got {images.layout}: give images.to_dense()")
    if not is_integer and _can_be_read(images):
        _check_range(images.detach())
    return is_integer


def _check_range(images: Tensor) -> None:
    least, most = (float(value) for value in images.aminmax())
    if most > MAX_FLOAT:
        raise ArgumentError(
            f"expected floats of 0 to 1, got up to {most:.4g}: images of 0 to 255 are uint8 (images.to(torch.uint8)), "
            "or divided by 255"
        )
    if least <= MIN_FLOAT:
        raise ArgumentError(
            f"expected floats of 0 to 1, got down to {least:.4g}: give images that are not normalised (this transform "
            "normalises its channels), and noise clamped"
        )


def _can_be_read(images: Tensor) -> bool:
    """Return whether values can be read: not on an accelerator (it would synchronise), nor during tracing."""
    return (
        type(images) is Tensor
        and images.device.type == "cpu"
        and images.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def compute_type(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: float16 and bfloat16 would round the transform."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _images_of(item: Any) -> Iterator[Tensor | JpegCoefficients]:
    """Yield the images of a loader's item: the item itself or its first entry, a batch or a list of images."""
    first = item[0] if isinstance(item, (tuple, list)) and item else item
    images = first if isinstance(first, (tuple, list)) else [first]
    for image in images:
        if not isinstance(image, (Tensor, JpegCoefficients)):
            raise ArgumentError(
                f"expected a loader of images as tensors, or of tuples that begin with them, got "
                f"{type(image).__name__} in an item of type {type(item).__name__}"
            )
        yield image
