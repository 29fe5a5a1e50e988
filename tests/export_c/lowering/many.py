"""Many functions of one map, each an output of one network: one program for a compiler to make."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.export_c.networks import lively
from tests.export_c.running import compare_builds
from torch import Tensor, nn

SMALL = ("-DTAILCUT_SMALL=1",)


class With(nn.Module):
    """A function of a map and a layer."""

    def __init__(self, layer: nn.Module, function: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.layer)


def _alone(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    return lambda x, layer: function(x)


class Many(nn.Module):
    """Functions of the outputs of a layer."""

    def __init__(self, layer: nn.Module, functions: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.layer = layer
        made = [one if isinstance(one, nn.Module) else With(nn.Identity(), _alone(one)) for one in functions]
        self.functions = nn.ModuleList(made)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.layer(x)
        return tuple(function(y) for function in self.functions)


def compare_all(
    folder: Path, layer: nn.Module, shape: tuple[int, ...], functions: Sequence[Callable[[Tensor], Tensor]]
) -> float:
    """The largest difference from torch, of loops for speed and for size."""
    torch.manual_seed(0)
    model = lively(Many(layer, functions))
    example = torch.rand(1, *shape)
    return max(compare_builds(model, folder, [(), SMALL], example_input=example)[0])
