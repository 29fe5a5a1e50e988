import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from tailcut.errors import ArgumentError, DataError
from tailcut.inputs import BlockDCT, Selection
from tailcut.inputs.jpeg.coefficients import CHROMA_FACTORS, JpegCoefficients, Sampling
from tailcut.inputs.jpeg.reader import read_jpeg
from tailcut.inputs.transform.block_dct import Chroma
from tailcut.transform.block import block_dct

CHROMAS: list[Chroma] = ["two_scale", "full"]
BOTH = pytest.mark.parametrize("chroma", CHROMAS)


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def photo(top: int, left: int, height: int, width: int) -> np.ndarray:
    return np.array(load_sample_image("china.jpg")[top : top + height, left : left + width])


def blocks_by_scipy(planes: np.ndarray) -> np.ndarray:
    """The 192 level-shifted coefficients of planes (3, height, width), (192, blocks_h, blocks_w)."""
    rows, columns = planes.shape[1] // 8, planes.shape[2] // 8
    found = np.zeros((3, 8, 8, rows, columns))
    for component, row, column in np.ndindex(3, rows, columns):
        block = planes[component, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] - 128.0
        found[component, :, :, row, column] = dctn(block, norm="ortho")
    return found.reshape(192, rows, columns)


def transcribed(image: Tensor, chroma: str) -> Tensor:
    """Step by step, nothing joined: JFIF's equations, edges, x 2 and 4:2:0, SciPy's DCT. Image (3, h, w), 0 to 1."""
    red, green, blue = (image.double() * 255).numpy()
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = np.stack([luma, (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128])
    height, width = luma.shape
    planes = np.pad(planes, ((0, 0), (0, -height % 8), (0, -width % 8)), mode="edge")
    if chroma == "two_scale":
        enlarged = interpolate(torch.from_numpy(planes)[None, 1:], scale_factor=2, mode="bilinear")
        planes[1:] = avg_pool2d(enlarged, 2)[0].numpy()
    return torch.from_numpy(blocks_by_scipy(planes))


@given(
    size=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    channels=st.one_of(st.sampled_from([6, 24, 192]), st.lists(st.integers(0, 191), unique=True, min_size=1)),
    chroma=st.sampled_from(CHROMAS),
    lead=st.lists(st.integers(0, 2), max_size=2),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_channels_like_the_steps_one_by_one(
    size: tuple[int, int], channels: Any, chroma: Chroma, lead: list[int], dtype: torch.dtype
) -> None:
    x = images(*lead, 3, *size, dtype=dtype)
    transform = BlockDCT(channels, chroma=chroma)
    found = transform(x)
    grid = (-(-size[0] // 8), -(-size[1] // 8))
    assert found.shape == (*lead, transform.num_channels, *grid)
    assert found.dtype == dtype
    chosen = list(transform.selection.indices)
    tolerance = 1e-9 if dtype == torch.float64 else 5e-3
    for one, expected in zip(found.reshape(-1, len(chosen), *grid), x.reshape(-1, 3, *size), strict=True):
        torch.testing.assert_close(one.double(), transcribed(expected, chroma)[chosen], rtol=0, atol=tolerance)


@BOTH
def test_selection_before_the_arithmetic_is_selection_after_it(chroma: Chroma) -> None:
    x = images(2, 3, 20, 30)
    everything = BlockDCT(192, chroma=chroma)(x)
    for selection in (Selection.of(24), Selection((), (5,), ()), Selection((63, 1)), Selection((), (), (0, 9))):
        transform = BlockDCT(selection, chroma=chroma)
        assert transform.filters.shape[0] == selection.num_channels
        torch.testing.assert_close(transform(x), everything[:, list(selection.indices)], rtol=0, atol=1e-9)


@BOTH
def test_uint8_and_floats_agree(chroma: Chroma) -> None:
    x = torch.randint(0, 256, (2, 3, 17, 24), dtype=torch.uint8)
    transform = BlockDCT(48, chroma=chroma)
    torch.testing.assert_close(transform(x), transform(x.float() / 255), rtol=0, atol=2e-3)
    assert transform(x).dtype == torch.float32
    assert transform.double()(x).dtype == torch.float64
    torch.testing.assert_close(transform(x), transform(x.double() / 255), rtol=0, atol=1e-9)


@BOTH
@pytest.mark.parametrize("size", [(8, 8), (40, 16)])
def test_inverse_gives_the_image_back(chroma: Chroma, size: tuple[int, int]) -> None:
    x = images(2, 3, *size)
    transform = BlockDCT(192, chroma=chroma).double()
    torch.testing.assert_close(transform.inverse(transform(x)), x, rtol=0, atol=1e-12)
    transform.fit([images(4, 3, 16, 16, seed=1)])
    torch.testing.assert_close(transform.inverse(transform(x)), x, rtol=0, atol=1e-12)


def test_inverse_of_a_padded_image_is_cut_to_its_size() -> None:
    x = images(3, 13, 18)
    transform = BlockDCT(192, chroma="full").double()
    assert transform.inverse(transform(x)).shape == (3, 16, 24)
    torch.testing.assert_close(transform.inverse(transform(x), (13, 18)), x, rtol=0, atol=1e-12)
    for size in ((17, 24), (0, 3)):
        with pytest.raises(ArgumentError, match=r"expected a size of at most \(16, 24\), got"):
            transform.inverse(transform(x), size)


@given(
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.lists(st.integers(0, 191), unique=True, min_size=1),
    chroma=st.sampled_from(CHROMAS),
)
def test_inverse_is_a_right_inverse_for_every_selection(
    blocks: tuple[int, int], channels: list[int], chroma: Chroma
) -> None:
    transform = BlockDCT(channels, chroma=chroma).double()
    transform.mean.copy_(images(len(channels)))
    transform.std.copy_(images(len(channels)) + 0.5)
    x = images(2, len(channels), *blocks) - 0.5
    torch.testing.assert_close(transform(transform.inverse(x)), x, rtol=0, atol=1e-10)


def test_fewer_channels_rebuild_a_photo_less_well() -> None:
    x = torch.from_numpy(photo(100, 200, 160, 160)).permute(2, 0, 1)
    errors = []
    for channels in (192, 64, 24, 6):
        transform = BlockDCT(channels)
        errors.append(float((transform.inverse(transform(x)) - x / 255).square().mean()))
    assert errors[0] < 1e-9
    assert errors == sorted(errors)
    assert errors[-1] < 0.02


def test_plain_coefficients_have_jpegs_level_shift() -> None:
    grey = torch.full((3, 8, 8), 200, dtype=torch.uint8)
    found = BlockDCT(192)(grey).flatten()
    assert found[0].item() == pytest.approx(8 * (200 - 128), abs=5e-3)
    assert found[1:].abs().max() < 5e-3


@BOTH
def test_fit_like_numpy_over_everything_at_once(chroma: Chroma) -> None:
    batches = [images(n, 3, 8 * n, 16, seed=n, dtype=torch.float32) for n in (1, 2, 3)]
    transform = BlockDCT(24, chroma=chroma)
    assert transform.fit((batch, torch.zeros(len(batch))) for batch in batches) is transform
    plain = BlockDCT(24, chroma=chroma)
    values = np.concatenate([plain(batch).double().transpose(0, 1).flatten(1).numpy() for batch in batches], axis=1)
    np.testing.assert_allclose(transform.mean.numpy(), values.mean(1), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(transform.std.numpy(), values.std(1), rtol=1e-5)
    normalised = torch.cat([transform(batch).transpose(0, 1).flatten(1) for batch in batches], dim=1)
    assert normalised.mean(1).abs().max() < 1e-4
    assert (normalised.std(1, correction=0) - 1).abs().max() < 1e-4


def test_fit_takes_what_loaders_yield() -> None:
    x = images(4, 3, 16, 16)
    expected = BlockDCT(6).fit([x]).mean
    loaders: list[Any] = [
        [[x, torch.arange(4)]],
        [x[:1], x[1:]],
        [(tuple(x), ["a", "b", "c", "d"])],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.arange(4)), batch_size=3),
        [jpeg_of(x[n], "4:4:4") for n in range(4)],
    ]
    for loader in loaders[:-1]:
        torch.testing.assert_close(BlockDCT(6).fit(loader).mean, expected)
    full = BlockDCT(6, chroma="full")
    torch.testing.assert_close(full.fit(loaders[-1]).mean, BlockDCT(6, chroma="full").fit([x]).mean, rtol=0, atol=0.5)


def test_fit_again_forgets_and_measures_coefficients_not_channels() -> None:
    transform = BlockDCT(6).fit([images(2, 3, 8, 8, seed=5) / 4])
    transform.fit([images(2, 3, 8, 8)])
    assert torch.equal(transform.mean, BlockDCT(6).fit([images(2, 3, 8, 8)]).mean)


def test_a_channel_that_never_varies_gets_std_1() -> None:
    grey = images(2, 1, 16, 16).expand(2, 3, 16, 16)
    transform = BlockDCT(6).fit([grey])
    assert transform.std[-2:].tolist() == [1, 1]
    assert transform.std[:4].min() > 1


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], DataError, "the loader is empty"),
        ([torch.zeros(0, 3, 8, 8)], DataError, "the loader is empty"),
        (["a.jpg"], ArgumentError, "expected a loader of images as tensors, .* got str in an item of type str"),
        ([()], DataError, "the loader is empty"),
        ([({"x": 1},)], ArgumentError, "got dict in an item of type tuple"),
        ([torch.full((1, 3, 8, 8), torch.nan)], DataError, "not finite"),
        ([torch.zeros(1, 1, 8, 8)], ArgumentError, "expected RGB images"),
    ],
)
def test_fit_of_nothing_sensible(loader: Any, error: type[Exception], message: str) -> None:
    transform = BlockDCT(6).fit([images(1, 3, 8, 8)])
    before = copy.deepcopy(transform.state_dict())
    with pytest.raises(error, match=message):
        transform.fit(loader)
    assert all(torch.equal(before[name], value) for name, value in transform.state_dict().items())


def upsampled(plane: Tensor, factors: tuple[int, int]) -> Tensor:
    if factors == (1, 1):
        return plane
    return interpolate(plane[None, None], scale_factor=factors, mode="bilinear")[0, 0]


def stored(sampling: Sampling, blocks: tuple[int, int]) -> tuple[JpegCoefficients, list[Tensor]]:
    """Coefficients of random planes whose sizes are whole blocks, and the planes at luma's size."""
    factors = CHROMA_FACTORS[sampling]
    height, width = 8 * blocks[0] * factors[0], 8 * blocks[1] * factors[1]
    luma = images(height, width) * 255
    chroma = [] if sampling == "grayscale" else [images(8 * blocks[0], 8 * blocks[1], seed=n) * 255 for n in (1, 2)]
    planes = [block_dct(plane - 128) for plane in (luma, *chroma)]
    table = torch.ones(8, 8)
    c = JpegCoefficients(
        planes[0],
        planes[1] if chroma else None,
        planes[2] if chroma else None,
        sampling,
        (table,) * len(planes),
        (height, width),
    )
    flat = [torch.full_like(luma, 128.0)] * 2
    return c, [luma, *([upsampled(plane, factors) for plane in chroma] or flat)]


@BOTH
@pytest.mark.parametrize("sampling", list(CHROMA_FACTORS))
def test_stored_coefficients_give_the_channels_of_the_planes(sampling: Sampling, chroma: Chroma) -> None:
    c, planes = stored(sampling, (2, 3))
    whole = torch.stack(planes)
    if chroma == "two_scale":
        whole[1:] = avg_pool2d(interpolate(whole[None, 1:], scale_factor=2, mode="bilinear"), 2)[0]
    expected = torch.from_numpy(blocks_by_scipy(whole.numpy()))
    for channels in (192, 24, [3, 70], [0], [191]):
        transform = BlockDCT(channels, chroma=chroma)
        found = transform.from_coefficients(c)
        torch.testing.assert_close(found, expected[list(transform.selection.indices)], rtol=0, atol=1e-4)


def jpeg_of(image: Tensor, sampling: Sampling) -> JpegCoefficients:
    """What a JPEG file of very high quality holds of an image (3, height, width), 0 to 1."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(pixels).save(
        content, "JPEG", quality=100, subsampling={"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}[sampling]
    )
    return read_jpeg(content.getvalue())


@BOTH
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(96, 128), (83, 101)])
def test_a_jpeg_gives_the_channels_of_its_decoded_image(
    size: tuple[int, int], sampling: Sampling, chroma: Chroma
) -> None:
    content = io.BytesIO()
    quality = {"quality": 90, "subsampling": {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}[sampling]}
    # Without pixels near 0 and 255, which a decoder may have to clip.
    Image.fromarray((photo(180, 250, *size) * 0.7 + 38).astype(np.uint8)).save(content, "JPEG", **quality)
    decoded = torch.from_numpy(np.array(Image.open(content))).permute(2, 0, 1)
    transform = BlockDCT(64, chroma=chroma)
    found, expected = transform.from_coefficients(read_jpeg(content.getvalue())), transform(decoded)
    assert found.shape == expected.shape
    # A decoder rounds pixels, which moves each coefficient by about 0.3; the last blocks hold the encoder's padding.
    whole = (slice(None), slice(size[0] // 8 - 1), slice(size[1] // 8 - 1))
    error = (found - expected)[whole].abs()
    assert error.mean() < 0.4
    assert error.max() < 8  # one grey level in the mean of a block
    assert expected[whole].abs().mean() > 10


def test_the_published_pipeline_differs_by_its_rounding_only() -> None:
    """Chroma of the image enlarged by 2 and encoded as 4:2:0 JPEG, luma of the image encoded as it is."""
    pixels = photo(150, 150, 160, 192)
    image = Image.fromarray(pixels)
    planes = []
    for one in (image, image.resize((384, 320), Image.Resampling.BILINEAR)):
        content = io.BytesIO()
        one.save(content, "JPEG", quality=100, subsampling=2)
        planes.append(read_jpeg(content.getvalue()))
    blue, red = planes[1].chroma_blue, planes[1].chroma_red
    assert blue is not None
    assert red is not None
    published = torch.cat([plane.flatten(-2).movedim(-1, 0) for plane in (planes[0].luma, blue, red)])
    ours = BlockDCT(192)(torch.from_numpy(pixels).permute(2, 0, 1))
    errors = (ours - published).abs().unflatten(0, (3, 64)).mean((1, 2, 3))
    assert errors.max() < 0.6
    plain = BlockDCT(192, chroma="full")(torch.from_numpy(pixels).permute(2, 0, 1))
    assert (plain - published).abs()[64:].mean() > 1.5 * errors[1:].mean()


def test_coefficients_that_are_not_upright() -> None:
    c, _ = stored("4:4:4", (1, 1))
    object.__setattr__(c, "orientation", 6)
    with pytest.raises(ArgumentError, match="EXIF orientation 6: turn the coefficients upright first"):
        BlockDCT(6).from_coefficients(c)


def test_statistics_apply_to_stored_coefficients_too() -> None:
    c, _ = stored("4:2:0", (2, 2))
    transform = BlockDCT(24).double().fit([c])
    channels = transform.from_coefficients(c)
    assert channels.mean((1, 2)).abs().max() < 1e-9
    torch.testing.assert_close(transform.unnormalized(c), BlockDCT(24).double().from_coefficients(c))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_and_autocast(dtype: torch.dtype) -> None:
    x = images(1, 3, 16, 16, dtype=dtype)
    transform = BlockDCT(24)
    assert torch.equal(transform(x), transform(x.float()).to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transform(x.float()), transform(x.float()))
        assert transform(x.float()).dtype == torch.float32
    rounded = BlockDCT(24).to(dtype)
    assert rounded.filters.dtype == torch.float32
    assert rounded(torch.zeros(3, 8, 8, dtype=torch.uint8)).dtype == dtype
    assert transform.inverse(transform(x)).dtype == dtype


def test_moves_do_not_lose_the_filters() -> None:
    x = images(3, 16, 16)
    expected = BlockDCT(24).double()(x)
    again = BlockDCT(24).to(torch.bfloat16).double()
    torch.testing.assert_close(again(x), expected, rtol=0, atol=1e-9)
    with torch.device("meta"):
        empty = BlockDCT(24)
    assert empty.filters.is_meta
    assert empty(torch.empty(2, 3, 16, 16, device="meta")).shape == (2, 24, 2, 2)
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(BlockDCT(24).state_dict())
    torch.testing.assert_close(filled(x.float()), expected.float(), rtol=0, atol=5e-3)
    with torch.inference_mode():
        made = BlockDCT(24)
    made(images(1, 3, 8, 8).requires_grad_()).sum().backward()


def test_state_is_mean_and_std() -> None:
    transform = BlockDCT(6)
    assert set(transform.state_dict()) == {"mean", "std"}
    assert (transform.mean.tolist(), transform.std.tolist()) == ([0.0] * 6, [1.0] * 6)
    copied = copy.deepcopy(transform.fit([images(1, 3, 16, 16)]))
    assert torch.equal(copied.mean, transform.mean)
    assert list(transform.parameters()) == []


@BOTH
def test_gradcheck(chroma: Chroma) -> None:
    transform = BlockDCT([0, 5, 64, 190], chroma=chroma).double()
    x = images(1, 3, 9, 10).requires_grad_()
    assert torch.autograd.gradcheck(transform, (x,))
    assert torch.autograd.gradcheck(transform.inverse, (images(1, 4, 1, 2).requires_grad_(),))


@BOTH
def test_compiles_and_exports(chroma: Chroma) -> None:
    torch.compiler.reset()
    transform = BlockDCT(24, chroma=chroma)
    x = images(2, 3, 16, 24, dtype=torch.float32)
    compiled = torch.compile(transform, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), transform(x))
    exported = torch.export.export(nn.Sequential(transform), (x,))
    torch.testing.assert_close(exported.module()(x), transform(x))


def test_memory_formats_and_views() -> None:
    x = images(2, 3, 16, 24, dtype=torch.float32)
    transform = BlockDCT(24)
    expected = transform(x)
    torch.testing.assert_close(transform(x.to(memory_format=torch.channels_last)), expected, rtol=0, atol=1e-3)
    flipped = x.flip(-1).flip(-1)[:, :, ::1]
    torch.testing.assert_close(transform(flipped), expected, rtol=0, atol=1e-3)
    before = x.clone()
    transform(x)
    assert torch.equal(x, before)


def test_text() -> None:
    assert repr(BlockDCT(24)) == "BlockDCT(channels=24 (16 + 4 + 4), chroma='two_scale', padding='edge')"
    assert BlockDCT().num_channels == 64


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"expected images of uint8 \(0 to 255\) or floats \(0 to 1\), got"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), "got torch.bool"),
        (torch.zeros(8, 8), r"expected RGB images \(..., 3, height, width\), got shape \(8, 8\)"),
        (torch.zeros(1, 8, 8), r"got shape \(1, 8, 8\)"),
        (torch.zeros(8, 8, 3), r"got shape \(8, 8, 3\)"),
        (torch.zeros(3, 0, 8), r"got shape \(3, 0, 8\)"),
    ],
)
def test_images_that_are_none(x: Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        BlockDCT(6)(x)


def test_padding_can_be_an_error() -> None:
    transform = BlockDCT(6, padding="error")
    assert transform(torch.zeros(3, 16, 8)).shape == (6, 2, 1)
    with pytest.raises(ArgumentError, match=r"multiples of 8, got 16 x 9; padding='edge' repeats"):
        transform(torch.zeros(3, 16, 9))
    c = read_jpeg(_small_jpeg())
    with pytest.raises(ArgumentError, match=r"multiples of 8, got 9 x 8"):
        transform.from_coefficients(c)


def _small_jpeg() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 9), "red").save(content, "JPEG")
    return content.getvalue()


def test_other_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match="chroma must be 'two_scale' or 'full', got '4:2:0'"):
        BlockDCT(6, chroma="4:2:0")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="padding must be 'edge' or 'error', got 'zeros'"):
        BlockDCT(6, padding="zeros")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no published selection of 7 channels"):
        BlockDCT(7)
    for bad in (torch.zeros(5, 1, 1), torch.zeros(6, 1), torch.zeros(6, 1, 1, dtype=torch.uint8)):
        with pytest.raises(
            ArgumentError, match=r"expected floating-point channels \(..., 6, blocks_h, blocks_w\), got"
        ):
            BlockDCT(6).inverse(bad)


def test_a_transform_without_numbers_is_reported() -> None:
    with torch.device("meta"):
        transform = BlockDCT(24)
    with pytest.raises(ArgumentError, match="lies on the meta device and has no numbers"):
        transform(torch.rand(3, 16, 16))
    assert transform(torch.rand(3, 16, 16, device="meta")).shape == (24, 2, 2)
