import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tailcut.cli import main
from tailcut.data import FolderDataset, check_folder
from tailcut.data import checking as module
from tailcut.errors import ArgumentError, DataError
from tailcut.inputs import JpegFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, of which a JPEG lost its last bytes and a PNG its end; notes; what is hidden."""
    folder = tmp_path / "photos"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    for name in ("a.jpg", "b/half.JPEG", "b/c/d.png", "b/c/cut.png", "z.jpg", ".hidden/x.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    half, cut = folder / "b" / "half.JPEG", folder / "b" / "c" / "cut.png"
    half.write_bytes(half.read_bytes()[:-100] + b"\xff\xd9")
    cut.write_bytes(cut.read_bytes()[:-40])
    (folder / "notes.txt").write_text("notes")
    return folder


@pytest.mark.parametrize("chunk", [1, 2, 1024])
def test_broken_files_are_named(folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    report = check_folder(folder)
    assert (report.num_images, report.num_others, report.bits_checked, report.failed) == (5, 1, True, True)
    assert [item["image"] for item in report.broken] == [str(folder / "b/c/cut.png"), str(folder / "b/half.JPEG")]
    assert report.broken[1]["reason"].startswith("it is truncated or damaged: the image data end early")
    assert "strict" not in report.broken[1]["reason"]
    assert "2 of 5 images are broken; 1 other files were not looked at" in str(report)
    assert str(folder / "b/half.JPEG") in str(report)


def test_settings(folder: Path) -> None:
    assert [Path(item["image"]).name for item in check_folder(folder, strict=False).broken] == ["cut.png"]
    assert len(check_folder(folder, max_pixels=32 * 24 - 1).broken) == 5
    assert not check_folder(folder / "a.jpg").failed
    with pytest.raises(ArgumentError, match="max_pixels must be positive"):
        check_folder(folder, max_pixels=0)
    with pytest.raises(DataError, match=r"cannot read the folder .*nowhere"):
        check_folder(folder / "nowhere")


def test_links_to_folders_are_followed_as_data_sets_do(folder: Path, tmp_path: Path) -> None:
    """Class folders may be links; one that leads back, or to a folder that was read, adds nothing."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("a", "b"):
        (linked / name).symlink_to(folder / "b" / "c")
    (folder / "b" / "c" / "back").symlink_to(linked)
    with pytest.raises(DataError, match=r"cut\.png"):
        FolderDataset(linked, name="folder")  # which reads the first
    report = check_folder(linked)
    assert (report.num_images, [item["image"] for item in report.broken]) == (2, [str(linked / "a" / "cut.png")])


def test_masks_behind_links_are_compared_with_the_photos_beside_the_link(tmp_path: Path) -> None:
    for name, sides in (("a/images", (24, 32)), ("b/images", (8, 8)), ("pool", (24, 32))):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", sides).save(tmp_path / name / "x.png")
    for split in ("a", "b"):
        (tmp_path / split / "masks").symlink_to(tmp_path / "pool")
    assert [item["image"] for item in check_folder(tmp_path).broken] == [str(tmp_path / "b" / "masks" / "x.png")]


def test_a_folder_without_images_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"expected images \(.jpg, .jpeg, .png\) .* found 1 other file; give"):
        check_folder(tmp_path)
    assert main(["check", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_masks_of_another_size_than_their_photos(tmp_path: Path) -> None:
    for part, shape in (("images", (32, 24, 3)), ("masks", (32, 24))):
        (tmp_path / part).mkdir()
        for name in ("a", "in1", "wide"):
            stem = "gt1" if (part, name) == ("masks", "in1") else name
            Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(tmp_path / part / f"{stem}.png")
    assert not check_folder(tmp_path).failed
    for stem in ("gt1", "wide"):
        Image.fromarray(np.zeros((24, 32), dtype=np.uint8)).save(tmp_path / "masks" / f"{stem}.png")
    broken = check_folder(tmp_path).broken
    assert [Path(item["image"]).name for item in broken] == ["gt1.png", "wide.png"]
    assert broken[0]["reason"].startswith("a mask has the size of its image in1.png, (height, width) (32, 24)")
    assert check_folder(tmp_path / "masks" / "wide.png").broken == broken[1:]
    (tmp_path / "images" / "wide.png").write_bytes(b"no image")  # listed itself, and its mask is sound
    assert [item["image"] for item in check_folder(tmp_path).broken] == [
        str(tmp_path / "images" / "wide.png"),
        str(tmp_path / "masks" / "gt1.png"),
    ]


def test_without_numba(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_installed", lambda: False)
    assert "numba is not installed" in str(check_folder(folder / "a.jpg"))


def test_pipes_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "x.jpg")
    report = check_folder(tmp_path)
    assert "is no regular file, but a pipe" in report.broken[0]["reason"]
    with pytest.raises(DataError, match=r"x\.jpg is no regular file, but a pipe"):
        JpegFolder(tmp_path, None, size=32)
