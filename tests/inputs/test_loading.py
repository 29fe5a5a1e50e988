import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from tests.inputs.jpegs import encode, photo, segment
from torch.nn.functional import interpolate

from tailcut.data import check_folder, read_image
from tailcut.errors import ArgumentError, DataError, MissingExtraError
from tailcut.inputs import loading
from tailcut.inputs.jpeg.augmentation import crop, double_size, halve_size
from tailcut.inputs.jpeg.decoding import decode_with_pillow
from tailcut.inputs.jpeg.reader import read_jpeg
from tailcut.inputs.loading import JpegFolder, make_loader, turned_upright
from tailcut.inputs.transform.block_dct import BlockDCT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of photos of several sizes and samplings."""
    files = {
        "b/1.jpg": encode(photo(120, 90), "4:2:0", quality=90),
        "b/2.JPEG": encode(photo(64, 64), "4:4:4", quality=90),
        "a/x.jpeg": encode(photo(150, 200), "4:2:2", quality=90),
        "a/y.jpg": encode(photo(80, 70), "grayscale", quality=90),
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def write(root: Path, data: bytes) -> Path:
    """Make `data` the only file."""
    folder = root / "only" / "class"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.jpg").write_bytes(data)
    return root / "only"


def test_files_and_classes(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    JpegFolder(root, None, size=32)
    assert not caplog.text
    (root / "a" / "notes.txt").write_text("x")
    (root / "a" / ".hidden.jpg").write_text("x")
    (root / ".cache").mkdir()
    dataset = JpegFolder(root, None, size=32)
    assert "left out 1 of 5 files in" in caplog.text
    assert f"not called .jpg or .jpeg: {Path('a', 'notes.txt')}" in caplog.text
    assert [path.name for path in dataset.files] == ["x.jpeg", "y.jpg", "1.jpg", "2.JPEG"]
    assert (dataset.labels, dataset.class_names, len(dataset)) == ([0, 0, 1, 1], ("a", "b"), 4)
    assert [dataset[index][1] for index in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("decoder", ["pillow", "simplejpeg"])
@pytest.mark.parametrize("size", [32, (40, 24), 56, 200])
def test_the_middle_is_resized(root: Path, decoder: loading.Decoder, size: int | tuple[int, int]) -> None:
    """Against Pillow's decoder and torch's resizing, the middle found by hand. Both decoders are libjpeg-turbo's."""
    dataset = JpegFolder(root, None, size=size, decoder=decoder)
    height, width = (size, size) if isinstance(size, int) else size
    for index, path in enumerate(dataset.files):
        with Image.open(path) as image:
            scale = 7 / 8 * min(image.height / height, image.width / width)
            rows, columns = round(scale * height), round(scale * width)
            divisor = max(d for d in (1, 2, 4, 8) if d == 1 or min(rows / height, columns / width) >= d)
            whole = image.size
            left, top = (whole[0] - columns) // 2, (whole[1] - rows) // 2
            image.draft(None, (whole[0] // divisor, whole[1] // divisor))
            decoded = image.convert("RGB")
        assert decoded.width == -(-whole[0] // divisor)
        box = left / divisor, top / divisor, (left + columns) / divisor, (top + rows) / divisor
        if all(side.is_integer() for side in box):
            pixels = torch.from_numpy(np.array(decoded.crop(box))).permute(2, 0, 1)[None]
            expected = interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
        else:
            resized = decoded.resize((width, height), Image.Resampling.BILINEAR, box)
            expected = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        found = dataset[index][0]
        assert (found.dtype, found.shape) == (torch.uint8, (3, height, width))
        assert found.is_contiguous()
        assert (found.int() - expected.int()).abs().max() <= (0 if decoder == "pillow" else 3)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("shape", [(643, 964), (397, 421), (229, 342), (235, 235)])  # 2 to 8 times as large, none whole
def test_the_middle_is_not_shifted_by_the_decoder(root: Path, shape: tuple[int, int], orientation: int) -> None:
    """The part of the whole image, resized by Pillow, is nearest where it lies: not a quarter of a pixel beside it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = photo(235, 235).filter(ImageFilter.GaussianBlur(3)).resize(shape[::-1], Image.Resampling.BICUBIC)
    folder = write(root, encode(smooth, quality=98, exif=exif))
    whole = ImageOps.exif_transpose(Image.open(folder / "class" / "image.jpg")).convert("RGB")
    found = JpegFolder(folder, None, size=64)[0][0].numpy().transpose(1, 2, 0)
    scale = 7 / 8 * min(whole.size) / 64
    side = round(scale * 64)
    left, top = ((length - side) // 2 for length in whole.size)

    def difference(right: float, down: float) -> float:
        box = (left + right * scale, top + down * scale, left + right * scale + side, top + down * scale + side)
        expected = np.asarray(whole.resize((64, 64), Image.Resampling.BILINEAR, box))
        return float(np.abs(expected.astype(float) - found).mean())

    beside = [difference(*shift) for shift in ((0.125, 0), (-0.125, 0), (0, 0.125), (0, -0.125))]
    assert difference(0, 0) < min(beside)


def test_large_files_are_decoded_smaller(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    decode = decode_with_pillow

    def spy(data: bytes, size: tuple[int, int], divisor: int) -> np.ndarray:
        pixels = decode(data, size, divisor)
        sizes.append(pixels.shape)
        return pixels

    monkeypatch.setattr(loading, "decode_with_pillow", spy)
    folder = write(root, encode(photo(250, 300), quality=90))
    for size in (109, 110, 54, 20):
        JpegFolder(folder, None, size=size, decoder="pillow")[0]
    assert sizes == [(125, 150, 3), (250, 300, 3), (63, 75, 3), (32, 38, 3)]


@pytest.mark.parametrize("size", [32, (48, 40), (33, 50)])
@pytest.mark.parametrize("chroma", ["two_scale", "full"])
def test_channels_are_those_of_the_transform(root: Path, size: int | tuple[int, int], chroma: str) -> None:
    transform = BlockDCT(24, chroma=chroma)  # type: ignore[arg-type]
    transform.mean.normal_(0, 10)
    transform.std.uniform_(1, 5)
    channels, images = JpegFolder(root, transform, size=size), JpegFolder(root, None, size=size)
    for index in range(4):
        item = channels[index][0]
        assert item.shape == channels.item_shape
        torch.testing.assert_close(item, transform(images[index][0]), rtol=1e-4, atol=1e-3)
        assert not item.requires_grad


def test_without_compiled_loops(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = JpegFolder(root, BlockDCT(24), size=32)
    monkeypatch.setattr(loading, "is_installed", lambda: False)
    slow = JpegFolder(root, BlockDCT(24), size=32)
    torch.testing.assert_close(fast[0][0], slow[0][0], rtol=1e-4, atol=2e-3)
    with pytest.raises(MissingExtraError, match="coefficients of JPEG files needs the package 'numba'"):
        JpegFolder(root, BlockDCT(24), size=32, source="coefficients")


def test_types_and_bytes(root: Path) -> None:
    single = JpegFolder(root, BlockDCT(24), size=48)
    half = JpegFolder(root, BlockDCT(24), size=48, dtype=torch.float16)
    images = JpegFolder(root, None, size=48)
    assert (single.item_bytes, half.item_bytes, images.item_bytes) == (24 * 36 * 4, 24 * 36 * 2, 3 * 48 * 48)
    for dataset in (single, half, images):
        item = dataset[0][0]
        assert (item.shape, item.nbytes) == (dataset.item_shape, dataset.item_bytes)
    assert torch.equal(half[0][0], single[0][0].half())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
def test_pixels_are_upright(root: Path, orientation: int, decoder: loading.Decoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photo(64, 96)
    folder = write(root, encode(stored, quality=95, exif=exif))
    upright = ImageOps.exif_transpose(Image.open(folder / "class" / "image.jpg"))
    plain = write(root / "plain", encode(upright, quality=95))
    found, expected = (JpegFolder(path, None, size=56, decoder=decoder)[0][0] for path in (folder, plain))
    assert (found.int() - expected.int()).abs().float().mean() < 1.5, "but for the second encoding"
    array = torch.from_numpy(np.array(stored)).permute(2, 0, 1)
    turned = turned_upright(array, orientation)
    again = Image.fromarray(np.array(stored))
    again.getexif()[0x0112] = orientation
    assert torch.equal(turned, torch.from_numpy(np.array(ImageOps.exif_transpose(again))).permute(2, 0, 1))


def test_coefficients_of_an_image_of_the_size(root: Path) -> None:
    data = encode(photo(64, 96), "4:2:0", quality=90)
    transform = BlockDCT(24)
    dataset = JpegFolder(write(root, data), transform, size=(64, 96), source="coefficients")
    torch.testing.assert_close(dataset[0][0], transform.from_coefficients(read_jpeg(data)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "steps", "start"),
    [(128, 0, (0, 16)), (96, 0, (16, 32)), (48, 1, (16, 32)), (32, 2, (0, 16)), (16, 3, (0, 16))],
)
def test_the_middle_of_coefficients(root: Path, size: int, steps: int, start: tuple[int, int]) -> None:
    data = encode(photo(133, 180), "4:2:0", quality=90)
    transform = BlockDCT(24)
    side = size * 2**steps
    expected = crop(read_jpeg(data), *start, side, side)
    for _ in range(steps):
        expected = halve_size(expected)
    dataset = JpegFolder(write(root, data), transform, size=size, source="coefficients")
    torch.testing.assert_close(dataset[0][0], transform.from_coefficients(expected), rtol=1e-4, atol=1e-3)


def test_small_coefficients_are_doubled(root: Path) -> None:
    data = encode(photo(30, 70), "4:2:0", quality=90)
    transform = BlockDCT(24)
    # 30 rows must be doubled twice, and then only 16 x 16 pixels are shown.
    expected = double_size(double_size(crop(read_jpeg(data), 0, 16, 16, 16)))
    dataset = JpegFolder(write(root, data), transform, size=(64, 64), source="coefficients")
    torch.testing.assert_close(dataset[0][0], transform.from_coefficients(expected), rtol=1e-4, atol=1e-3)


def test_a_long_strip_takes_little_memory(root: Path) -> None:
    data = encode(photo(1, 1).resize((20000, 1)), "4:2:0")
    dataset = JpegFolder(write(root, data), BlockDCT(6), size=448, source="coefficients")
    assert dataset[0][0].shape == (6, 56, 56)
    assert JpegFolder(write(root, data), BlockDCT(6), size=448)[0][0].shape == (6, 56, 56)


@pytest.mark.parametrize("source", ["pixels", "coefficients"])
def test_augmentation_is_random_and_repeatable(root: Path, source: loading.Source) -> None:
    dataset = JpegFolder(root, BlockDCT(6), size=32, source=source, augment=True)
    items = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        items.append([dataset[0][0] for _ in range(8)])
    assert all(map(torch.equal, items[0], items[1]))
    assert not all(torch.equal(items[0][0], item) for item in items[0][1:])
    assert not all(map(torch.equal, items[0], items[2]))


def test_augmented_coefficients_are_parts_of_the_image(root: Path) -> None:
    """Each is one of the parts that begin at a chroma block, as it is or mirrored."""
    data = encode(photo(64, 112), "4:4:4", quality=90)
    transform = BlockDCT([0])
    dataset = JpegFolder(write(root, data), transform, size=32, source="coefficients", augment=True)
    # Parts of 64 x 64 pixels begin at columns 0, 16, 32 and 48, and are halved once.
    image = read_jpeg(data)
    torch.manual_seed(0)
    found = {tuple(dataset[0][0].round().flatten().tolist()) for _ in range(80)}
    parts = [transform.from_coefficients(halve_size(crop(image, 0, left, 64, 64)))[0] for left in range(0, 64, 16)]
    expected = {tuple(part.round().flatten().tolist()) for one in parts for part in (one, one.flip(-1))}
    assert found == expected
    assert len(expected) == 8


def test_augmented_images_are_of_the_image(root: Path) -> None:
    """An image whose columns grow brighter: a part does too, or the other way round if it was flipped."""
    ramp = Image.fromarray(np.tile(np.arange(0, 256, dtype=np.uint8), (200, 1))).convert("RGB")
    dataset = JpegFolder(write(root, encode(ramp, quality=100)), None, size=32, augment=True)
    torch.manual_seed(0)
    slopes, spans = [], []
    for _ in range(40):
        row = dataset[0][0][0, 16].int()
        slopes.append(bool(row[-1] > row[0]))
        spans.append(abs(int(row[-1] - row[0])))
        assert (row.diff().sign() == row.diff().sign()[row.diff() != 0][0]).float().mean() > 0.6
    assert 5 < sum(slopes) < 35
    assert min(spans) < 110
    assert max(spans) > 160


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_loader_in_workers(root: Path) -> None:
    dataset = JpegFolder(root, BlockDCT(24), size=32)
    batches = list(make_loader(dataset, 3, num_workers=2))
    assert [tuple(images.shape) for images, _ in batches] == [(3, 24, 4, 4), (1, 24, 4, 4)]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 1, 1]
    assert torch.equal(batches[0][0][1], dataset[1][0])
    assert len(list(make_loader(dataset, 3, drop_last=True))) == 1


def test_loader_shuffles_by_its_seed(root: Path) -> None:
    dataset = JpegFolder(root, None, size=16)
    orders = [
        tuple(int(batch[1]) for batch in make_loader(dataset, 1, shuffle=True, seed=seed))
        for seed in (*range(9), *range(9))
    ]
    assert orders[:9] == orders[9:]
    assert len(set(orders)) > 1


def test_folders_can_be_sent_to_processes(root: Path) -> None:
    dataset = JpegFolder(root, BlockDCT(24), size=32)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0][0], dataset[0][0])


@pytest.mark.parametrize(
    ("decoder", "source"), [("simplejpeg", "pixels"), ("pillow", "pixels"), ("pillow", "coefficients")]
)
def test_damaged_files_are_named(root: Path, decoder: loading.Decoder, source: loading.Source) -> None:
    data = encode(photo(64, 64), quality=90)
    dataset = JpegFolder(write(root, data), BlockDCT(6), size=16, decoder=decoder, source=source)
    for damaged in (data[: len(data) // 2], data[:20], b"", b"no image"):
        dataset.files[0].write_bytes(damaged)
        with pytest.raises(DataError, match=str(dataset.files[0])):
            dataset[0]
    dataset.files[0].unlink()
    with pytest.raises(DataError, match=f"cannot read the image {dataset.files[0]}: No such file"):
        dataset[0]
    with pytest.raises(IndexError):
        dataset[1]


@pytest.mark.parametrize("decoder", ["pillow", "simplejpeg"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_a_png_file_named_as_a_jpeg_is_read_from_pixels(root: Path, decoder: loading.Decoder, mode: str) -> None:
    """As `read_image` reads it, and cut and resized by Pillow; ImageNet has such a file, n02105855_2933.JPEG."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 4), dtype=np.uint8)
    stored = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    (stored if mode == "I;16" else stored.convert(mode)).save(content, format="PNG", exif=exif)
    folder = write(root, content.getvalue())
    path = folder / "class" / "image.jpg"
    whole = (read_image(path, channels=3)[0] * 255).round().byte()
    assert whole.shape == (3, 90, 60)
    # The middle of 52 x 52 pixels, 7/8 of the shorter side.
    expected = interpolate(whole[None, :, 19:71, 4:56], (24, 24), mode="bilinear", antialias=True)[0]
    assert torch.equal(JpegFolder(folder, None, size=24, decoder=decoder)[0][0], expected)
    assert not check_folder(folder).failed
    augmented = JpegFolder(folder, BlockDCT(6), size=16, decoder=decoder, augment=True)
    assert augmented[0][0].shape == augmented.item_shape


def test_what_a_png_file_named_as_a_jpeg_is_not_good_for(root: Path) -> None:
    content = io.BytesIO()
    photo(60, 90).save(content, format="PNG")
    folder = write(root, content.getvalue())
    with pytest.raises(
        DataError, match=r"image\.jpg: it is a PNG file named \.jpg, which stores no coefficients: read"
    ):
        JpegFolder(folder, BlockDCT(6), size=16, source="coefficients")[0]
    with pytest.raises(DataError, match=r"no JPEG file: .* but as a PNG file"):
        read_jpeg(content.getvalue())
    with pytest.raises(DataError, match=r"image\.jpg: it has 60 x 90 pixels; at most 5,399 are allowed"):
        JpegFolder(folder, None, size=16, max_pixels=5399)[0]
    (folder / "class" / "image.jpg").write_bytes(content.getvalue()[:-20])
    with pytest.raises(DataError, match=r"image\.jpg: cannot be decoded"):
        JpegFolder(folder, None, size=16)[0]


def test_cmyk_is_refused_or_converted(root: Path) -> None:
    folder = write(root, encode(photo(64, 64).convert("CMYK"), quality=90))
    with pytest.raises(DataError, match="CMYK"):
        JpegFolder(folder, BlockDCT(6), size=16, source="coefficients")[0]
    assert JpegFolder(folder, None, size=16, decoder="pillow")[0][0].shape == (3, 16, 16)


def test_very_large_images_are_refused(root: Path) -> None:
    data = encode(photo(16, 16))
    at = segment(data, 0xC0)[0] + 5
    huge = data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]
    with pytest.raises(DataError, match="at most 16,777,216"):
        JpegFolder(write(root, huge), None, size=16)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "video"}, "source must be 'pixels' or 'coefficients', got 'video'"),
        ({"decoder": "opencv"}, "decoder must be 'simplejpeg' or 'pillow', got 'opencv'"),
        ({"size": 0}, r"size must be an integer or \(height, width\), positive multiples of 1, got 0"),
        ({"size": 8.0}, "got 8.0"),
        ({"size": (8.0, 8)}, r"got \(8.0, 8\)"),
        ({"size": None}, "got None"),
        ({"size": "8"}, "got '8'"),
        ({"size": (8, 8, 8)}, r"got \(8, 8, 8\)"),
        ({"size": 40, "source": "coefficients"}, "multiples of 16, got 40"),
        ({"source": "coefficients", "transform": None}, "coefficients need a transform"),
        ({"dtype": torch.uint8}, "dtype must be a floating-point torch.dtype, got torch.uint8"),
        ({"dtype": "float16"}, "dtype must be a floating-point torch.dtype, got 'float16'"),
        ({"transform": 24}, r"transform must be a BlockDCT, such as tailcut.inputs.BlockDCT\(24\); got 24"),
    ],
)
def test_bad_arguments(root: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        JpegFolder(root, **({"transform": BlockDCT(6)} | arguments))  # type: ignore[arg-type]


def test_sizes_of_other_integers(root: Path) -> None:
    assert JpegFolder(root, None, size=np.int64(16)).size == (16, 16)  # type: ignore[arg-type]
    assert JpegFolder(root, None, size=[16, 24]).size == (16, 24)  # type: ignore[arg-type]


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no folders; there must be one for each class"):
        JpegFolder(tmp_path, None)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"a holds no JPEG files \(\.jpg, \.jpeg\)"):
        JpegFolder(tmp_path, None)
    with pytest.raises(DataError, match=r"cannot read the folder .*nowhere: No such file"):
        JpegFolder(tmp_path / "nowhere", None)


def test_without_simplejpeg(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'simplejpeg': pip install '\.\[jpeg\]'"):
        JpegFolder(root, None)
    assert JpegFolder(root, None, size=16, decoder="pillow")[0][0].shape == (3, 16, 16)
    assert JpegFolder(root, BlockDCT(6), size=16, source="coefficients")[0][0].shape == (6, 2, 2)


def test_approximate_decoding_is_close(root: Path) -> None:
    exactly, about = (JpegFolder(root, None, size=64, approximate=flag) for flag in (False, True))
    for index in range(4):
        difference = (exactly[index][0].int() - about[index][0].int()).abs().float()
        assert difference.mean() < 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_files_are_left_out_of_batches(root: Path, num_workers: int, caplog: pytest.LogCaptureFixture) -> None:
    """Batches are smaller by what is broken, none is empty, and what was left out is known where one trains."""
    folder = root / "many" / "class"
    folder.mkdir(parents=True)
    for number in range(7):
        data = encode(photo(40, 40 + number))
        (folder / f"{number}.jpg").write_bytes(data[: len(data) // 2] if number in (1, 4, 5) else data)
    dataset = JpegFolder(root / "many", BlockDCT(6), size=16, source="coefficients", on_error="skip")
    batches = list(make_loader(dataset, 2, num_workers=num_workers))
    assert [len(labels) for _, labels in batches] == [1, 2, 1]
    assert sorted(dataset.skipped) == [1, 4, 5]
    assert "left out 3 of 7 images that cannot be read" in caplog.text
    for (channels, _), positions in zip(batches, ([0], [2, 3], [6]), strict=True):
        assert torch.equal(channels, torch.stack([dataset[position][0] for position in positions]))
    with pytest.raises(DataError, match=r"1\.jpg"):
        dataset[1]
    strict = JpegFolder(root / "many", BlockDCT(6), size=16, source="coefficients")
    with pytest.raises(DataError, match=r"1\.jpg"):
        list(make_loader(strict, 2))


def test_a_bound_of_ones_own(root: Path) -> None:
    folder = write(root, encode(photo(40, 48)))
    for source in ("pixels", "coefficients"):
        bounded = JpegFolder(folder, BlockDCT(6), size=16, source=source, max_pixels=40 * 48 - 1)
        with pytest.raises(DataError, match="40 x 48 pixels; at most 1,919"):
            bounded[0]
