from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.evaluation.generation import Sampler
from tailcut.format import save
from tailcut.structure import create_model
from tailcut.tasks.prediction.sample import PADDING, sample, sample_file, sheet


@pytest.mark.parametrize(
    ("num", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (5, 2, 3), (7, 3, 3), (9, 3, 3), (10, 3, 4)]
)
def test_a_sheet_has_every_image_in_its_place(num: int, rows: int, columns: int) -> None:
    images = torch.rand(num, 3, 5, 6)
    whole = sheet(images)
    height, width = 5 + 2 * PADDING, 6 + 2 * PADDING
    assert whole.shape == (3, rows * height, columns * width)
    for number, image in enumerate(images):
        top, left = number // columns * height + PADDING, number % columns * width + PADDING
        assert torch.equal(whole[:, top : top + 5, left : left + 6], image)
    assert whole.sum() == pytest.approx(images.sum().item(), rel=1e-5)  # the rest is black


def test_samples_are_written_as_one_png(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("vae", hidden=16, latent_size=3)
    report = sample(model, tmp_path / "new" / "folder", num_samples=4, seed=9, name="mine")
    path = tmp_path / "new" / "folder" / "samples.png"
    assert report.out == str(path)
    assert (report.source, report.num_samples, report.seed) == ("mine", 4, 9)
    assert str(report).startswith(f"{path}: 4 images by mine, seed 9")
    with Image.open(path) as image:
        pixels = np.asarray(image)
    codes = torch.randn(4, 3, generator=torch.Generator().manual_seed(9))
    first = (Sampler(model)(codes)[0, 0] * 255).round()
    assert pixels.shape == (64, 64)
    assert np.array_equal(pixels[PADDING : PADDING + 28, PADDING : PADDING + 28], first.numpy().astype(np.uint8))


def test_the_first_images_of_a_seed_are_the_same_however_many_there_are(tmp_path: Path) -> None:
    save(create_model("dcgan_generator", latent_size=4, width=2), tmp_path / "gan.tailcut")
    for num in (1, 260):  # more than a batch
        sample_file(tmp_path / "gan.tailcut", tmp_path / str(num), num_samples=num, device="cpu")
    few, many = (np.asarray(Image.open(tmp_path / name / "samples.png")) for name in ("1", "260"))
    assert np.abs(few.astype(int) - many[:68, :68]).max() <= 1  # rounding may differ with the batch


def test_colour_is_colour(tmp_path: Path) -> None:
    sample(create_model("dcgan_generator", latent_size=4, width=2, out_channels=3), tmp_path, num_samples=2)
    assert np.asarray(Image.open(tmp_path / "samples.png")).shape == (68, 136, 3)


@pytest.mark.parametrize(
    ("model", "num", "message"),
    [
        (create_model("lenet300"), 4, "LeNet300 makes no images"),
        (create_model("vae", hidden=4), 0, "num_samples must be at least 1"),
        (create_model("dcgan_generator", width=1, out_channels=2), 1, "images of 2 channels; a PNG has 1 or 3"),
    ],
)
def test_what_cannot_be_made_is_reported(model: nn.Module, num: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        sample(model, tmp_path, num_samples=num)


def test_settings_of_a_file_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(create_model("dcgan_generator", latent_size=4, width=2), tmp_path / "gan.tailcut")
    given: dict[str, Any] = {}
    monkeypatch.setattr("tailcut.tasks.prediction.sample.sample", lambda model, out, **more: given.update(more))
    sample_file(tmp_path / "gan.tailcut", tmp_path, num_samples=3, seed=5, device="cpu", dense=True)
    name = str(tmp_path / "gan.tailcut")
    assert given == {"num_samples": 3, "seed": 5, "device": torch.device("cpu"), "dense": True, "name": name}
