"""Energy of images per frequency, and the part of it that a selection keeps."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tailcut.errors import ArgumentError, DataError
from tailcut.inputs.jpeg.coefficients import JpegCoefficients
from tailcut.inputs.selection.patterns import NUM_CHANNELS, NUM_FREQUENCIES
from tailcut.inputs.transform.block_dct import BlockDCT, Chroma
from tailcut.printing import Report, table

_ROUNDING = 1e-18  # grey levels squared: the energy of a flat image's details, which are 0 but for rounding, is less


@dataclass
class FrequencyReport(Report):
    """Report of the energy of an image that a selection of channels keeps.

    Attributes:
        image: the file.
        height: of the image, in pixels.
        width: of the image, in pixels.
        chroma: "two_scale" or "full", see `BlockDCT`.
        selection: kept row-major frequencies by component.
        shape: of the channels: (n, blocks_h, blocks_w).
        input_ratio: numbers in the channels over numbers in the RGB image.
        energy_ratio: kept energy over all energy of the level-shifted planes, 0 to 1.
        detail_ratio: the same without the three constant frequencies, which hold the blocks' means; 0 to 1.
        psnr_db: of the image rebuilt from the kept channels and clipped, over all of RGB, in decibels; None if there
            is no error at all.
        files: the images that were drawn.
    """

    image: str
    height: int
    width: int
    chroma: str
    selection: dict[str, list[int]]
    shape: tuple[int, int, int]
    input_ratio: float
    energy_ratio: float
    detail_ratio: float
    psnr_db: float | None
    files: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the report as a table."""
        counts = " + ".join(str(len(part)) for part in self.selection.values())
        psnr = "no error" if self.psnr_db is None else f"{self.psnr_db:.1f} dB"
        rows = [
            ("size", f"{self.height} x {self.width} pixels"),
            ("channels", f"{self.shape[0]} ({counts}) of {self.shape[1]} x {self.shape[2]}, chroma {self.chroma}"),
            ("numbers, against RGB", f"{100 * self.input_ratio:.1f} %"),
            ("energy kept", f"{100 * self.energy_ratio:.2f} %"),
            ("without the blocks' means", f"{100 * self.detail_ratio:.2f} %"),
            ("rebuilt image", psnr),
            *(("drawn", file) for file in self.files),
        ]
        return table([self.image, ""], rows)


def frequency_energy(source: Tensor | JpegCoefficients | Iterable[Any], *, chroma: Chroma = "full") -> Tensor:
    """Return the mean square of each frequency's coefficients, over all blocks of all images.

    Args:
        source: images as `BlockDCT` takes them, or the stored coefficients of a JPEG file, or a loader of these.
        chroma: "full" or "two_scale", see `BlockDCT`.

    Returns:
        (192,) float64, in the order Y, Cb, Cr x row-major. Grey levels squared: the sum over the 64 frequencies of a
        component is 64 times the mean square of its samples minus 128 (Parseval).

    Raises:
        ArgumentError: the source yields something else.
        DataError: it yields nothing, or numbers that are not finite.
    """
    loader = [source] if isinstance(source, (Tensor, JpegCoefficients)) else source
    transform = BlockDCT(NUM_CHANNELS, chroma=chroma)
    statistics = transform.statistics(loader)
    if statistics.count == 0:
        raise DataError("there is no energy in no images: the loader is empty")
    return statistics.std.square() + statistics.mean.square()


def reconstruction_errors(energy: Tensor, order: Sequence[int] | None = None) -> Tensor:
    """Return the error of images reconstructed from the first 0, 1, ..., 192 channels in a given order.

    The transform is orthonormal, so that the squared error is the energy of what is left out (Parseval).

    Args:
        energy: (192,), as `frequency_energy` gives it.
        order: all channels of 0 to 191, those kept first at the front; by falling energy when None.

    Returns:
        (193,) float64: root mean square error over all samples of Y, Cb and Cr, in grey levels.

    Raises:
        ArgumentError: the energy is not 192 finite, non-negative numbers, or the order does not hold each channel once.
    """
    if tuple(energy.shape) != (NUM_CHANNELS,) or not bool((energy.isfinite() & (energy >= 0)).all()):
        raise ArgumentError(f"expected the energy of {NUM_CHANNELS} channels, finite and not negative")
    values = energy.detach().to("cpu", torch.float64)
    places = values.argsort(descending=True, stable=True).tolist() if order is None else list(order)
    if sorted(places) != list(range(NUM_CHANNELS)):
        raise ArgumentError(f"expected an order that holds each channel of 0 to {NUM_CHANNELS - 1} once")
    # Summed from the small ones on, so that the last errors are not lost in rounding.
    left_out = values[places].flip(0).cumsum(0).flip(0)
    return torch.cat([left_out, torch.zeros(1, dtype=torch.float64, device="cpu")]).div(NUM_CHANNELS).sqrt()


@torch.no_grad()
def describe_image(image: Tensor, transform: BlockDCT, *, name: str = "image") -> FrequencyReport:
    """Describe the part of an image's energy that a transform's channels keep.

    Args:
        image: RGB (3, height, width), uint8 or floating point of 0 to 1.
        transform: the channels.
        name: the image's name in the report.

    Raises:
        ArgumentError: the image is not such a tensor.
    """
    if image.ndim != 3:
        raise ArgumentError(f"expected one image (3, height, width), got shape {tuple(image.shape)}")
    channels = transform(image)
    height, width = image.shape[-2:]
    exact = image.double() / 255 if image.dtype == torch.uint8 else image.double()
    rebuilt = transform.inverse(channels, (height, width)).clamp(0, 1)
    error = float((rebuilt.double() - exact).square().mean())
    # In double precision what is rounding error, and what is a faint detail, lie many orders of magnitude apart.
    energy = frequency_energy(exact, chroma=transform.chroma)
    energy = energy.where(energy > _ROUNDING, 0)
    kept = torch.zeros(NUM_CHANNELS, dtype=torch.bool, device="cpu")
    kept[list(transform.selection.indices)] = True
    detail = torch.ones(NUM_CHANNELS, dtype=torch.bool, device="cpu")
    detail[::NUM_FREQUENCIES] = False
    return FrequencyReport(
        image=name,
        height=height,
        width=width,
        chroma=transform.chroma,
        selection={component: list(part) for component, part in transform.selection.components().items()},
        shape=(channels.shape[0], channels.shape[1], channels.shape[2]),
        input_ratio=channels.numel() / image.numel(),
        energy_ratio=_ratio(energy[kept].sum(), energy.sum()),
        detail_ratio=_ratio(energy[kept & detail].sum(), energy[detail].sum()),
        psnr_db=None if error == 0 else -10 * math.log10(error),
    )


def _ratio(part: Tensor, whole: Tensor) -> float:
    """`part / whole`; nothing of nothing is all of it."""
    return float(part / whole) if whole > 0 else 1.0
