"""Axes in another order, maps seen in other shapes, layers along the length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export_c.lowering.many import With, compare_all
from torch import Tensor, nn

from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.operations import permutation

CLOSE = 2e-6


class Turned(nn.Module):
    """A layer along the channels, with the length in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.norm = nn.Conv1d(9, 2, 1), nn.BatchNorm1d(9)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.line(self.norm(x.transpose(1, 2)))
        return y


def test_maps(tmp_path: Path) -> None:
    """What torch gives in any order of axes, C gives in the same."""
    along = nn.Linear(5, 3)
    functions: list[Callable[[Any], Any]] = [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.permute(0, 3, 1, 2).relu(),
        lambda x: x.transpose(2, 3),
        lambda x: x.permute(0, 2, 1, 3).flatten(2),
        lambda x: x.permute(0, 3, 1, 2).reshape(1, 5, -1),
        lambda x: x.permute(0, 2, 3, 1).flatten(1)[:, :],
        lambda x: x.movedim(1, -1).flatten(1, 2),
        lambda x: x.reshape(1, 7, 5, 4),
        lambda x: x[:, :2].reshape(1, 5, 14),
        With(along, lambda x, line: line(x.relu())),
        lambda x: x.permute(0, 2, 3, 1).mean(1, keepdim=True),
        lambda x: x.permute(0, 2, 3, 1)[:, 1:3] * torch.arange(4).to(x),
    ]
    assert permutation.HANDLERS
    assert compare_all(tmp_path, nn.Conv2d(3, 4, 3), (3, 9, 7), functions) < CLOSE


def test_sequences(tmp_path: Path) -> None:
    along, turned = nn.Linear(9, 4), Turned()
    functions: list[Callable[[Any], Any]] = [
        lambda x: x.mT,
        lambda x: x.mT.flatten(1),
        With(along, lambda x, line: line(x.relu())),
        With(along, lambda x, line: line(x).mT.relu()),
        turned,
        lambda x: x.mT.reshape(1, 3, 18),
    ]
    assert compare_all(tmp_path, nn.Conv1d(3, 6, 3), (3, 11), functions) < CLOSE


def test_means_of_uneven_parts(tmp_path: Path) -> None:
    functions: list[Callable[[Any], Any]] = [
        nn.AdaptiveAvgPool2d((4, 3)),
        nn.AdaptiveMaxPool2d((3, 4)),
        nn.AdaptiveAvgPool2d((7, 2)),
        nn.AdaptiveAvgPool2d((2, 8)),
    ]
    assert compare_all(tmp_path, nn.Conv2d(3, 4, 3), (3, 9, 7), functions) < CLOSE


def test_a_batch_that_moves_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Unflatten(0, (1, 1)))
    with pytest.raises(StructureError, match="unflatten"):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, 3, 6, 6))
