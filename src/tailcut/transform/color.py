"""RGB <-> YCbCr conversion as in JPEG files (JFIF: ITU-R BT.601 weights, full range), without rounding."""

import torch
from torch import Tensor

from tailcut.errors import ArgumentError

# Luma = KR red + KG green + KB blue; chroma is blue or red minus luma, scaled to a range of 255.
KR, KG, KB = 0.299, 0.587, 0.114
BLUE_SCALE, RED_SCALE = 2 * (1 - KB), 2 * (1 - KR)
CHROMA_CENTRE = 128.0

# Rows Y, Cb, Cr; columns red, green, blue. Chroma without its centre.
RGB_TO_YCBCR = (
    (KR, KG, KB),
    (-KR / BLUE_SCALE, -KG / BLUE_SCALE, (1 - KB) / BLUE_SCALE),
    ((1 - KR) / RED_SCALE, -KG / RED_SCALE, -KB / RED_SCALE),
)


def rgb_to_ycbcr(images: Tensor) -> Tensor:
    """Full-range YCbCr of RGB images (JFIF 1.02, section 7), without rounding or clipping. Differentiable.

    Args:
        images: floating point (..., 3, height, width), 0 to 255.

    Returns:
        Y, Cb and Cr, same shape and type; Y is 0 to 255, chroma 0.5 to 255.5 with grey at 128. float16 and
        bfloat16 are computed in float32.

    Raises:
        ArgumentError: not floating point, or the third axis from the end is not 3.

    >>> rgb_to_ycbcr(torch.tensor([255.0, 255.0, 255.0]).reshape(3, 1, 1)).flatten().tolist()
    [255.0, 128.0, 128.0]
    """
    red, green, blue = _planes(images, "red, green and blue")
    luma = KR * red + KG * green + KB * blue
    chroma_blue = (blue - luma) / BLUE_SCALE + CHROMA_CENTRE
    chroma_red = (red - luma) / RED_SCALE + CHROMA_CENTRE
    return torch.stack((luma, chroma_blue, chroma_red), dim=-3).to(images.dtype)


def ycbcr_to_rgb(images: Tensor) -> Tensor:
    """Return the inverse of `rgb_to_ycbcr`; colours that RGB cannot show come out below 0 or above 255.

    Raises:
        ArgumentError: not floating point, or the third axis from the end is not 3.
    """
    luma, chroma_blue, chroma_red = _planes(images, "Y, Cb and Cr")
    red = luma + RED_SCALE * (chroma_red - CHROMA_CENTRE)
    blue = luma + BLUE_SCALE * (chroma_blue - CHROMA_CENTRE)
    green = (luma - KR * red - KB * blue) / KG
    return torch.stack((red, green, blue), dim=-3).to(images.dtype)


def _planes(images: Tensor, names: str) -> tuple[Tensor, ...]:
    if not images.dtype.is_floating_point:
        raise ArgumentError(f"expected floating-point images of 0 to 255, got {images.dtype}; use .float()")
    if images.ndim < 3 or images.shape[-3] != 3:
        raise ArgumentError(f"expected images (..., 3, height, width) of {names}, got shape {tuple(images.shape)}")
    work = images if images.dtype == torch.float64 else images.float()
    return work.unbind(-3)
