import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tailcut.data.images import image_file_size, read_image, read_mask, write_mask
from tailcut.errors import ArgumentError, DataError
from tailcut.inputs.detection.inputs import read_pixels
from tailcut.jpeg.markers import read_outline

GENERATOR = np.random.default_rng(0)
COLOURS = GENERATOR.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = GENERATOR.integers(0, 256, (6, 9), dtype=np.uint8)
ORIENTATION = 0x0112


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """The oracle: (height, width, channels) bytes as (1, channels, height, width) / 255."""
    planes = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).astype(np.float32) / 255
    return torch.from_numpy(planes)[None]


def luma(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(pixels @ np.array([0.299, 0.587, 0.114]))


def test_rgb(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", COLOURS)
    assert torch.equal(read_image(path, channels=3), as_tensor(COLOURS))
    grey = read_image(str(path), channels=1)
    assert grey.shape == (1, 1, 6, 9)
    assert grey.is_contiguous()
    np.testing.assert_allclose(grey[0, 0] * 255, luma(COLOURS), atol=0.51)


def test_grey(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", GREY)
    assert torch.equal(read_image(path, channels=1), as_tensor(GREY))
    assert torch.equal(read_image(path, channels=3), as_tensor(GREY).expand(1, 3, 6, 9))


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 32).astype(np.uint8)[:, None, None], (32, 32, 3))
    path = save(tmp_path / "x.jpg", np.ascontiguousarray(smooth), quality=95)
    assert (read_image(path, channels=3) - as_tensor(smooth)).abs().max() < 0.03


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (16, 8), (255, 0, 0)).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    image = read_image(tmp_path / "x.jpg", channels=3)
    torch.testing.assert_close(image.mean(dim=(0, 2, 3)), torch.tensor([1.0, 0, 0]), atol=0.05, rtol=0)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    alpha = GENERATOR.integers(0, 256, (6, 9, 1), dtype=np.uint8)
    path = save(tmp_path / "x.png", np.concatenate([COLOURS, alpha], axis=2))
    share = alpha / 255
    expected = COLOURS * share + 255 * (1 - share)
    np.testing.assert_allclose(read_image(path, channels=3)[0].permute(1, 2, 0) * 255, expected, atol=1.01)
    np.testing.assert_allclose(read_image(path, channels=1)[0, 0] * 255, luma(expected), atol=1.6)


def test_grey_with_alpha(tmp_path: Path) -> None:
    pixels = np.stack([GREY, np.zeros_like(GREY)], axis=2)
    assert torch.equal(read_image(save(tmp_path / "x.png", pixels), channels=1), torch.ones(1, 1, 6, 9))


def test_palette_and_its_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 1), 0)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "transparent.png", transparency=0)
    opaque = read_image(tmp_path / "opaque.png", channels=3) * 255
    transparent = read_image(tmp_path / "transparent.png", channels=3) * 255
    assert opaque[0, :, 0, 0].round().tolist() == transparent[0, :, 0, 0].round().tolist() == [200, 100, 50]
    assert opaque[0, :, 1, 3].round().tolist() == [10, 20, 30]
    assert transparent[0, :, 1, 3].tolist() == [255, 255, 255]


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    pixels = GENERATOR.integers(0, 65536, (6, 9), dtype=np.uint16)
    path = save(tmp_path / "x.png", pixels)
    expected = torch.from_numpy(pixels.astype(np.float32) / 65535)
    torch.testing.assert_close(read_image(path, channels=1)[0, 0], expected)
    torch.testing.assert_close(read_image(path, channels=3)[0], expected.expand(3, 6, 9))


def test_one_bit(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", GREY > 127)
    assert torch.equal(read_image(path, channels=1)[0, 0], torch.from_numpy(GREY > 127).float())


def few_grey_levels(path: Path, depth: int, transparent: int) -> Path:
    """Write a PNG of 2 or 4 bits, a row of all values, as PNG's chunks have it: Pillow writes no such files."""
    levels = 1 << depth
    row = int("".join(f"{value:0{depth}b}" for value in range(levels)), 2).to_bytes(levels * depth // 8, "big")
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", levels, 1, depth, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("transparent", [0, 1, 3])
def test_the_transparent_value_of_few_grey_levels(depth: int, transparent: int, tmp_path: Path) -> None:
    path, levels = few_grey_levels(tmp_path / "x.png", depth, transparent), 1 << depth
    expected = torch.arange(levels) / (levels - 1)
    expected[transparent] = 1
    torch.testing.assert_close(read_image(path, channels=1)[0, 0, 0], expected)
    torch.testing.assert_close(read_pixels(path)[1, 0], expected)
    seen = [int(value not in (0, transparent)) for value in range(levels)]
    assert read_mask(path)[0].tolist() == seen


ORIENTATION_ENTRY = struct.Struct("<HHII")


@pytest.mark.parametrize(
    ("kind", "count", "value", "in_xmp"), [(3, 1, 0, 6), (3, 1, 9, 6), (1, 1, 6, 0), (8, 1, 6, 0), (3, 2, 6, 0)]
)
def test_a_jpeg_file_is_turned_as_its_coefficients_are(
    kind: int, count: int, value: int, in_xmp: int, tmp_path: Path
) -> None:
    """Of metadata that are not as they should be the readers of pixels and of coefficients make the same."""
    content = save(tmp_path / "x.jpg", COLOURS, quality=95).read_bytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + ORIENTATION_ENTRY.pack(0x0112, kind, count, value) + bytes(4)
    segments = [exif]
    if in_xmp:
        segments.append(b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="%d"/>' % in_xmp)
    head = b"".join(b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment for segment in segments)
    path = tmp_path / "y.jpg"
    path.write_bytes(content[:2] + head + content[2:])
    (height, width), orientation = read_outline(path.read_bytes())
    upright = (width, height) if orientation >= 5 else (height, width)
    assert orientation == (in_xmp or (value if kind == 1 else 1))
    assert image_file_size(path) == upright
    assert read_image(path, channels=3).shape[2:] == read_pixels(path).shape[1:] == upright


def test_bytes_between_segments_are_passed_over_leniently(tmp_path: Path) -> None:
    """As libjpeg does; the orientation is then the one that Pillow finds."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = save(tmp_path / "x.jpg", COLOURS, exif=exif).read_bytes()
    at = content.index(b"\xff\xdb")
    path = tmp_path / "y.jpg"
    path.write_bytes(content[:at] + b"\0\0" + content[at:])
    expected = read_image(tmp_path / "x.jpg", channels=3)
    assert torch.equal(read_image(path, channels=3, strict=False), expected)
    assert image_file_size(path) == expected.shape[2:] == (9, 6)
    with pytest.raises(DataError, match="must be FF, the beginning of a marker"):
        read_image(path, channels=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_of_a_jpeg_file_is_that_of_pillow(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / "x.jpg", COLOURS, exif=exif)
    with Image.open(path) as image:
        expected = as_tensor(np.asarray(ImageOps.exif_transpose(image)))
    assert torch.equal(read_image(path, channels=3), expected)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda x: x), (2, np.fliplr), (3, lambda x: np.rot90(x, 2)), (6, lambda x: np.rot90(x, -1))],
)
def test_orientation_is_honoured(tmp_path: Path, orientation: int, upright: object) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / "x.png", COLOURS, exif=exif)
    expected = upright(COLOURS).copy()  # type: ignore[operator]
    assert torch.equal(read_image(path, channels=3), as_tensor(expected))
    assert image_file_size(path) == expected.shape[:2]


def test_resize_is_that_of_pillow(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", COLOURS)
    for height, width in ((3, 4), (12, 20), (3, 20), (6, 9)):
        image = read_image(path, channels=3, size=(height, width))
        expected = Image.fromarray(COLOURS).resize((width, height), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(image[0].permute(1, 2, 0) * 255, np.asarray(expected), atol=1.01)


def test_resized_white_is_white(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", np.full((61, 83, 3), 255, dtype=np.uint8))
    for size in ((3, 4), (32, 32), (64, 64)):
        assert float(read_image(path, channels=3, size=size).max()) == 1


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_wrong_channels(tmp_path: Path, channels: int) -> None:
    with pytest.raises(ArgumentError, match=rf"1 \(grey\) or 3 \(RGB\), got {channels}"):
        read_image(save(tmp_path / "x.png", GREY), channels=channels)


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4,), (4, 4, 4)])
def test_wrong_size(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match="positive"):
        read_image(save(tmp_path / "x.png", GREY), channels=1, size=size)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.png: No such file"):
        read_image(tmp_path / "nowhere.png", channels=1)
    with pytest.raises(DataError, match="it is a folder; name the files in it"):
        read_image(tmp_path, channels=1)
    (tmp_path / "x.png").write_bytes(b"hello")
    with pytest.raises(DataError, match="no PNG or JPEG image"):
        read_image(tmp_path / "x.png", channels=1)
    content = bytearray(save(tmp_path / "x.jpg", COLOURS).read_bytes())
    content[content.index(b"\xff\xc0") + 4] = 12  # bits of a sample
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jpg: its samples have 12 bits; only 8 are supported"):
        read_image(tmp_path / "x.jpg", channels=1)
    save(tmp_path / "y.png", GREY, format="BMP")
    with pytest.raises(DataError, match="no PNG or JPEG image"):
        read_image(tmp_path / "y.png", channels=1)


@pytest.mark.parametrize(("name", "num_spare"), [("x.png", 4), ("x.jpg", 0)])
def test_truncated_files(tmp_path: Path, name: str, num_spare: int) -> None:
    """Every truncation is an error, but for the four constant bytes of checksum that end a PNG."""
    path = save(tmp_path / name, COLOURS)
    whole = path.read_bytes()
    for length in range(len(whole) - num_spare):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=str(path)):
            read_image(path, channels=3)


def test_png_without_pixels(tmp_path: Path) -> None:
    content = save(tmp_path / "x.png", GREY).read_bytes()
    (tmp_path / "x.png").write_bytes(content[:33] + content[-12:])  # the header and the end
    with pytest.raises(DataError, match=r"x\.png"):
        read_image(tmp_path / "x.png", channels=1)


def test_claimed_size_beyond_reason(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", GREY)
    content = bytearray(path.read_bytes())
    content[16:24] = b"\x00\x0f\x00\x00" * 2  # the width and height of the PNG's header
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    too_large = r"983040 x 983040 pixels; at most 16,777,216 .*; for more, give max_pixels=N"
    for read in (image_file_size, read_mask, lambda path: read_image(path, channels=1)):
        with pytest.raises(DataError, match=too_large):
            read(path)
    with pytest.raises(DataError, match="decompression bomb"):
        read_image(path, channels=1, max_pixels=1 << 62)


def test_a_small_file_of_many_pixels_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    """A PNG of 13,000 x 13,000 pixels in 20 KB: nothing is decoded, and a bound of one's own lets a part of it in."""
    path = tmp_path / "x.png"
    Image.new("1", (13000, 13000)).save(path, optimize=True)
    assert path.stat().st_size < 50_000
    tracemalloc.start()
    with pytest.raises(DataError, match="13000 x 13000 pixels; at most 16,777,216"):
        read_image(path, channels=3)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    save(tmp_path / "y.png", GREY)
    assert read_image(tmp_path / "y.png", channels=1, max_pixels=54).shape == (1, 1, 6, 9)
    with pytest.raises(DataError, match="6 x 9 pixels; at most 53 are allowed"):
        read_image(tmp_path / "y.png", channels=1, max_pixels=53)
    with pytest.raises(ArgumentError, match="max_pixels must be positive"):
        read_image(tmp_path / "y.png", channels=1, max_pixels=0)


def test_lost_bytes_of_jpeg_files_are_an_error_unless_lenient(tmp_path: Path) -> None:
    """libjpeg makes up what lacks; `strict=False` takes that."""
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "x.jpg", pixels)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    with pytest.raises(
        DataError, match=r"image data end early .*; to take what libjpeg makes of it, give strict=False"
    ):
        read_image(path, channels=3)
    with pytest.raises(DataError, match="image data end early"):
        read_mask(path)
    expected = np.asarray(Image.open(path))
    assert torch.equal(read_image(path, channels=3, strict=False), as_tensor(expected))
    assert read_mask(path, strict=False).shape == (64, 64)


def png_with_late_orientation(path: Path) -> Path:
    content = encoded(Image.fromarray(COLOURS), format="PNG", exif=EXIF)
    start = content.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
    path.write_bytes(content[:start] + content[stop:-12] + content[start:stop] + content[-12:])
    return path


def test_sizes_come_from_headers(tmp_path: Path) -> None:
    """Of any orientation, wherever it stands; what comes behind the header is not looked at."""
    for number in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = number
        for kind in ("png", "jpg"):
            path = save(tmp_path / f"x.{kind}", COLOURS, exif=exif)
            assert image_file_size(path) == tuple(read_image(path, channels=3).shape[2:])
            path.write_bytes(path.read_bytes()[:-20])
            assert image_file_size(path) == ((6, 9) if number < 5 else (9, 6))
    late = png_with_late_orientation(tmp_path / "late.png")
    assert image_file_size(late) == tuple(read_image(late, channels=3).shape[2:]) == (9, 6)


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[ORIENTATION] = 6
WHOLE = [
    encoded(Image.fromarray(COLOURS), format="PNG", exif=EXIF),
    encoded(Image.fromarray(COLOURS), format="JPEG", exif=EXIF),
]


@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4),
    st.integers(0),
)
def test_damaged_files_raise_only_data_error(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(whole)
    for position, value in changes:
        content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: len(content) - cut % 40])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data
        try:
            image = read_image(path, channels=3)
        except DataError:
            return
    assert image.min() >= 0
    assert image.max() <= 1


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_mask_round_trip(tmp_path_factory: pytest.TempPathFactory, height: int, width: int, seed: int) -> None:
    mask = torch.randint(0, 2, (height, width), generator=torch.Generator().manual_seed(seed))
    path = tmp_path_factory.getbasetemp() / "mask.png"
    write_mask(path, mask)
    assert torch.equal(read_mask(path), mask)
    write_mask(path, mask.bool())
    assert torch.equal(read_mask(path), mask)


def test_mask_file_is_black_and_white_png(tmp_path: Path) -> None:
    write_mask(tmp_path / "x.png", torch.tensor([[0, 1, 3], [0, 0, 1]]))
    with Image.open(tmp_path / "x.png") as image:
        assert (image.format, image.mode) == ("PNG", "1")
        assert np.asarray(image.convert("L")).tolist() == [[0, 255, 255], [0, 0, 255]]
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("mask", [torch.zeros(2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(0, 2).bool()])
def test_write_mask_refuses_what_is_no_mask(tmp_path: Path, mask: torch.Tensor) -> None:
    with pytest.raises(ArgumentError, match="bool or integer"):
        write_mask(tmp_path / "x.png", mask)
    assert not list(tmp_path.iterdir())


def test_write_mask_to_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="does not exist"):
        write_mask(tmp_path / "nowhere" / "x.png", torch.ones(2, 2, dtype=torch.bool))


@pytest.mark.parametrize("foreground", [1, 128, 255])
def test_any_value_above_zero_is_foreground(tmp_path: Path, foreground: int) -> None:
    pixels = (GREY > 127).astype(np.uint8) * foreground
    expected = torch.from_numpy(GREY > 127).long()
    assert torch.equal(read_mask(save(tmp_path / "grey.png", pixels)), expected)
    if foreground > 1:
        assert torch.equal(read_mask(save(tmp_path / "rgb.png", pixels[:, :, None].repeat(3, 2))), expected)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "transparent grey", "transparent palette", "transparent 16 bits"])
def test_what_is_transparent_is_background_of_a_mask(kind: str, tmp_path: Path) -> None:
    hidden, path = GREY > 127, tmp_path / "x.png"
    if kind in ("RGBA", "LA"):
        alpha = np.where(hidden, 0, 1).astype(np.uint8)
        values = np.full_like(GREY, 255)
        save(path, np.stack([*[values] * (len(kind) - 1), alpha], axis=2))
    elif kind == "transparent palette":
        image = Image.fromarray(np.where(hidden, 2, 1).astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(path, transparency=2)
    else:
        values = np.where(hidden, 200, 3).astype(np.uint16 if kind == "transparent 16 bits" else np.uint8)
        save(path, values, transparency=200)
    assert torch.equal(read_mask(path), torch.from_numpy(~hidden).long())


def test_rings_beside_the_edges_of_a_jpeg_mask_are_background(tmp_path: Path) -> None:
    square = np.zeros((40, 40), dtype=np.uint8)
    square[10:29, 13:30] = 255
    for name, pixels in (("grey.jpg", square), ("red.jpg", np.stack([square, 0 * square, 0 * square], axis=2))):
        path = save(tmp_path / name, pixels, quality=75, **({"subsampling": 0} if pixels.ndim == 3 else {}))
        with Image.open(path) as image:
            stored = np.asarray(image).reshape(40, 40, -1)[..., 0]
        assert ((stored > 0) != (square > 0)).any()
        assert torch.equal(read_mask(path), torch.from_numpy(square > 0).long())


def test_a_dark_colour_is_foreground(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[0, 1, 2] = 1
    assert read_mask(save(tmp_path / "x.png", pixels)).tolist() == [[0, 1, 0], [0, 0, 0]]


def png_of_16_bits(path: Path, pixels: np.ndarray) -> Path:
    """Written by hand, since Pillow writes 16 bits of plain grey only: (height, width, 1 to 4 channels)."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)
    return path


def test_small_values_of_16_bit_masks_are_foreground_or_refused(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 4), dtype=np.uint16)
    pixels[1:3, 0:4, :] = 1
    grey = png_of_16_bits(tmp_path / "grey.png", pixels[..., :1])
    assert torch.equal(read_mask(grey), torch.from_numpy(pixels[..., 0].astype(np.int64)))
    for channels in (2, 3, 4):
        path = png_of_16_bits(tmp_path / f"{channels}.png", pixels[..., :channels])
        assert image_file_size(path) == (4, 5)
        with pytest.raises(
            DataError, match=r"\.png: expected 8 bits per channel.* save it with 8 bits or as 16-bit grey"
        ):
            read_mask(path)


def test_of_16_bit_colours_the_higher_8_are_read(tmp_path: Path) -> None:
    pixels = GENERATOR.integers(0, 65536, (6, 9, 3), dtype=np.uint16)
    image = read_image(png_of_16_bits(tmp_path / "x.png", pixels), channels=3)
    assert torch.equal(image, as_tensor(pixels >> 8))


def test_a_jpeg_of_several_images_is_a_jpeg(tmp_path: Path) -> None:
    """Stereo cameras write them; Pillow has another name for such files."""
    grey = np.arange(64 * 64).reshape(64, 64).astype(np.uint8)
    image = Image.fromarray(grey)
    image.save(tmp_path / "one.jpg", quality=95)
    image.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[image], quality=95)
    with Image.open(tmp_path / "two.jpg") as opened:
        assert opened.format == "MPO"
    assert torch.equal(read_mask(tmp_path / "two.jpg"), read_mask(tmp_path / "one.jpg"))
    assert torch.equal(read_image(tmp_path / "two.jpg", channels=1), read_image(tmp_path / "one.jpg", channels=1))


def test_a_truncated_photo_is_read_leniently(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    path = tmp_path / "a.jpg"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])
    with pytest.raises(DataError, match=r"truncated.*give strict=False"):
        read_image(path, channels=3)
    found = read_image(path, channels=3, strict=False)
    assert found.shape == (1, 3, 64, 64)
    path.write_bytes(whole.getvalue())
    assert torch.equal(found[..., :24, :], read_image(path, channels=3)[..., :24, :])  # what is there
