import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Tailcut = Callable[..., Any]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images under a data root, the second of them broken."""
    folder = tmp_path / "own" / "val" / "a"
    folder.mkdir(parents=True)
    for number, name in enumerate(("1.jpg", "2.jpg")):
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    broken = folder / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:-200] + b"\xff\xd9")
    return folder


def test_one_image_is_taken_too(tailcut: Tailcut, photos: Path) -> None:
    assert [tailcut("check", photos / name, "--json").code for name in ("1.jpg", "2.jpg")] == [0, 1]


def test_exit_code_tells(tailcut: Tailcut, photos: Path) -> None:
    outcome = tailcut("check", photos)
    assert (outcome.code, "1 of 2 images are broken" in outcome.out) == (1, True)
    outcome = tailcut("check", photos, "--json")
    assert (outcome.code, outcome.json["num_images"]) == (1, 2)
    assert [item["image"] for item in outcome.json["broken"]] == [str(photos / "2.jpg")]
    assert tailcut("check", photos, "--lenient").code == 0
    assert tailcut("check", photos / "1.jpg").code == 0
    assert tailcut("check", photos / "nowhere").code == 1
    assert tailcut("check", photos, "--max-image-pixels", 0).code == 2


def test_predict_leaves_out(tailcut: Tailcut, packed: Path, photos: Path) -> None:
    outcome = tailcut("predict", packed, photos / "1.jpg", photos / "2.jpg")
    assert outcome.code == 1
    assert "to take what libjpeg makes of it, give --lenient" in outcome.err
    outcome = tailcut("predict", packed, photos / "2.jpg", photos / "1.jpg", "--on-error", "skip", "--json")
    assert outcome.code == 0
    assert [item["image"] for item in outcome.json["predictions"]] == [str(photos / "1.jpg")]
    assert [item["image"] for item in outcome.json["skipped"]] == [str(photos / "2.jpg")]
    assert "left out 1 image that cannot be read" in outcome.err
    outcome = tailcut("predict", packed, photos / "2.jpg", "--lenient", "--json")
    assert (outcome.code, outcome.json["skipped"]) == (0, [])
    outcome = tailcut("predict", packed, photos / "1.jpg", "--max-image-pixels", 783)
    assert (outcome.code, "give --max-image-pixels N" in outcome.err) == (1, True)


def test_too_large_images_are_broken(tailcut: Tailcut, tmp_path: Path) -> None:
    Image.new("RGB", (28, 28)).save(tmp_path / "a.jpg")
    assert tailcut("check", tmp_path, "--max-image-pixels", 784).code == 0
    outcome = tailcut("check", tmp_path, "--max-image-pixels", 783, "--json")
    assert (outcome.code, "at most 783" in json.loads(outcome.out)["broken"][0]["reason"]) == (1, True)
