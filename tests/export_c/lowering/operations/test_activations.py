"""Activations, and softmax along channels and time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export_c.lowering.many import compare_all
from torch import Tensor, nn

from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.operations import activations

CLOSE = 2e-6


class Scaled(nn.Module):
    """An activation of numbers 60 times as large, or by another factor."""

    def __init__(self, layer: Callable[[Tensor], Tensor], factor: float = 60.0) -> None:
        super().__init__()
        self.layer, self.factor = layer, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.factor * x)


def test_every_activation(tmp_path: Path) -> None:
    """Of small and of large numbers; each output is large enough to count beside the largest one."""
    functions: list[Callable[[Any], Any]] = [
        nn.ELU(),
        nn.ELU(0.5, inplace=False),
        nn.SELU(),
        nn.CELU(2.0),
        nn.Softplus(),
        nn.Softplus(beta=3.0, threshold=2.0),
        nn.LogSigmoid(),
        nn.Mish(),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.LeakyReLU(0.2),
        nn.PReLU(4, 0.3),
        nn.LogSoftmax(1),
    ]
    difference = compare_all(tmp_path / "near", nn.Conv2d(3, 4, 3), (3, 8, 7), functions)
    assert difference < CLOSE
    scaled = [Scaled(function) for function in functions[:-1]]
    assert compare_all(tmp_path / "far", nn.Conv2d(3, 4, 3), (3, 5, 5), scaled) < CLOSE


@pytest.mark.parametrize("factor", [1e-4, 1e-2, 0.1])
def test_exponentials_of_small_numbers_less_one(factor: float, tmp_path: Path) -> None:
    functions = [Scaled(layer, factor) for layer in (nn.ELU(), nn.SELU(), nn.CELU(2.0), nn.CELU(0.2))]
    assert compare_all(tmp_path, nn.Conv2d(3, 4, 3), (3, 8, 7), functions) < CLOSE


def test_mish_of_the_largest_numbers(tmp_path: Path) -> None:
    assert compare_all(tmp_path, nn.Conv2d(3, 4, 3), (3, 8, 7), [Scaled(nn.Mish(), 1e35)]) < CLOSE


def test_softmax_of_all_channels_and_of_all_times(tmp_path: Path) -> None:
    functions: list[Callable[[Any], Any]] = [
        lambda x: x.softmax(1),
        lambda x: x.softmax(2),
        lambda x: x.mT.softmax(1),
        lambda x: (8 * x).log_softmax(1),
        lambda x: (x * x[:, :1].softmax(2)).sum(2),
        lambda x: x.mean(2).log_softmax(1),
    ]
    assert compare_all(tmp_path, nn.Conv1d(3, 5, 3), (3, 12), functions) < CLOSE


def test_softmax_along_the_rows_of_a_map_is_refused(tmp_path: Path) -> None:
    for layer in (nn.Softmax(2), nn.LogSoftmax(3)):
        with pytest.raises(StructureError, match=r"softmax along axis [23]; C code knows that of the channels"):
            export_c(nn.Sequential(nn.Conv2d(3, 4, 3), layer), tmp_path / "c", example_input=torch.rand(1, 3, 6, 6))


def test_each_has_its_name_in_place_too() -> None:
    assert {"elu", "elu_", "selu_", "celu_", "gelu", "softplus", "mish_", "log_softmax"} <= set(activations.HANDLERS)
