"""Score of a feature map: the energy of its block DCT and the spread of that energy (section 3 of the paper)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tailcut.channels.scoring.blocks import Blocks, BlockTransform
from tailcut.channels.scoring.gaussian import gaussian_kernel
from tailcut.errors import ArgumentError
from tailcut.transform.dct import without_autocast
from tailcut.transform.exact import exact

Variant = Literal["paper", "published"]
Component = Literal["spectral", "dist", "spatial"]

VARIANTS: tuple[Variant, ...] = ("paper", "published")
COMPONENTS: tuple[Component, ...] = ("spectral", "dist", "spatial")
DEFAULT_BLOCK_SIZE = {"paper": 4, "published": 2}
DEFAULT_SIGMA = {"paper": 1.0, "published": 10.0}

# Numbers of maps that are worked on at a time: per thread of a CPU so many that what is in use stays in its cache.
CHUNK_ON_CPU = 1 << 17
CHUNK_ELSEWHERE = 1 << 24
# A coefficient within so many roundings of the mean counts as equal to it: a constant map shall not score by chance.
ROUNDING = 16.0


@dataclass(frozen=True)
class Formula:
    """Settings of a feature map's score.

    `paper`: the map is smoothed, cut into blocks (what does not fill a block at the right and at the bottom forms
    smaller ones; a map smaller than a block is one block), and each block is transformed by equation 6, a DCT without
    factors. Coefficients count as spread where they are at least the mean of the map's coefficients.

    `published`, the authors' code: the DCT is orthonormal, the Gaussian filter runs over the coefficients of each
    block, what does not fill a block is left out (it counts as coefficients of 0), and coefficients count where they
    are above the mean. (That code takes square maps only.)

    Attributes:
        variant: `paper` or `published`.
        block_size: side of a block in pixels; "whole" for one block per map; "variant" for 4 (paper) or 2 (published).
        gaussian_sigma: standard deviation of the filter in pixels; None for no filter; "variant" for 1 (paper, which
            does not give it) or 10 (published). Kernel and border are those of `scipy.ndimage.gaussian_filter`: see
            `tailcut.channels.scoring.gaussian`.
        spatial_weight: lambda of equation 12.
        components: what the score is made of, of `spectral`, `dist` and `spatial`.

    Raises:
        ArgumentError: one of them is out of range.
    """

    variant: Variant = "paper"
    block_size: int | Literal["whole", "variant"] = "variant"
    gaussian_sigma: float | Literal["variant"] | None = "variant"
    spatial_weight: float = 0.03
    components: Component | Sequence[Component] = COMPONENTS

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ArgumentError(f"variant must be one of {', '.join(VARIANTS)}; got {self.variant!r}")
        if self.block_size == "variant":
            object.__setattr__(self, "block_size", DEFAULT_BLOCK_SIZE[self.variant])
        if self.gaussian_sigma == "variant":
            object.__setattr__(self, "gaussian_sigma", DEFAULT_SIGMA[self.variant])
        if self.block_size != "whole" and (type(self.block_size) is not int or self.block_size < 1):
            raise ArgumentError(f'block_size must be an integer of at least 1 or "whole", got {self.block_size!r}')
        if self.gaussian_sigma is not None:
            gaussian_kernel(_as_number("gaussian_sigma", self.gaussian_sigma))
        if not 0 <= _as_number("spatial_weight", self.spatial_weight) < math.inf:
            raise ArgumentError(f"spatial_weight must be at least 0 and finite, got {self.spatial_weight}")
        chosen = (self.components,) if isinstance(self.components, str) else tuple(self.components)
        if not chosen or not set(chosen) <= set(COMPONENTS):
            raise ArgumentError(f"components must be some of {', '.join(COMPONENTS)}; got {chosen}")
        object.__setattr__(self, "components", tuple(name for name in COMPONENTS if name in chosen))

    @property
    def blocks(self) -> Blocks:
        """Settings by which maps are cut, smoothed and transformed."""
        size, sigma, is_published = self.block_size, self.gaussian_sigma, self.variant == "published"
        return Blocks(
            size=None if isinstance(size, str) else size,
            sigma=None if sigma is None else float(sigma),
            is_orthonormal=is_published,
            filters_coefficients=is_published,
            leaves_ends_out=is_published,
        )

    def combine(self, spectral: Tensor, dist: Tensor, frequency: Tensor, spatial: Tensor) -> Tensor:
        """Return the score from its parts, or from their means over images: equation 12 is linear in them.

        Args:
            spectral: equation 7.
            dist: equation 8.
            frequency: their product, equation 9 (of means: the mean of the products).
            spatial: equation 10.

        Returns:
            `frequency + spatial_weight * spatial` with all components. Without `dist` the first term is `spectral`,
            without `spectral` it is `dist`; without both it is `spatial` alone, unweighted.
        """
        terms = {("spectral", "dist"): frequency, ("spectral",): spectral, ("dist",): dist}
        term = terms.get(tuple(name for name in self.components if name != "spatial"))
        if term is None:
            return spatial
        return term + self.spatial_weight * spatial if "spatial" in self.components else term


class MapParts(NamedTuple):
    """The parts of the scores of maps, each float64 (batch, channels)."""

    spectral: Tensor
    dist: Tensor
    frequency: Tensor
    spatial: Tensor


def map_scores(maps: Tensor, formula: Formula | None = None) -> Tensor:
    """Return the score of each feature map (equation 12): float64 (batch, channels). Otherwise as `map_parts`."""
    formula = formula or Formula()
    return formula.combine(*map_parts(maps, formula))


@torch.no_grad()
def map_parts(maps: Tensor, formula: Formula | None = None) -> MapParts:
    """Return the parts of the score of each feature map.

    Besides the maps this needs memory for a few chunks of them. It works in the maps' own type, for 16 bits in float32.

    Args:
        maps: floating point (batch, channels, height, width), any strides.
        formula: how they are scored; the paper's when None. Its components and its weight do not matter here.

    Returns:
        `spectral` (equation 7), `dist` (equation 8), `frequency`, their product (equation 9), and `spatial`
        (equation 10). NaN in a map makes all but its `dist` NaN.

    Raises:
        ArgumentError: the maps are of another form.
    """
    formula = formula or Formula()
    if maps.ndim != 4 or not maps.dtype.is_floating_point or 0 in maps.shape[1:]:
        raise ArgumentError(
            "feature maps must be floating point (batch, channels, height, width), "
            f"got {maps.dtype} {tuple(maps.shape)}"
        )
    batch, channels, height, width = maps.shape
    dtype = torch.float64 if maps.dtype == torch.float64 else torch.float32
    transform = BlockTransform(height, width, formula.blocks, dtype, maps.device)
    is_strict = formula.variant == "published"
    with without_autocast(maps.device):
        pieces = [_parts_of(chunk.to(dtype), transform, is_strict) for chunk in _chunks(maps)]
    spectral, dist, spatial = (torch.cat(column).view(batch, channels) for column in zip(*pieces, strict=True))
    return MapParts(spectral, dist, spectral * dist, spatial)


def _parts_of(maps: Tensor, transform: BlockTransform, is_strict: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`spectral`, `dist` and `spatial` of contiguous maps (num, height, width), each float64 (num,)."""
    num_pixels = maps.shape[1] * maps.shape[2]
    spatial = torch.linalg.vector_norm(maps.view(len(maps), num_pixels), dim=1)
    coefficients = transform(maps)
    spectral = torch.linalg.vector_norm(coefficients, dim=1)
    mean = coefficients.sum(dim=1) / num_pixels
    rounding = ROUNDING * torch.finfo(maps.dtype).eps * mean.abs()
    # Comparisons in place give 0 and 1 in the coefficients' own type, which add up several times faster than bools.
    if is_strict:
        border = mean + rounding
        num_left_out = num_pixels - transform.num_coefficients
        count = coefficients.gt_(border[:, None]).sum(dim=1) + num_left_out * (border < 0)
    else:
        count = coefficients.ge_((mean - rounding)[:, None]).sum(dim=1)
    return exact(spectral), exact(count) / num_pixels, exact(spatial)


def _chunks(maps: Tensor) -> Iterator[Tensor]:
    """Yield all maps in order, contiguous (num, height, width), a bounded number at a time."""
    _, channels, height, width = maps.shape
    limit = CHUNK_ON_CPU * torch.get_num_threads() if maps.device.type == "cpu" else CHUNK_ELSEWHERE
    num = max(1, limit // (height * width))
    # Contiguous maps are only seen another way; of others, as many images are copied at a time as a chunk holds.
    num_images = len(maps) if maps.is_contiguous() else num // channels
    for images in maps.split(max(1, num_images)):
        yield from images.contiguous().flatten(0, 1).split(num)


def _as_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentError(f"{name} must be a number, got {value!r}")
    return float(value)
