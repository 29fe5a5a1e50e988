import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tailcut.reports.html.corners import MAX_SIDE, NOT_KEPT, axis_names, corner_figure, corners_section, folded_corner
from tailcut.reports.networks import ReportedNetwork
from tailcut.transform import l1_order
from tailcut.weights import TruncatedTensor, regularize, truncated_tensors


def truncated(layer: nn.Module, num_kept: int, **settings: object) -> TruncatedTensor:
    torch.manual_seed(0)
    regularize(layer, num_kept=num_kept, **settings)  # type: ignore[arg-type]
    return truncated_tensors(layer)[0]


def test_each_coefficient_lies_at_its_frequencies() -> None:
    tensor = truncated(nn.Conv2d(5, 6, 3), 40)
    sizes, factor = folded_corner(tensor)
    height, width, down, across = tensor.truncation.corner_shape
    assert factor == 1
    assert sizes.shape == (down * (height + 1) - 1, across * (width + 1) - 1)
    expected = np.full(sizes.shape, NOT_KEPT)
    expected[height :: height + 1] = math.nan
    expected[:, width :: width + 1] = math.nan
    values = tensor.coefficients().detach().abs().numpy()
    for place, value in zip(l1_order(tensor.shape, 40).tolist(), values, strict=True):
        row, column, v, u = np.unravel_index(place, tensor.shape)
        expected[v * (height + 1) + row, u * (width + 1) + column] = value
    np.testing.assert_array_equal(sizes.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("layer", "num_kept"),
    [(nn.Linear(7, 4), 9), (nn.Conv1d(3, 4, 5), 20), (nn.Conv3d(2, 3, 2), 30), (nn.Conv2d(1, 4, 3), 36)],
)
def test_all_coefficients_are_there_once(layer: nn.Module, num_kept: int) -> None:
    tensor = truncated(layer, num_kept)
    sizes, _ = folded_corner(tensor)
    shown = sizes[sizes >= 0].sort().values
    assert torch.equal(shown, tensor.coefficients().detach().abs().sort().values)


def test_a_bias_is_one_row() -> None:
    layer = nn.Linear(3, 8)
    regularize(layer, num_kept=5, include=["bias"])
    (tensor,) = truncated_tensors(layer)
    sizes, _ = folded_corner(tensor)
    assert sizes.shape == (1, 5)
    assert axis_names(tensor, ()) == ("", "axis 0")


def test_large_corners_are_reduced_to_the_largest_of_each_block() -> None:
    tensor = truncated(nn.Linear(600, 500, bias=False), 300_000)
    sizes, factor = folded_corner(tensor)
    assert factor == math.ceil(600 / MAX_SIDE) == 3
    assert sizes.shape == (math.ceil(500 / 3), 200)
    whole = tensor.corner().detach().abs()
    assert sizes[10, 20] == whole[30:33, 60:63].max()
    assert sizes[-1, -1] == whole[498:, 597:].max()


def test_axes_are_named_by_their_role() -> None:
    tensor = truncated(nn.Conv2d(5, 6, 3), 90, axes=(2, 3))
    assert axis_names(tensor, ("output", "input", "kernel", "kernel")) == (
        "axis 0, output (not transformed)",
        "axis 1, input (not transformed); tiles: axes 2 to 3",
    )
    assert axis_names(truncated(nn.Conv1d(5, 6, 3), 9), ()) == ("axis 0", "axis 1; tiles: axis 2")


def test_the_map_is_bright_where_coefficients_are_large() -> None:
    tensor = truncated(nn.Linear(6, 6, bias=False), 10)
    with torch.no_grad():
        tensor.vector.copy_(torch.tensor([100.0, *[0.01] * 9]))
    image = next(corner_figure(tensor, ()).iter("image"))
    pixels = Image.open(io.BytesIO(base64.b64decode(image.attrib["href"].partition(",")[2]))).convert("RGBA")
    values = np.asarray(pixels).astype(int)
    if image.attrib.get("transform", "").startswith("matrix(1 0 0 -1"):
        values = values[::-1]
    assert values.shape[:2] == (4, 4)
    largest, smallest, cut = values[0, 0], values[0, 1], values[3, 3]
    assert largest[:3].sum() > smallest[:3].sum() + 100
    assert largest[3] == smallest[3] == 255
    assert cut[3] < 100


def test_captions_give_counts(networks: list[ReportedNetwork]) -> None:
    section = corners_section(networks)
    text = " ".join("".join(part.itertext()) for part in section.body)
    assert "conv2.weight: 220 of 25,000; corner 11 x 12 x 4 x 4 of 50 x 20 x 5 x 5" in text
    assert section.skipped == {"zoo:lenet300-ref": "no tensor of it is stored as coefficients"}
    assert sum(len(list(part.iter("figure"))) for part in section.body) == 3 + 4
