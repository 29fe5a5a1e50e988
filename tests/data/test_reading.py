"""Images that cannot be read: an error, or left out and counted."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tailcut.data import current_reading, leave_out, open_dataset, read_image, reading
from tailcut.data.reading import readable
from tailcut.errors import ArgumentError, DataError


def write(path: Path, seed: int = 0, *, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-100] + b"\xff\xd9")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Own data of two classes with three images each, one of them broken by lost bytes."""
    for number, name in enumerate(("a/1", "a/2", "a/3", "b/1", "b/2", "b/3")):
        write(tmp_path / "own" / "val" / f"{name}.jpg", number)
    damage(tmp_path / "own" / "val" / "a" / "2.jpg")
    return tmp_path


def test_broken_images_of_classes(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = open_dataset("folder:own", roots=root)
    with pytest.raises(DataError, match=r"2\.jpg: .*image data end early"):
        dataset[1]
    whole = open_dataset("folder:own", roots=root, strict=False)
    assert len(whole) == 6
    with caplog.at_level(logging.INFO):
        rest = open_dataset("folder:own", roots=root, on_error="skip")
    broken = str(root / "own" / "val" / "a" / "2.jpg")
    assert list(rest.skipped) == [broken]
    assert "reading the 6 images of" in caplog.text
    assert len(rest) == 5
    assert rest.batch(range(5))[1].tolist() == [0, 0, 1, 1, 1]
    for mine, theirs in enumerate((0, 2, 3, 4, 5)):
        assert torch.equal(rest[mine][0], whole[theirs][0])
    assert list(rest.part(0, 2).skipped) == [broken]
    assert dataset.skipped == whole.skipped == {}


def test_not_one_image_can_be_read(root: Path) -> None:
    for path in (root / "own" / "val").rglob("*.jpg"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"not one of 6 images can be read; .*1\.jpg is no PNG or JPEG"):
        open_dataset("folder:own", roots=root, on_error="skip")


def test_broken_images_and_masks(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "own" / "val" / "images" / f"{number}.jpg", number)
        write(tmp_path / "own" / "val" / "masks" / f"{number}.png", number, mode="1")
    damage(tmp_path / "own" / "val" / "images" / "0.jpg")
    (tmp_path / "own" / "val" / "masks" / "2.png").write_bytes(b"")
    dataset = open_dataset("masks:own", roots=tmp_path, on_error="skip")
    assert [image.name for image, _ in getattr(dataset, "files")] == ["1.jpg", "3.jpg"]  # noqa: B009
    assert sorted(Path(path).name for path in dataset.skipped) == ["0.jpg", "2.jpg"]
    assert dataset.image_shape == (3, 16, 16)


def test_the_settings_of_a_block(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They hold for all that is read or opened in it; what is opened keeps them."""
    broken = root / "own" / "val" / "a" / "2.jpg"
    with reading(on_error="skip", strict=False, max_pixels=256) as settings:
        assert current_reading() is settings
        read_image(broken, channels=3)
        lenient = open_dataset("folder:own", roots=root)
        assert len(open_dataset("folder:own", roots=root, strict=True)) == 5
    assert len(lenient) == 6
    assert lenient[1][0].shape == (3, 16, 16)
    assert list(settings.skipped) == [str(broken)]
    settings.report()
    assert "left out 1 image that cannot be read: cannot use the image" in caplog.text
    with reading(max_pixels=255, place="command line"), pytest.raises(DataError, match="give --max-image-pixels N"):
        read_image(root / "own" / "val" / "b" / "2.jpg", channels=3)
    with reading(place="recipe"), pytest.raises(DataError, match=r"set data\.strict = false in the recipe"):
        read_image(broken, channels=3)
    with pytest.raises(DataError, match="strict=False"):
        read_image(broken, channels=3)


def test_single_images(tmp_path: Path) -> None:
    error = DataError("broken")
    with pytest.raises(DataError, match="broken"):
        leave_out("x.jpg", error)
    with reading(on_error="skip") as settings:
        leave_out("x.jpg", error)
        assert readable([], lambda position: None, "nothing") == ([], {})
    assert settings.skipped == {"x.jpg": "broken"}


def test_report_names_three(caplog: pytest.LogCaptureFixture) -> None:
    with reading() as settings:
        settings.report()
    assert caplog.text == ""
    settings.skipped.update({str(number): f"reason {number}" for number in range(5)})
    settings.report()
    assert "left out 5 images that cannot be read: reason 0; reason 1; reason 2; and 2 more" in caplog.text


def test_wrong_settings(root: Path) -> None:
    with pytest.raises(ArgumentError, match="on_error must be 'raise' or 'skip', got 'warn'"):
        open_dataset("folder:own", roots=root, on_error="warn")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="max_pixels must be positive"), reading(max_pixels=0):
        pass
