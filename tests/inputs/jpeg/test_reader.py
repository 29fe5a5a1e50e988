"""Reading coefficients, against libjpeg's (jpeglib), against decoded pixels (Pillow), and on damaged files."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import idctn
from tests.inputs.jpegs import (
    encode,
    frame_position,
    luma_by_pillow,
    one_scan_per_component,
    photo,
    quantized_by_jpeglib,
    replaced,
    segment,
    ycbcr_by_pillow,
)

from tailcut.errors import ArgumentError, DataError, MissingExtraError
from tailcut.inputs.jpeg.block_resampling import upsample_blocks
from tailcut.inputs.jpeg.coefficients import JpegCoefficients
from tailcut.inputs.jpeg.reader import read_jpeg
from tailcut.jpeg import entropy

SAMPLINGS = ["4:4:4", "4:2:2", "4:2:0", "4:4:0", "grayscale"]
SIZES = [(64, 96), (61, 83), (9, 7), (1, 1), (16, 17)]


def quantized(image: JpegCoefficients) -> list[np.ndarray]:
    found = [plane / table for plane, table in zip(image.planes, image.quantization, strict=True)]
    assert all(torch.equal(plane, plane.round()) for plane in found)
    return [plane.numpy().astype(np.int16) for plane in found]


def samples_of(plane: torch.Tensor) -> np.ndarray:
    blocks = idctn(plane.numpy().astype(np.float64), axes=(-2, -1), norm="ortho")
    rows, columns = plane.shape[:2]
    samples: np.ndarray = blocks.swapaxes(1, 2).reshape(8 * rows, 8 * columns)
    return (samples + 128).clip(0, 255)


def check_against_jpeglib(data: bytes, folder: Path) -> JpegCoefficients:
    image = read_jpeg(data)
    for found, wanted in zip(quantized(image), quantized_by_jpeglib(data, folder), strict=True):
        np.testing.assert_array_equal(found, wanted)
    return image


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", [3, 60, 100])
def test_coefficients_are_those_of_libjpeg(tmp_path: Path, sampling: str, size: tuple[int, int], quality: int) -> None:
    image = check_against_jpeglib(encode(photo(*size), sampling, quality=quality), tmp_path)
    assert (image.sampling, image.size, image.orientation) == (sampling, size, 1)
    assert {plane.dtype for plane in image.planes} == {torch.float32}


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0", "grayscale"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", [3, 60, 100])
def test_progressive(tmp_path: Path, sampling: str, size: tuple[int, int], quality: int) -> None:
    pixels = photo(*size)
    image = check_against_jpeglib(encode(pixels, sampling, quality=quality, progressive=True), tmp_path)
    baseline = read_jpeg(encode(pixels, sampling, quality=quality))
    assert all(map(torch.equal, image.planes, baseline.planes)), "only the order of the file differs"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("options", [{"restart_marker_blocks": 1}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_restart_markers_and_own_tables(tmp_path: Path, options: dict[str, object], progressive: bool) -> None:
    data = encode(photo(61, 83), "4:2:0", progressive=progressive, **options)
    if "optimize" not in options:
        assert b"\xff\xd0" in data
        assert b"\xff\xd2" in data
    check_against_jpeglib(data, tmp_path)


def test_noise_fills_every_coefficient(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for progressive in (False, True):
        image = check_against_jpeglib(encode(Image.fromarray(pixels), quality=100, progressive=progressive), tmp_path)
        assert (image.luma != 0).float().mean() > 0.9


def test_one_scan_per_component(tmp_path: Path) -> None:
    """Not interleaved: blocks go row by row, without the blocks that would fill an MCU."""
    planes = [photo(33, 41).convert("L"), photo(17, 21).convert("L"), photo(17, 21, number=1).convert("L")]
    greys = [encode(plane, "grayscale", quality=80) for plane in planes]
    data = one_scan_per_component(greys, [0x22, 0x11, 0x11], (33, 41))
    image = check_against_jpeglib(data, tmp_path)
    assert image.sampling == "4:2:0"
    for plane, grey in zip(image.planes, greys, strict=True):
        assert torch.equal(plane, read_jpeg(grey).luma)


def test_sampling_factors_of_grey_images_mean_nothing(tmp_path: Path) -> None:
    data = encode(photo(33, 41), "grayscale")
    other = replaced(data, frame_position(data) + 11, 0x22)
    assert torch.equal(check_against_jpeglib(other, tmp_path).luma, read_jpeg(data).luma)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", SIZES)
def test_luma_is_what_pillow_decodes(sampling: str, size: tuple[int, int]) -> None:
    data = encode(photo(*size), sampling, quality=90)
    samples = samples_of(read_jpeg(data).luma)[: size[0], : size[1]]
    assert np.abs(samples - luma_by_pillow(data)).max() <= 1.01


def test_planes_are_what_pillow_decodes() -> None:
    data = encode(photo(61, 83), "4:4:4", quality=90)
    for plane, decoded in zip(read_jpeg(data).planes, ycbcr_by_pillow(data), strict=True):
        assert np.abs(samples_of(plane)[:61, :83] - decoded).max() <= 1.01


@pytest.mark.parametrize("sampling", ["4:2:0", "4:2:2", "4:4:0"])
def test_upsampled_chroma_is_what_pillow_decodes(sampling: str) -> None:
    """libjpeg interpolates linearly too, but rounds twice on the way."""
    data = encode(photo(64, 96), sampling, quality=90)
    image = read_jpeg(data)
    for plane, decoded in zip(image.planes[1:], ycbcr_by_pillow(data)[1:], strict=True):
        samples = samples_of(upsample_blocks(plane, *image.chroma_factors))
        assert np.abs(samples - decoded).max() <= 2
        assert np.abs(samples - decoded).mean() < 0.5


def test_paths_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    data = encode(photo(16, 24))
    path.write_bytes(data)
    for source in (path, str(path), data, bytearray(data), memoryview(data)):
        assert torch.equal(read_jpeg(source).luma, read_jpeg(data).luma)


def test_planes_are_contiguous_and_own_their_memory() -> None:
    for plane in read_jpeg(encode(photo(9, 9), "4:2:0")).planes:
        assert plane.is_contiguous()
        assert plane.untyped_storage().nbytes() == 4 * plane.numel()


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    with pytest.raises(DataError, match=f"cannot read the image {path}: No such file"):
        read_jpeg(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=f"cannot use the image {path}: it is no JPEG"):
        read_jpeg(path)
    with pytest.raises(DataError, match="cannot use the JPEG data: it is no JPEG"):
        read_jpeg(b"nothing")
    with pytest.raises(DataError, match="cannot read the image"):
        read_jpeg(tmp_path)
    with pytest.raises(ArgumentError, match="expected a JPEG's path or its bytes, got BytesIO"):
        read_jpeg(io.BytesIO(b""))  # type: ignore[arg-type]


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    entropy._loops.cache_clear()
    monkeypatch.setitem(sys.modules, "tailcut.jpeg.scans", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'numba': pip install '\.\[jpeg\]'"):
        read_jpeg(encode(photo(16, 16)))
    monkeypatch.undo()
    entropy._loops.cache_clear()


# Damage. The files are small, so that every byte is tried.

SMALL = {
    "baseline": encode(photo(20, 28), "4:2:0", quality=50),
    "progressive": encode(photo(20, 28), "4:2:0", quality=50, progressive=True),
    "restarts": encode(photo(20, 28), "4:4:4", quality=50, restart_marker_blocks=2),
    "grayscale": encode(photo(20, 28), "grayscale", quality=50),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\xd9"])
def test_truncation_is_noticed_at_every_byte(name: str, end: bytes) -> None:
    """Also where an end-of-image marker was put behind it, which readers take for a complete file."""
    data = SMALL[name]
    for stop in range(len(data) - 1):
        cut = data[:stop] + end
        if cut != data:
            with pytest.raises(DataError, match="cannot use the JPEG data"):
                read_jpeg(cut)


@pytest.mark.parametrize("name", SMALL)
def test_data_that_are_left_over_are_noticed(name: str) -> None:
    data = SMALL[name]
    for spare in (b"\0", b"\x55\x55", b"\0" * 100):
        with pytest.raises(DataError, match="more image data than the size needs"):
            read_jpeg(data[:-2] + spare + data[-2:])


def test_a_missing_restart_marker_is_noticed() -> None:
    data = SMALL["restarts"]
    at = data.index(b"\xff\xd1")
    for damaged in (
        data[:at] + data[at + 2 :],
        replaced(data, at + 1, 0xD0),
        data[:at] + b"\xff\xd1" + data[at:],
        data[:at] + b"\xff\xd1\xff\xd2" + data[at + 2 :],
    ):
        with pytest.raises(DataError, match=r"cannot use .*(restart markers in its image data are not the|the pic)"):
            read_jpeg(damaged)


def test_a_missing_scan_is_noticed() -> None:
    """Cut between two scans, with an end marker: all that remains is well-formed."""
    data = encode(photo(20, 28), "4:2:0", progressive=True)
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 5
    for start in starts[1:]:
        with pytest.raises(DataError, match=r"not all scans of component [012] are there"):
            read_jpeg(data[:start] + b"\xff\xd9")
    first, second = starts[0], starts[1]
    with pytest.raises(DataError, match="out of order"):
        read_jpeg(data[:second] + data[first:])
    with pytest.raises(DataError, match="out of order"):
        read_jpeg(data[:first] + data[second:])


@pytest.mark.parametrize(
    "values", [(1, 0, 0), (0, 1, 0), (0, 64, 0), (0, 0, 0x0E), (0, 0, 0x20), (5, 64, 1), (9, 5, 1)]
)
def test_bands_that_cannot_be(values: tuple[int, int, int]) -> None:
    data = SMALL["progressive"]
    _, stop = segment(data, 0xDA)
    with pytest.raises(DataError, match=r"has the band|out of order"):
        read_jpeg(replaced(data, stop - 3, *values))


def test_missing_huffman_tables_are_noticed() -> None:
    data = SMALL["baseline"]
    start, _ = segment(data, 0xDA)
    with pytest.raises(DataError, match="a scan has no Huffman table"):
        read_jpeg(replaced(data, start + 6, 0x33))


def test_a_small_file_cannot_ask_for_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = SMALL["baseline"]
    huge = replaced(data, frame_position(data) + 5, *struct.pack(">HH", 13000, 13000))

    def no_memory(*_: object) -> None:
        raise AssertionError("memory was taken")

    monkeypatch.setattr("tailcut.jpeg.entropy.np.zeros", no_memory)
    with pytest.raises(DataError, match="image data are too short for its size"):
        read_jpeg(huge, max_pixels=13000 * 13000)


@pytest.mark.parametrize("name", SMALL)
def test_other_sizes_are_noticed(name: str) -> None:
    """A wrong size is silent only where it has as many MCUs."""
    data = SMALL[name]
    unit = 16 if "4:2:0" in read_jpeg(data).sampling else 8
    at = frame_position(data) + 5
    for height in range(1, 64):
        for width in (4, 20, 28, 32, 40):
            changed = replaced(data, at, *struct.pack(">HH", height, width))
            has_as_many = -(-height // unit) * -(-width // unit) == -(-20 // unit) * -(-28 // unit)
            try:
                image = read_jpeg(changed)
            except DataError:
                assert not has_as_many or name == "progressive", "its scans of one component have fewer blocks"
            else:
                assert image.size == (height, width)
                assert has_as_many


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=300)
@given(st.data())
def test_damage_never_does_more_than_raise(name: str, data: st.DataObject) -> None:
    """Whatever is read has the shape that it says, and is what libjpeg reads (checked in the process below)."""
    content = bytearray(SMALL[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(2, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        image = read_jpeg(bytes(content))
    except DataError:
        return
    assert all(bool(plane.isfinite().all()) for plane in image.planes)


DAMAGE_UNDER_BOUNDS_CHECKS = """
import sys
import numpy as np
from tailcut.errors import DataError
from tailcut.inputs.jpeg.reader import read_jpeg

rng, num_read = np.random.default_rng(0), 0
for path in sys.argv[1:]:
    data = np.fromfile(path, np.uint8)
    start = bytes(data).index(bytes((0xFF, 0xDA))) - 300
    for _ in range(1500):
        damaged = data.copy()
        places = rng.integers(start if rng.random() < 0.8 else 2, len(data), rng.integers(1, 4))
        damaged[places] = rng.integers(0, 256, len(places))
        try:
            read_jpeg(damaged.tobytes())
            num_read += 1
        except DataError:
            pass
print(num_read)
"""


def test_loops_stay_inside_their_arrays(tmp_path: Path) -> None:
    """numba can check each index; it does not by default. A new process, since this is decided at the import."""
    paths = []
    for name, data in SMALL.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DAMAGE_UNDER_BOUNDS_CHECKS, *map(str, paths)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 6000
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["baseline", "progressive", "restarts"])
def test_damage_that_is_not_noticed_reads_as_in_libjpeg(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = SMALL[name]
    _, start = segment(data, 0xDA)
    rng, num_read = np.random.default_rng(0), 0
    while num_read < 10:
        at = int(rng.integers(start, len(data) - 2))
        damaged = replaced(data, at, data[at] ^ (1 << int(rng.integers(0, 8))))
        try:
            image = read_jpeg(damaged)
        except DataError:
            continue
        num_read += 1
        for found, wanted in zip(quantized(image), quantized_by_jpeglib(damaged, tmp_path), strict=True):
            np.testing.assert_array_equal(found, wanted)
    capfd.readouterr()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (-1, 0x01, "the band 0 to 63 and the bits 0 to 1"),  # DC -768 became -1536
        (-1, 0x10, "the bits 1 to 0"),
        (-2, 62, "the band 0 to 62"),
        (-3, 1, "the band 1 to 63"),
    ],
)
def test_a_scan_without_progression_is_whole(place: int, value: int, message: str) -> None:
    data = SMALL["baseline"]
    _, stop = segment(data, 0xDA)
    with pytest.raises(DataError, match=message):
        read_jpeg(replaced(data, stop + place, value))


def test_pillow_takes_what_is_refused_here() -> None:
    """Why the reader is our own: half of an image passes for a whole one elsewhere."""
    data = encode(photo(64, 96), quality=90)
    half = data[: len(data) // 2] + b"\xff\xd9"
    assert np.asarray(Image.open(io.BytesIO(half))).shape == (64, 96, 3)
    with pytest.raises(DataError, match="image data end early"):
        read_jpeg(half)
