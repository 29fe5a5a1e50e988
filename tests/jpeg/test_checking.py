"""`check_jpeg` finds what Pillow and libjpeg take without a word, in files of any colours."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from tests.inputs.jpegs import encode, frame_position, photo, replaced, segment

from tailcut.errors import DataError
from tailcut.inputs import read_jpeg
from tailcut.jpeg import checking
from tailcut.jpeg.checking import check_jpeg

PHOTO = photo(45, 70)


def encoded(mode: str, **options: object) -> bytes:
    file = io.BytesIO()
    PHOTO.convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


KINDS = {
    "grey": encoded("L"),
    "colour": encoded("RGB"),
    "progressive": encoded("RGB", progressive=True),
    "4:1:1": encoded("RGB", subsampling="4:1:1"),
    "RGB": encoded("RGB", keep_rgb=True),
    "CMYK": encoded("CMYK"),
    "CMYK, progressive": encoded("CMYK", progressive=True),
    "restarts": encoded("RGB", restart_marker_blocks=3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_pass(kind: str) -> None:
    assert check_jpeg(KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_lost_bytes_are_found_that_pillow_passes_over(kind: str) -> None:
    """Thirty bytes taken out of the image data: Pillow makes an image of nearly all of these files."""
    data = KINDS[kind]
    _, start = segment(data, 0xDA)
    whole = np.asarray(Image.open(io.BytesIO(data)))
    taken_by_pillow = found = 0
    positions = np.random.default_rng(0).integers(start + 2, len(data) - 34, 40).tolist()
    for at in positions:
        damaged = data[:at] + data[at + 30 :]
        with contextlib.suppress(OSError):
            taken_by_pillow += np.asarray(Image.open(io.BytesIO(damaged))).shape == whole.shape
        try:
            check_jpeg(damaged)
        except DataError:
            found += 1
    assert taken_by_pillow > 20
    assert found > 25  # the others are valid files: JPEG has no checksum


def test_as_strict_as_read_jpeg() -> None:
    """The same answer on each damaged file of a kind that both read."""
    rng = np.random.default_rng(1)
    for name in ("grey", "colour", "progressive", "restarts"):
        data = KINDS[name]
        for _ in range(60):
            at = int(rng.integers(2, len(data)))
            damaged = replaced(data, at, data[at] ^ (1 << int(rng.integers(0, 8))))
            refused = []
            for read in (check_jpeg, read_jpeg):
                try:
                    read(damaged)
                except DataError as error:
                    refused.append(str(error).removeprefix("cannot use the JPEG data: "))
            # Colours and sampling that `read_jpeg` does not take are nothing wrong with the file.
            if len(refused) == 2:
                assert refused[0] == refused[1]
            elif refused:
                assert "supported" in refused[0] or "pixels" in refused[0]


def test_kinds_that_cannot_be_looked_into() -> None:
    data = KINDS["grey"]
    arithmetic = replaced(data, frame_position(data) + 1, 0xC9)
    assert not check_jpeg(arithmetic)
    assert not check_jpeg(replaced(data, frame_position(data) + 4, 12))


def test_without_numba_the_markers_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "is_installed", lambda: False)
    data = encode(PHOTO)
    assert not check_jpeg(data)
    with pytest.raises(DataError, match="truncated"):
        check_jpeg(data[:-2])
