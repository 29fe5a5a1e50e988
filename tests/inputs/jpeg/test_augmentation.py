"""The oracle is the same operation on the samples of each plane, by NumPy, with SciPy's DCT on both sides."""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.fft import dctn, idctn
from tests.inputs.jpegs import encode, photo
from torch.nn.functional import interpolate

from tailcut.errors import ArgumentError
from tailcut.inputs.jpeg import augmentation as ours
from tailcut.inputs.jpeg.coefficients import CHROMA_FACTORS, JpegCoefficients, Sampling, num_blocks
from tailcut.inputs.jpeg.reader import read_jpeg

SAMPLINGS = st.sampled_from(list(CHROMA_FACTORS))
SIDES = st.integers(1, 50)
WHOLE_SIDES = st.sampled_from([16, 32, 48])
Operation = Callable[[JpegCoefficients], JpegCoefficients]
OnSamples = Callable[[np.ndarray], np.ndarray]

TURNS: list[tuple[Operation, OnSamples]] = [
    (ours.flip_horizontal, lambda x: x[:, ::-1]),
    (ours.flip_vertical, lambda x: x[::-1]),
    (ours.transpose, lambda x: x.T),
]
TURN_IDS = [operation.__name__ for operation, _ in TURNS]


def random_image(height: int, width: int, sampling: Sampling, seed: int = 0) -> JpegCoefficients:
    """Random blocks in float64; their padding is random too."""
    generator = torch.Generator().manual_seed(seed)
    vertical, horizontal = CHROMA_FACTORS[sampling]
    sizes = [(height, width)] + 2 * [(-(-height // vertical), -(-width // horizontal))]
    planes = [
        100 * torch.randn(*num_blocks(size), 8, 8, dtype=torch.float64, generator=generator)
        for size in sizes[: 1 if sampling == "grayscale" else 3]
    ]
    tables = tuple(torch.rand(8, 8, generator=generator) for _ in planes)
    luma, blue, red = planes if len(planes) == 3 else (planes[0], None, None)
    return JpegCoefficients(luma, blue, red, sampling, tables, (height, width))


def samples_of(image: JpegCoefficients) -> list[np.ndarray]:
    """Each plane's samples, without padding, 128 added."""
    found = []
    for index, plane in enumerate(image.planes):
        height, width = image.plane_size(index)
        blocks = idctn(plane.numpy(), axes=(-2, -1), norm="ortho")
        rows, columns = plane.shape[:2]
        found.append(blocks.swapaxes(1, 2).reshape(8 * rows, 8 * columns)[:height, :width] + 128)
    return found


def check_planes(image: JpegCoefficients, expected: list[np.ndarray]) -> None:
    """The planes are those of `expected` samples, which repeat in the padding."""
    assert len(image.planes) == len(expected)
    for index, (plane, samples) in enumerate(zip(image.planes, expected, strict=True)):
        assert image.plane_size(index) == samples.shape
        height, width = samples.shape
        padded = np.pad(samples, ((0, -height % 8), (0, -width % 8)), mode="edge") - 128
        blocks = padded.reshape(-(-height // 8), 8, -(-width // 8), 8).swapaxes(1, 2)
        np.testing.assert_allclose(plane.numpy(), dctn(blocks, axes=(-2, -1), norm="ortho"), atol=1e-9)


@pytest.mark.parametrize(("operation", "on_samples"), TURNS, ids=TURN_IDS)
@given(height=SIDES, width=SIDES, sampling=SAMPLINGS)
def test_turns_of_any_size(
    operation: Operation, on_samples: OnSamples, height: int, width: int, sampling: Sampling
) -> None:
    image = random_image(height, width, sampling)
    turned = operation(image)
    expected = [on_samples(samples) for samples in samples_of(image)]
    assert turned.size == expected[0].shape
    for found, wanted in zip(samples_of(turned), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize(("operation", "on_samples"), TURNS, ids=TURN_IDS)
@given(height=WHOLE_SIDES, width=WHOLE_SIDES, sampling=SAMPLINGS)
def test_whole_blocks_are_turned_exactly(
    operation: Operation, on_samples: OnSamples, height: int, width: int, sampling: Sampling
) -> None:
    """Nothing but moved and negated: the coefficients' absolute values are the same numbers, bit for bit."""
    image = random_image(height, width, sampling)
    turned = operation(image)
    check_planes(turned, [on_samples(samples) for samples in samples_of(image)])
    for before, after in zip(image.planes, turned.planes, strict=True):
        assert torch.equal(before.abs().flatten().sort().values, after.abs().flatten().sort().values)


@given(height=SIDES, width=SIDES, sampling=SAMPLINGS)
def test_recut_planes_repeat_their_last_sample(height: int, width: int, sampling: Sampling) -> None:
    once = ours.flip_vertical(ours.flip_horizontal(random_image(height, width, sampling)))
    check_planes(once, samples_of(once))


@given(height=SIDES, width=SIDES, sampling=SAMPLINGS)
def test_turns_come_back(height: int, width: int, sampling: Sampling) -> None:
    image = random_image(height, width, sampling)
    for there, back in [
        (ours.flip_horizontal, ours.flip_horizontal),
        (ours.flip_vertical, ours.flip_vertical),
        (ours.transpose, ours.transpose),
    ]:
        again = back(there(image))
        assert (again.size, again.sampling) == (image.size, image.sampling)
        assert all(map(torch.equal, again.quantization, image.quantization))
        for found, wanted in zip(samples_of(again), samples_of(image), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_transposing_swaps_the_sampling_and_the_tables() -> None:
    turned = ours.transpose(random_image(30, 20, "4:2:2"))
    assert (turned.sampling, turned.size) == ("4:4:0", (20, 30))
    assert torch.equal(turned.quantization[1], random_image(30, 20, "4:2:2").quantization[1].T)


@pytest.mark.parametrize(("sampling", "kept"), [("4:4:4", 40), ("4:2:0", 32), ("4:4:0", 40), ("grayscale", 40)])
def test_trimmed_flips_lose_incomplete_blocks(sampling: Sampling, kept: int) -> None:
    image = random_image(21, 47, sampling)
    flipped = ours.flip_horizontal(image, edges="trim")
    assert flipped.size == (21, kept)
    horizontal = image.chroma_factors[1]
    widths = [kept, kept // horizontal, kept // horizontal]
    for found, before, width in zip(samples_of(flipped), samples_of(image), widths, strict=False):
        np.testing.assert_allclose(found, before[:, :width][:, ::-1], atol=1e-9)


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0"])
def test_incomplete_blocks_can_be_refused(sampling: Sampling) -> None:
    image = random_image(24, 47, sampling)
    unit = 16 if sampling == "4:2:0" else 8
    with pytest.raises(ArgumentError, match=f"width of a {sampling} image must be a multiple of {unit}.*got 47"):
        ours.flip_horizontal(image, edges="error")
    if sampling == "4:2:0":
        with pytest.raises(ArgumentError, match="height of a 4:2:0 image must be a multiple of 16"):
            ours.flip_vertical(random_image(24, 48, sampling), edges="error")
    else:
        assert ours.flip_vertical(image, edges="error").size == (24, 47)


def test_an_image_without_a_complete_block_cannot_be_trimmed() -> None:
    with pytest.raises(ArgumentError, match="no complete blocks; use edges='recut'"):
        ours.flip_vertical(random_image(15, 40, "4:2:0"), edges="trim")


def test_unknown_edges() -> None:
    with pytest.raises(ArgumentError, match="edges must be 'recut', 'trim', 'error', got 'perfect'"):
        ours.flip_vertical(random_image(16, 16, "4:4:4"), edges="perfect")  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("sampling", "height", "width"), [("4:4:4", 45, 59), ("grayscale", 45, 59), ("4:2:0", 48, 64)])
def test_orientation_is_that_of_pillow(orientation: int, sampling: str, height: int, width: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(height, width), sampling, quality=95, exif=exif)
    stored = read_jpeg(data, upright=False)
    assert (stored.orientation, stored.size) == (orientation, (height, width))
    image = ours.upright(stored)
    assert torch.equal(image.luma, read_jpeg(data).luma)
    assert image.orientation == 1
    opened = Image.open(io.BytesIO(data))
    if sampling != "grayscale":
        opened.draft("YCbCr", opened.size)
    wanted = np.asarray(ImageOps.exif_transpose(opened))
    assert image.size == wanted.shape[:2]
    wanted = wanted.reshape(*wanted.shape[:2], -1).transpose(2, 0, 1)
    for found, plane in zip(samples_of(image), wanted if sampling == "4:4:4" else wanted[:1], strict=False):
        assert np.abs(found.clip(0, 255) - plane).max() <= 1.01


@given(st.data())
def test_crop_is_a_slice(data: st.DataObject) -> None:
    sampling = data.draw(SAMPLINGS)
    image = random_image(data.draw(SIDES), data.draw(SIDES), sampling)
    starts = []
    for side, factor in zip(image.size, image.chroma_factors, strict=True):
        unit = 8 * factor
        starts.append(unit * data.draw(st.integers(0, (side - 1) // unit)))
    height, width = (data.draw(st.integers(1, side - start)) for side, start in zip(image.size, starts, strict=True))
    cut = ours.crop(image, starts[0], starts[1], height, width)
    assert cut.size == (height, width)
    for index, (found, before) in enumerate(zip(samples_of(cut), samples_of(image), strict=True)):
        vertical, horizontal = (1, 1) if index == 0 else image.chroma_factors
        top, left = starts[0] // vertical, starts[1] // horizontal
        rows, columns = cut.plane_size(index)
        np.testing.assert_allclose(found, before[top : top + rows, left : left + columns], atol=1e-9)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ((8, 0, 8, 8), "begins at multiples of 16 rows and 16 columns, got row 8, column 0"),
        ((0, 4, 8, 8), "got row 0, column 4"),
        ((0, 0, 41, 8), "part of the image's 40 x 50 pixels, got 41 x 8"),
        ((0, 0, 0, 8), "got 0 x 8"),
        ((-16, 0, 8, 8), "at row -16"),
    ],
)
def test_bad_crops(part: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ours.crop(random_image(40, 50, "4:2:0"), *part)


def test_a_crop_is_a_view() -> None:
    image = random_image(48, 48, "4:2:0")
    cut = ours.crop(image, 16, 16, 16, 16)
    image.luma.zero_()
    assert cut.luma.any() == 0


@given(height=SIDES, width=SIDES, sampling=SAMPLINGS, method=st.sampled_from(["linear", "nearest"]))
def test_double_size(height: int, width: int, sampling: Sampling, method: str) -> None:
    image = random_image(height, width, sampling)
    larger = ours.double_size(image, method=method)  # type: ignore[arg-type]
    assert larger.size == (2 * height, 2 * width)
    mode = "bilinear" if method == "linear" else "nearest"
    for found, before in zip(samples_of(larger), samples_of(image), strict=True):
        wanted = interpolate(torch.from_numpy(before)[None, None], scale_factor=2, mode=mode)[0, 0].numpy()
        np.testing.assert_allclose(found, wanted[: found.shape[0], : found.shape[1]], atol=1e-9)


@given(height=SIDES, width=SIDES, sampling=SAMPLINGS)
def test_halve_size(height: int, width: int, sampling: Sampling) -> None:
    image = random_image(height, width, sampling)
    smaller = ours.halve_size(image)
    assert smaller.size == (-(-height // 2), -(-width // 2))
    for found, before in zip(samples_of(smaller), samples_of(image), strict=True):
        even = np.pad(before, ((0, before.shape[0] % 2), (0, before.shape[1] % 2)), mode="edge")
        means = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean((1, 3))
        np.testing.assert_allclose(found, means, atol=1e-9)


def test_orientation_stays_until_it_is_applied() -> None:
    image = dataclasses.replace(random_image(16, 32, "4:2:2"), orientation=6)
    assert ours.flip_horizontal(image).orientation == 6
    turned = ours.upright(image)
    assert (turned.orientation, turned.size, turned.sampling) == (1, (32, 16), "4:4:0")
    for found, before in zip(samples_of(turned), samples_of(image), strict=True):
        np.testing.assert_allclose(found, np.rot90(before, 3), atol=1e-9)
