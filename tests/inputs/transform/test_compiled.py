"""The oracle is `BlockDCT` itself, in float64; its own tests check it against SciPy."""

import dataclasses
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.inputs.jpegs import encode, photo

from tailcut.errors import ArgumentError, MissingExtraError
from tailcut.inputs.jpeg.augmentation import crop
from tailcut.inputs.jpeg.coefficients import CHROMA_FACTORS, JpegCoefficients, Sampling
from tailcut.inputs.jpeg.reader import read_jpeg
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.transform import compiled
from tailcut.inputs.transform.block_dct import BlockDCT, Chroma
from tailcut.inputs.transform.compiled import CompiledTransform, is_installed

SELECTIONS = st.one_of(
    st.sampled_from([6, 24, 64, 192]),
    st.lists(st.integers(0, 191), min_size=1, max_size=20, unique=True),
).map(Selection.of)
SIDES = st.integers(1, 5)
CHROMAS = st.sampled_from(["two_scale", "full"])


def fitted(selection: Selection, chroma: Chroma, seed: int = 0) -> BlockDCT:
    generator = torch.Generator().manual_seed(seed)
    transform = BlockDCT(selection, chroma=chroma)
    transform.mean.normal_(0, 50, generator=generator)
    transform.std.uniform_(0.5, 20, generator=generator)
    return transform


def exact(transform: BlockDCT) -> BlockDCT:
    """A copy of the transform that computes in float64."""
    copy = BlockDCT(transform.selection, chroma=transform.chroma)
    copy.load_state_dict(transform.state_dict())
    return copy.double()


@given(SELECTIONS, CHROMAS, SIDES, SIDES, st.integers(0, 9))
def test_pixels(selection: Selection, chroma: Chroma, blocks_h: int, blocks_w: int, seed: int) -> None:
    transform = fitted(selection, chroma, seed)
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, 8 * blocks_h, 8 * blocks_w), dtype=torch.uint8, generator=generator)
    channels = CompiledTransform(transform).from_pixels(image)
    expected = exact(transform)(image)
    assert (channels.dtype, channels.shape) == (torch.float32, expected.shape)
    # float32 sums of 64 products of up to 255, divided by the spread.
    tolerance = 2e-3 / transform.std[:, None, None].double()
    assert bool(((channels - expected).abs() <= tolerance).all())


@given(SELECTIONS, CHROMAS, SIDES, SIDES, st.sampled_from(list(CHROMA_FACTORS)), st.integers(0, 9))
def test_coefficients(
    selection: Selection, chroma: Chroma, blocks_h: int, blocks_w: int, sampling: Sampling, seed: int
) -> None:
    transform = fitted(selection, chroma, seed)
    vertical, horizontal = CHROMA_FACTORS[sampling]
    generator = torch.Generator().manual_seed(seed)
    luma = 100 * torch.randn(blocks_h, blocks_w, 8, 8, generator=generator)
    grid = (-(-blocks_h // vertical), -(-blocks_w // horizontal))
    blue, red = (100 * torch.randn(*grid, 8, 8, generator=generator) for _ in range(2))
    is_grey = sampling == "grayscale"
    image = JpegCoefficients(
        luma, None if is_grey else blue, None if is_grey else red, sampling, (), (8 * blocks_h, 8 * blocks_w)
    )
    channels = CompiledTransform(transform).from_coefficients(image)
    precise = image.with_planes(tuple(plane.double() for plane in image.planes))
    expected = exact(transform).from_coefficients(precise)
    assert (channels.dtype, channels.shape) == (torch.float32, expected.shape)
    tolerance = 1e-3 / transform.std[:, None, None].double()
    assert bool(((channels - expected).abs() <= tolerance).all())


def test_parts_of_images_are_views() -> None:
    """Planes that are not contiguous."""
    whole = read_jpeg(encode(photo(128, 160), "4:2:0"))
    part = crop(whole, 16, 32, 64, 96)
    assert not part.luma.is_contiguous()
    copied = part.with_planes(tuple(plane.clone() for plane in part.planes))
    transform = CompiledTransform(BlockDCT(24))
    assert torch.equal(transform.from_coefficients(part), transform.from_coefficients(copied))
    image = torch.randint(0, 256, (32, 48, 3), dtype=torch.uint8)
    assert torch.equal(
        transform.from_pixels(image.permute(2, 0, 1)), transform.from_pixels(image.permute(2, 0, 1).contiguous())
    )


def test_statistics_are_those_of_the_call() -> None:
    module = BlockDCT(24)
    transform = CompiledTransform(module)
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    before = transform.from_pixels(image)
    module.mean.fill_(3)
    module.std.fill_(2)
    torch.testing.assert_close(transform.from_pixels(image), (before - 3) / 2, rtol=1e-4, atol=1e-3)
    assert (module.mean == 3).all(), "it is only read"


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 16, 16),
        torch.zeros(1, 16, 16, dtype=torch.uint8),
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(3, 16, 16, dtype=torch.uint8, device="meta"),
    ],
)
def test_other_images_are_refused(image: torch.Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"expected a uint8 image \(3, height, width\) on the CPU"):
        CompiledTransform(BlockDCT(6)).from_pixels(image)


@pytest.mark.parametrize("size", [(12, 16), (16, 4), (0, 16)])
def test_incomplete_blocks_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match=f"multiples of 8, got {size[0]} x {size[1]}"):
        CompiledTransform(BlockDCT(6)).from_pixels(torch.zeros(3, *size, dtype=torch.uint8))


def test_other_coefficients_are_refused() -> None:
    transform = CompiledTransform(BlockDCT(6))
    image = read_jpeg(encode(photo(16, 16)))
    for other in (
        image.with_planes(tuple(plane.double() for plane in image.planes)),
        image.to("meta"),
        read_jpeg(encode(photo(16, 17))),
    ):
        with pytest.raises(ArgumentError, match="expected float32 coefficients on the CPU of sides"):
            transform.from_coefficients(other)
    with pytest.raises(ArgumentError, match="expected an upright image, got EXIF orientation 3"):
        transform.from_coefficients(dataclasses.replace(image, orientation=3))


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed()
    compiled._loops.cache_clear()
    monkeypatch.setitem(sys.modules, "tailcut.inputs.transform.loops", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'numba': pip install '\.\[jpeg\]'"):
        CompiledTransform(BlockDCT(6))
    monkeypatch.undo()
    compiled._loops.cache_clear()
