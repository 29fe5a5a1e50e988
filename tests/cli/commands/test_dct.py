import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from tailcut.inputs import BlockDCT, FrequencyReport, Selection, describe_image

Tailcut = Callable[..., Any]


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 8, columns * 6, 200 - rows * 3 - columns * 2], axis=-1).astype(np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(gradient()).save(tmp_path / "photo.jpg", quality=95)
    return tmp_path / "photo.jpg"


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, and is the same for every image."""

    def measure(image: Tensor, transform: BlockDCT, folder: str, *, name: str) -> FrequencyReport:
        return describe_image(image, transform, name=name)

    monkeypatch.setattr("tailcut.inputs.draw_image", measure)


def test_images_are_drawn_and_measured(tailcut: Tailcut, photo: Path, tmp_path: Path) -> None:
    outcome = tailcut("dct", photo, "-o", tmp_path / "out", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert (outcome.json["height"], outcome.json["width"]) == (20, 30)
    assert outcome.json["shape"] == [24, 3, 4]
    assert outcome.json["chroma"] == "two_scale"
    assert outcome.json["psnr_db"] > 30
    assert 0.9 < outcome.json["energy_ratio"] <= 1
    assert [Path(file).name for file in outcome.json["files"]] == ["channels.png", "energy.png", "reconstruction.png"]
    assert all(Path(file).is_file() for file in outcome.json["files"])
    shown = tailcut("dct", photo, "-o", tmp_path / "out")
    assert "20 x 30 pixels" in shown.out


@pytest.mark.parametrize(
    ("which", "num_channels"), [("6", 6), ("192", 192), ("0,1,64", 3), ("5,", 1), ("selection.json", 2)]
)
@pytest.mark.usefixtures("nothing_drawn")
def test_which_channels(
    which: str, num_channels: int, tailcut: Tailcut, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Selection((0, 9)).save(tmp_path / "selection.json")
    outcome = tailcut("dct", photo, "-o", "out", "--channels", which, "--chroma", "full", "--json")
    assert outcome.json["shape"][0] == num_channels
    assert outcome.json["chroma"] == "full"


@pytest.mark.parametrize("which", ["7", "0,0", "192,"])
def test_channels_that_do_not_exist(which: str, tailcut: Tailcut, photo: Path, tmp_path: Path) -> None:
    outcome = tailcut("dct", photo, "-o", tmp_path / "out", "--channels", which)
    assert outcome.code == 2
    assert "channels" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["none.json", "1" * 5000, "0;1", "", "-1"])
def test_channels_that_are_no_file(which: str, tailcut: Tailcut, photo: Path, tmp_path: Path) -> None:
    outcome = tailcut("dct", photo, "-o", tmp_path / "out", f"--channels={which}", "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["type"] == "DataError"


KINDS = {
    "grey.jpg": lambda: Image.fromarray(gradient()[..., 0]),
    "cmyk.jpg": lambda: Image.fromarray(gradient()).convert("CMYK"),
    "rgba.png": lambda: Image.fromarray(np.dstack([gradient(), gradient()[..., :1]])),
    "palette.png": lambda: Image.fromarray(gradient()).quantize(16),
    "one-bit.png": lambda: Image.fromarray(gradient()[..., 0]).convert("1"),
    "grey-16.png": lambda: Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257),
    "grey-alpha.png": lambda: Image.fromarray(gradient()[..., :2]),
}


@pytest.mark.usefixtures("nothing_drawn")
@pytest.mark.parametrize("name", KINDS)
def test_images_of_every_kind(name: str, tailcut: Tailcut, tmp_path: Path) -> None:
    KINDS[name]().save(tmp_path / name)
    outcome = tailcut("dct", tmp_path / name, "-o", tmp_path / "out", "--channels", "192", "--json")
    assert outcome.code == 0
    assert (outcome.json["height"], outcome.json["width"]) == (20, 30)
    assert outcome.json["psnr_db"] is None or outcome.json["psnr_db"] > 60


@pytest.mark.usefixtures("nothing_drawn")
def test_a_progressive_jpeg_and_exif_orientation(tailcut: Tailcut, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gradient()).save(tmp_path / "turned.jpg", progressive=True, exif=exif)
    outcome = tailcut("dct", tmp_path / "turned.jpg", "-o", tmp_path / "out", "--json")
    assert (outcome.json["height"], outcome.json["width"]) == (30, 20)


def test_images_that_are_none(tailcut: Tailcut, photo: Path, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(gradient()).save(content, "PNG")
    (tmp_path / "cut.png").write_bytes(content.getvalue()[:-30])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.png", "text.jpg", "none.jpg"):
        outcome = tailcut("dct", tmp_path / name, "-o", tmp_path / "out", "--json")
        assert outcome.code == 1
        assert outcome.json["error"]["type"] == "DataError"
        assert name in outcome.json["error"]["message"]
    assert tailcut("dct", photo).code == 2
    assert tailcut("dct", photo, "-o", photo).code == 2


@pytest.mark.slow
def test_photos_and_masks(tailcut: Tailcut, carvana_root: Path, tmp_path: Path) -> None:
    folder = carvana_root / "carvana" / "train"
    for path in (next((folder / "images").glob("*.jpg")), next((folder / "masks").glob("*.png"))):
        outcome = tailcut("dct", path, "-o", tmp_path / "out", "--json")
        assert outcome.code == 0
        assert outcome.json["psnr_db"] > 20
