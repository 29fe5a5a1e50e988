from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tailcut.tasks.prediction.predict_detection import MASK_STRENGTH, colour_of, draw_objects, write_image


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.array(image).astype(int)


def found(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    values = {
        "boxes": torch.tensor([[60.0, 80.0, 160.0, 180.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.931]),
    }
    return {**values, **changes}


def test_a_box_is_drawn_around_the_object() -> None:
    image = torch.zeros(3, 200, 300)
    pixels = pixels_of(draw_objects(image, found(), ["background", "cat"]))
    colour = colour_of(1)
    assert pixels.shape == (200, 300, 3)
    for y, x in ((80, 60), (80, 159), (179, 60), (179, 159), (120, 60), (179, 100)):
        assert tuple(pixels[y, x]) == colour
    assert not pixels[100:160, 80:140].any()  # inside
    assert not pixels[181:, :].any()
    assert not pixels[:, 165:].any()
    label = pixels[60:80, 60:100]
    assert (label == colour).all(axis=2).mean() > 0.1  # the name's ground, above the box
    assert (label > 200).all(axis=2).any()  # and its letters: white, since this colour is dark
    pixels = pixels_of(draw_objects(torch.ones(3, 200, 300), found(labels=torch.tensor([2])), ["", "", "cat"]))
    assert (pixels[60:80, 60:100] < 50).all(axis=2).any()  # black on a bright one


def test_a_mask_shines_through() -> None:
    masks = torch.zeros(1, 200, 300)
    masks[0, 100:120, 90:110] = 0.9
    image = torch.full((3, 200, 300), 0.5)
    pixels = pixels_of(draw_objects(image, found(masks=masks), ["background", "cat"]))
    expected = (1 - MASK_STRENGTH) * 128 + MASK_STRENGTH * np.array(colour_of(1))
    assert np.abs(pixels[105, 100] - expected).max() <= 1
    assert pixels[130, 100].tolist() == [128, 128, 128]


def test_the_surest_lies_on_top() -> None:
    boxes = torch.tensor([[60.0, 80.0, 160.0, 180.0]]).repeat(2, 1)
    twice = {"boxes": boxes, "labels": torch.tensor([2, 1]), "scores": torch.tensor([0.9, 0.6])}
    pixels = pixels_of(draw_objects(torch.zeros(3, 200, 300), twice, ["background", "cat", "dog"]))
    assert tuple(pixels[120, 60]) == colour_of(2)


def test_names_stay_within_the_image() -> None:
    corner = found(boxes=torch.tensor([[280.0, 0.0, 300.0, 50.0]]))
    pixels = pixels_of(draw_objects(torch.zeros(3, 200, 300), corner, ["background", "a long name"]))
    assert (pixels[:20, 200:] == colour_of(1)).all(axis=2).sum() > 100


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5000, 10)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    box = torch.tensor([[0.0, 0.0, size[1], size[0]]])
    assert draw_objects(torch.zeros(3, *size), found(boxes=box), ["", "cat"]).size == size[::-1]


def test_nothing_found_leaves_the_image() -> None:
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    pixels = pixels_of(draw_objects(image, nothing, ["background"]))
    assert np.array_equal(pixels, (image * 255).round().permute(1, 2, 0).numpy().astype(int))


def test_colours_differ_and_stay() -> None:
    colours = {colour_of(label) for label in range(1, 91)}
    assert len(colours) == 90
    assert all(max(colour) == 255 for colour in colours)


def test_an_image_is_written_whole(tmp_path: Path) -> None:
    image = draw_objects(torch.zeros(3, 20, 30), found(), ["background", "cat"])
    write_image(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as again:
        assert np.array_equal(np.array(again), np.array(image))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
