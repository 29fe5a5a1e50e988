"""The operators that stand in for torchvision's compiled ones, against their definitions."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.torchvision_operators import nms, roi_align


def overlap(one: list[float], other: list[float]) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    common = max(across, 0) * max(down, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_nms_keeps_what_no_better_box_overlaps(seed: int, num: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 1 + torch.rand(num, 2, generator=generator) * 15], dim=1)
    scores = torch.rand(num, generator=generator)
    kept: list[int] = []
    for index in sorted(range(num), key=lambda place: -scores[place].item()):
        if all(overlap(boxes[index].tolist(), boxes[better].tolist()) <= threshold for better in kept):
            kept.append(index)
    assert nms(boxes, scores, threshold).tolist() == kept


def value_at(plane: np.ndarray, y: float, x: float) -> float:
    """Bilinear interpolation as the operator's authors define it."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
    upper = (1 - fx) * plane[top, left] + fx * plane[top, right]
    lower = (1 - fx) * plane[bottom, left] + fx * plane[bottom, right]
    return float((1 - fy) * upper + fy * lower)


def align(plane: np.ndarray, box: list[float], side: int, per_bin: int, aligned: bool) -> np.ndarray:
    left, top, right, bottom = (value - (0.5 if aligned else 0) for value in box)
    width, height = right - left, bottom - top
    if not aligned:
        width, height = max(width, 1), max(height, 1)
    down, across = (per_bin or math.ceil(size / side) for size in (height, width))
    result = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            samples = [
                value_at(
                    plane,
                    top + (row + (i + 0.5) / down) * height / side,
                    left + (column + (j + 0.5) / across) * width / side,
                )
                for i in range(down)
                for j in range(across)
            ]
            result[row, column] = np.mean(samples)
    return result


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2]), st.booleans())
def test_roi_align_is_the_mean_of_bilinear_samples(seed: int, per_bin: int, aligned: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, 9, 12, generator=generator)
    corners = torch.rand(4, 2, generator=generator) * 12 - 3  # some reach over the edge
    boxes = torch.cat([corners, corners + 0.2 + torch.rand(4, 2, generator=generator) * 9], dim=1)
    images = torch.tensor([0.0, 1.0, 1.0, 0.0])
    regions = torch.cat([images[:, None], boxes * 2], dim=1)
    found = roi_align(maps, regions, 0.5, 3, 3, per_bin or -1, aligned)
    for place, image in enumerate(images.int().tolist()):
        for channel in range(3):
            plane = maps[image, channel].numpy()
            expected = align(plane, boxes[place].tolist(), 3, per_bin, aligned)
            assert np.allclose(found[place, channel], expected, atol=1e-4)


def test_the_gradient_of_roi_align() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(1, 2, 6, 6, generator=generator, requires_grad=True)
    regions = torch.tensor([[0.0, 0.5, 1.0, 4.0, 5.0]])
    weights = torch.randn(1, 2, 3, 3, generator=generator)
    (gradient,) = torch.autograd.grad((roi_align(maps, regions, 1.0, 3, 3, 2, False) * weights).sum(), maps)
    # The operator is linear in the maps.
    step = torch.randn(1, 2, 6, 6, generator=generator)
    difference = roi_align(maps + step, regions, 1.0, 3, 3, 2, False) - roi_align(maps, regions, 1.0, 3, 3, 2, False)
    assert torch.allclose((difference * weights).sum(), (gradient * step).sum(), atol=1e-4)


def test_no_regions() -> None:
    assert roi_align(torch.randn(1, 2, 6, 6), torch.zeros(0, 5), 1.0, 3, 3, 2, False).shape == (0, 2, 3, 3)
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
