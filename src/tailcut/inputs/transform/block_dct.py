"""`BlockDCT`: colour conversion, block DCT, selection and normalisation as one module."""

from collections.abc import Callable, Sequence
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from tailcut.errors import ArgumentError
from tailcut.inputs.jpeg.block_resampling import upsampled_channels
from tailcut.inputs.jpeg.chroma import smoothed_filters, unsmooth
from tailcut.inputs.jpeg.coefficients import LEVEL_SHIFT, JpegCoefficients
from tailcut.inputs.selection.patterns import COMPONENTS, NUM_CHANNELS, NUM_FREQUENCIES
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.transform.input_transform import InputTransform, check_images, compute_type
from tailcut.transform.block import BLOCK_SIZE, block_filters, block_idct, from_channels
from tailcut.transform.color import RGB_TO_YCBCR, ycbcr_to_rgb
from tailcut.transform.dct import without_autocast

Chroma = Literal["two_scale", "full"]
Padding = Literal["edge", "error"]


class BlockDCT(InputTransform):
    """RGB images to selected, normalised frequency channels at 1/8 of the resolution (the paper's figure 2).

    RGB is converted to YCbCr (JFIF, full range, not rounded), level-shifted by 128 as in JPEG files, cut into blocks
    of 8 x 8 and transformed by the orthonormal DCT-II. Each kept frequency of each component is one channel, in the
    order of `Selection.indices`. All of it is one convolution with stride 8: what is not selected is not computed.

    Chroma is "two_scale" as in the published networks: luma of the image, chroma of the image enlarged by 2
    (bilinear) and subsampled 4:2:0 as JPEG does, so that it has as many blocks as luma; the net effect is a slight
    smoothing (see `tailcut.inputs.jpeg.chroma`). "full" is plain 4:4:4.

    Until `fit`, mean is 0 and std is 1: channels are the plain coefficients. `mean` and `std` are buffers and saved
    with the network.

    Args:
        channels: what `Selection.of` takes: 6, 12, 24, 32, 48, 64, 192, a list of 0 to 191, or a selection.
        chroma: "two_scale" or "full".
        padding: what to do with sizes that are no multiple of 8: repeat the last row and column ("edge"), or "error".

    Attributes:
        selection: the kept frequencies.
        mean: buffer (n,), subtracted from each channel.
        std: buffer (n,), each channel is divided by it.

    Raises:
        ArgumentError: an argument is none of these.
    """

    filters: Tensor
    block_size = BLOCK_SIZE

    def __init__(
        self,
        channels: int | Sequence[int] | Selection = 64,
        *,
        chroma: Chroma = "two_scale",
        padding: Padding = "edge",
    ) -> None:
        chosen = Selection.of(channels)
        super().__init__(chosen.num_channels)
        for value, name, known in ((chroma, "chroma", Chroma), (padding, "padding", Padding)):
            if value not in get_args(known):
                raise ArgumentError(f"{name} must be {' or '.join(map(repr, get_args(known)))}, got {value!r}")
        self.selection = chosen
        self.chroma = chroma
        self.padding = padding
        self.register_buffer("filters", None, persistent=False)
        self._make_filters()

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised channels of RGB images.

        Args:
            images: (..., 3, height, width) on the device of this module; uint8, 0 to 255, or floating point, 0 to 1.

        Returns:
            (..., n, ceil(height / 8), ceil(width / 8)), of the images' type if floating point, else of the type of
            `mean`. float16 and bfloat16 are computed in float32, also under autocast.

        Raises:
            ArgumentError: another shape or type, an empty image, or a size that `padding="error"` forbids.

        On CUDA devices `torch.backends.cudnn.allow_tf32`, on by default, applies as to every convolution.
        """
        return self._channels(images, self.mean, self.std)

    def from_coefficients(self, coefficients: JpegCoefficients) -> Tensor:
        """Return the normalised channels of a JPEG file's stored coefficients, without decoding it to pixels.

        They are those of `forward` on the decoded image but for what a decoder rounds and clips: subsampled chroma is
        upsampled as decoders do (bilinear), in the DCT domain; the chroma of a grayscale file is flat. The last row
        and column of blocks differ by more where a side is no multiple of 8 (of 16 where chroma has half of it): they
        hold what the file has beyond the image, be it pixels that `jpegtran -crop` cut off, where `forward` repeats
        the last row and column of pixels.

        Args:
            coefficients: as `read_jpeg` gives them, on the device of this module.

        Returns:
            (n, blocks_h, blocks_w), one channel pixel per block of luma, in the type of the planes.

        Raises:
            ArgumentError: the image is still to be turned upright, or has a size that `padding="error"` forbids.
        """
        return self.normalized(self._stored_channels(coefficients))

    def inverse(self, channels: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the images with these channels; frequencies that were not selected are zero.

        `transform(transform.inverse(x))` is x for every x, and with all 192 channels `transform.inverse(transform(p))`
        is p (sizes that are multiples of 8), in both forms of chroma.

        Args:
            channels: normalised channels (..., n, blocks_h, blocks_w), floating point.
            size: (height, width) to cut the images to, if they were padded.

        Returns:
            RGB (..., 3, 8 blocks_h, 8 blocks_w) or of `size`, the type of `channels`. 0 to 1 for what images hold;
            not clipped: what lost frequencies may go beyond.

        Raises:
            ArgumentError: another shape or type, or a size larger than the blocks.
        """
        if not channels.dtype.is_floating_point or channels.ndim < 3 or channels.shape[-3] != self.num_channels:
            raise ArgumentError(
                f"expected floating-point channels (..., {self.num_channels}, blocks_h, blocks_w), "
                f"got {channels.dtype} {tuple(channels.shape)}"
            )
        dtype = compute_type(channels.dtype)
        mean, std = self.mean.to(dtype), self.std.to(dtype)
        coefficients = channels.to(dtype) * std[:, None, None] + mean[:, None, None]
        lead, grid = coefficients.shape[:-3], coefficients.shape[-2:]
        every = coefficients.new_zeros(*lead, NUM_CHANNELS, *grid)
        every[..., list(self.selection.indices), :, :] = coefficients
        blocks = from_channels(every.unflatten(-3, (len(COMPONENTS), NUM_FREQUENCIES)))
        planes = block_idct(blocks) + LEVEL_SHIFT
        if self.chroma == "two_scale":
            planes = torch.cat([planes[..., :1, :, :], unsmooth(planes[..., 1:, :, :])], dim=-3)
        images = (ycbcr_to_rgb(planes) / 255).to(channels.dtype)
        if size is None:
            return images
        if not (0 < size[0] <= images.shape[-2] and 0 < size[1] <= images.shape[-1]):
            raise ArgumentError(f"expected a size of at most {tuple(images.shape[-2:])}, got {size}")
        return images[..., : size[0], : size[1]]

    def unnormalized(self, images: Tensor | JpegCoefficients) -> Tensor:
        """Return the selected channels without normalisation.

        Args:
            images: as for `forward`, on any device, or as for `from_coefficients`.

        Returns:
            As `forward` or `from_coefficients`, of uint8 images in float32 or float64.

        Raises:
            ArgumentError: as `forward` or `from_coefficients`.
        """
        if isinstance(images, JpegCoefficients):
            return self._stored_channels(images)
        check_images(images)
        zero = torch.zeros_like(self.mean, dtype=compute_type(self.mean.dtype))
        return self._channels(images.to(self.mean.device), zero, zero + 1)

    def convolution(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias, see the base class; k is 8 and the margins."""
        dtype = compute_type(self.mean.dtype)
        return self._folded(self.mean.to(dtype), self.std.to(dtype), scale=255.0)

    def extra_repr(self) -> str:
        """Channels per component, chroma and padding, for `print(model)`."""
        counts = " + ".join(str(len(part)) for part in self.selection.components().values())
        return f"channels={self.num_channels} ({counts}), chroma={self.chroma!r}, padding={self.padding!r}"

    def _channels(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """`forward` with other statistics."""
        is_integer = check_images(images)
        if mean.is_meta and not images.is_meta:  # of which torch would make numbers that nobody computed
            raise ArgumentError("the transform lies on the meta device and has no numbers: make it on another device")
        self._check_size(*images.shape[-2:])
        out = mean.dtype if is_integer else images.dtype
        dtype = compute_type(out)
        weight, bias = self._folded(mean.to(dtype), std.to(dtype), scale=1.0 if is_integer else 255.0)
        x = self._padded(images.to(dtype).reshape(-1, *images.shape[-3:]))
        with without_autocast(x.device):
            channels = conv2d(x, weight, bias, stride=BLOCK_SIZE)
        return channels.to(out).reshape(*images.shape[:-3], *channels.shape[1:])

    def _folded(self, mean: Tensor, std: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution: everything after it is linear too, and folded into the filters."""
        filters = self.filters if self.filters.dtype == std.dtype else self._new_filters(std.dtype, self.filters.device)
        return filters * (scale / std)[:, None, None, None], -(mean + self._level_shift(mean)) / std

    def _stored_channels(self, coefficients: JpegCoefficients) -> Tensor:
        """`from_coefficients` without normalisation."""
        if coefficients.orientation != 1:
            raise ArgumentError(
                f"the image has EXIF orientation {coefficients.orientation}: turn the coefficients upright first"
            )
        self._check_size(*coefficients.size)
        luma = coefficients.luma
        parts = []
        for name, indices in self.selection.components().items():
            plane = getattr(coefficients, name)
            factors = (1, 1) if name == "luma" else coefficients.chroma_factors
            smooth = self.chroma == "two_scale" and name != "luma"
            if plane is None or not indices:
                parts.append(luma.new_zeros(len(indices), *luma.shape[:2]))
            elif smooth or factors != (1, 1):
                part = upsampled_channels(plane, indices, *factors, smooth=smooth)
                parts.append(part[:, : luma.shape[0], : luma.shape[1]])
            else:
                parts.append(plane.flatten(-2)[..., list(indices)].movedim(-1, 0))
        return torch.cat(parts)

    def _level_shift(self, like: Tensor) -> Tensor:
        """Return the value that the level shift subtracts from each channel.

        Only luma's constant cosine has a sum other than zero: 8 x 128 are subtracted from the first coefficient of each
        luma block, nothing from the others.
        """
        shift = torch.zeros_like(like)
        if 0 in self.selection.luma:
            shift[0] = BLOCK_SIZE * LEVEL_SHIFT
        return shift

    @property
    def margin(self) -> int:  # type: ignore[override]
        """Reach of the filters beyond their block: one pixel on each side for smoothed chroma."""
        has_chroma = bool(self.selection.chroma_blue or self.selection.chroma_red)
        return 1 if self.chroma == "two_scale" and has_chroma else 0

    def _padded(self, x: Tensor) -> Tensor:
        sides = self.sides(*x.shape[-2:])
        # An exported program is for other sizes too, so that it is to look for itself.
        is_needed = torch.compiler.is_exporting() and self.padding != "error"
        return pad(x, sides, mode="replicate") if is_needed or any(sides) else x

    def _check_size(self, height: int, width: int) -> None:
        if self.padding == "error" and (height % BLOCK_SIZE or width % BLOCK_SIZE):
            raise ArgumentError(
                f"expected a height and width that are multiples of {BLOCK_SIZE}, got {height} x {width}; "
                f"padding='edge' repeats the last row and column"
            )

    def _new_filters(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Colour conversion, smoothing and cosines as one filter per channel: (n, 3, k, k), for pixels of 0 to 255."""
        parts = []
        for row, (name, indices) in zip(RGB_TO_YCBCR, self.selection.components().items(), strict=True):
            if self.margin and name != "luma":
                filters = smoothed_filters(indices)
            else:
                filters = pad(block_filters(BLOCK_SIZE, indices, dtype=torch.float64), (self.margin,) * 4)
            parts.append(filters * torch.tensor(row, dtype=torch.float64, device="cpu")[:, None, None])
        return torch.cat(parts).to(device=device, dtype=dtype)

    def _make_filters(self) -> None:
        # A buffer made in inference mode could not be used in a training.
        with torch.inference_mode(False):
            self.filters = self._new_filters(compute_type(self.mean.dtype), self.mean.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A conversion would round the filters, and `to_empty` leave them undefined: they are made again.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._make_filters()
        return self


def check_block_dct(transform: object) -> None:
    """Raise `ArgumentError` unless `transform` is a `BlockDCT`."""
    if not isinstance(transform, BlockDCT):
        raise ArgumentError(f"transform must be a BlockDCT, such as tailcut.inputs.BlockDCT(24); got {transform!r}")
