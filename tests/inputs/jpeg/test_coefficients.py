import dataclasses
import re

import pytest
import torch

from tailcut.errors import ArgumentError
from tailcut.inputs.jpeg.coefficients import JpegCoefficients, Sampling, num_blocks


def image(size: tuple[int, int] = (24, 40), sampling: Sampling = "4:2:0") -> JpegCoefficients:
    planes = {"4:4:4": (3, 5), "4:2:2": (3, 3), "4:2:0": (2, 3), "4:4:0": (2, 5)}
    chroma = None if sampling == "grayscale" else torch.zeros(*planes[sampling], 8, 8)
    tables = (torch.ones(8, 8),) * (1 if chroma is None else 3)
    return JpegCoefficients(torch.zeros(3, 5, 8, 8), chroma, chroma, sampling, tables, size)


@pytest.mark.parametrize(
    ("sampling", "factors", "chroma_size"),
    [
        ("4:4:4", (1, 1), (23, 37)),
        ("4:2:2", (1, 2), (23, 19)),
        ("4:2:0", (2, 2), (12, 19)),
        ("4:4:0", (2, 1), (12, 37)),
    ],
)
def test_sizes_of_planes(sampling: Sampling, factors: tuple[int, int], chroma_size: tuple[int, int]) -> None:
    made = image((23, 37), sampling)
    assert made.chroma_factors == factors
    assert [made.plane_size(index) for index in range(3)] == [(23, 37), chroma_size, chroma_size]
    assert len(made.planes) == 3
    assert num_blocks(chroma_size) == made.planes[1].shape[:2]


def test_grayscale_has_one_plane() -> None:
    assert len(image(sampling="grayscale").planes) == 1


def test_planes_are_replaced() -> None:
    made = image()
    other = made.with_planes(tuple(plane + 1 for plane in made.planes))
    assert [float(plane.mean()) for plane in other.planes] == [1, 1, 1]
    assert other.size == made.size
    grey = image(sampling="grayscale")
    assert grey.with_planes((grey.luma[:2],), (16, 33)).size == (16, 33)


def test_to_device() -> None:
    moved = image().to("meta")
    assert {tensor.device.type for tensor in (*moved.planes, *moved.quantization)} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "4:1:1"}, "sampling must be one of 4:4:4, 4:2:2, 4:2:0, 4:4:0, grayscale, got '4:1:1'"),
        ({"size": (0, 40)}, r"size must be a positive \(height, width\)"),
        ({"orientation": 9}, "EXIF orientation is 1 to 8, got 9"),
        ({"orientation": 0}, "EXIF orientation is 1 to 8, got 0"),
        ({"chroma_red": None}, "'4:2:0' goes with two chroma planes"),
        ({"sampling": "grayscale"}, "'grayscale' goes with no chroma planes"),
        ({"size": (25, 40)}, "component 0 of a 4:2:0 image of (25, 40) pixels is floating point (4, 5, 8, 8)"),
        ({"sampling": "4:4:4"}, "component 1 of a 4:4:4 image of (24, 40) pixels is floating point (3, 5, 8, 8)"),
        ({"luma": torch.zeros(3, 5, 8, 8, dtype=torch.int16)}, "got torch.int16 (3, 5, 8, 8)"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message if "\\" in message else re.escape(message)):
        dataclasses.replace(image(), **changes)  # type: ignore[arg-type]
