"""Rows and columns from a later one on, and the largest numbers of all of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.lowering.many import With
from tests.export_c.lowering.test_lowering import CLOSE, Of, Part, check_close
from tests.export_c.running import compare
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.lowering import Lowering
from tailcut.export_c.lowering.operations import edges
from tailcut.export_c.program.program import Leaf, Map, Resampling, of_leaf


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, 1:4],
        lambda x: x.relu()[:, 1:, 2::3, 1::2],
        lambda x: x[:, :, -2:, :3].relu(),
        lambda x: functional.max_pool2d(x, 2, 1)[:, :, -1:],
        lambda x: x[:, :, :, 4:] + x[..., :1],
        lambda x: x.chunk(2, 2)[1],
        lambda x: x.split([1, 4, 2], 2)[1].relu() + x.split(4, 2)[0],
        lambda x: torch.cat(x.split(2, 3)[:2], 1),
        lambda x: x[:, :, -1:].mean(3, keepdim=True),
    ],
)
def test_rows_and_columns_from_a_later_one_on(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    check_close(Of(function), tmp_path)


def test_more_rows_than_a_window_has_are_left_out(tmp_path: Path) -> None:
    example = torch.rand(1, 2, 600, 2)
    model = nn.Sequential(nn.Conv2d(2, 2, 1), Part(lambda x: x[:, :, 570::3, 1:]))
    difference, _ = compare(model, tmp_path / "float32", example_input=example)
    assert difference < CLOSE
    check_same(model, tmp_path / "integer", example_input=example)


@pytest.mark.parametrize("arithmetic", ["float32", "integer"])
@pytest.mark.parametrize(
    ("layer", "pads", "shape"),
    [
        (nn.Conv1d(2, 1, 3, stride=100), (32_768, 0), (1, 2, 50)),
        (nn.Conv2d(1, 1, (3, 1), stride=(100, 1)), (0, 0, 33_000, 0), (1, 1, 50, 2)),
    ],
)
def test_zeros_beyond_the_structures_are_refused(
    layer: nn.Module, pads: tuple[int, ...], shape: tuple[int, ...], arithmetic: str, tmp_path: Path
) -> None:
    model = With(layer, lambda x, own: own(functional.pad(x, pads)))
    with pytest.raises(StructureError, match=rf"{max(pads):,} rows or columns of zeros before a map, .* up to 32,767"):
        export_c(model, tmp_path, example_input=torch.rand(shape), arithmetic=arithmetic)


def test_as_many_zeros_as_the_structures_hold(tmp_path: Path) -> None:
    model = With(nn.Conv1d(2, 1, 3, stride=100), lambda x, layer: layer(functional.pad(x, (32_767, 0))))
    assert compare(model, tmp_path, example_input=torch.rand(1, 2, 350))[0] < CLOSE


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.amax((2, 3)),
        lambda x: functional.adaptive_max_pool2d(x.relu(), 1),
        lambda x: functional.adaptive_max_pool2d(x[..., :4], (7, 2)),
        lambda x: x.max(2, keepdim=True).values,
        lambda x: x.amax(3, keepdim=True) + x.relu(),
        lambda x: functional.max_pool2d(x, (7, 5)).flatten(1),
    ],
)
def test_largest_numbers_of_rows_and_columns(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    check_close(Of(function), tmp_path)


def test_a_long_axis_takes_several_windows() -> None:
    low = Lowering({}, {}, {}, {})
    value = of_leaf(Leaf(Map(3, 1, 1000, is_input=True), 3, 1, 1000))
    found = edges.largest(low, value, {3})
    assert (found.size, found.resampling, len(low.program.stages)) == ((1, 1), Resampling.MAX, 1)
    last = edges.from_on(low, value, 3, 999)
    assert last.size == (1, 1)
    assert [stage.window.dilation for stage in low.program.stages[1:]] == [(1, 255)] * 3 + [(1, 234)]
    weight = low.program.stages[1].weight
    assert weight is not None
    assert np.array_equal(weight.numbers, [0, 1] * 3)
    assert edges.from_on(low, value, 3, 0) is value


@pytest.mark.parametrize(
    "head",
    [
        lambda x: x.squeeze(-1),
        lambda x: torch.sigmoid(x).squeeze(1),
        lambda x: torch.sigmoid(x.flatten()),
        lambda x: x.view(-1),
    ],
)
def test_one_number_without_its_axis(head: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), Part(head)).eval()
    difference, _ = compare(model, tmp_path / "float32", example_input=torch.rand(1, 3, 2, 2))
    assert difference < CLOSE
    check_same(model, tmp_path / "integer", example_input=torch.rand(1, 3, 2, 2))
