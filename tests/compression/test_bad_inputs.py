"""Inputs and networks that cannot be compressed: one clear error, and no file."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tailcut
from tailcut.errors import ArgumentError

FITTING = torch.rand(8, 1, 28, 28)


def broken() -> nn.Module:
    model = tailcut.load("zoo:lenet5-776")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    return model


def sound() -> nn.Module:
    return tailcut.load("zoo:lenet5-776")


@pytest.mark.parametrize(
    ("make", "inputs", "message"),
    [
        (sound, torch.rand(8, 3, 32, 32), r"cannot take inputs of shape \(8, 3, 32, 32\) and type float32: .*channels"),
        (sound, torch.zeros(8, 1, 28, 28, dtype=torch.uint8), "and type uint8: "),
        (sound, torch.full((8, 1, 28, 28), float("nan")), "inputs= has numbers that are not finite"),
        (broken, FITTING, "conv1.weight has numbers that are not finite"),
        (nn.ReLU, FITTING, "the network has no parameters: there is nothing to compress"),
    ],
)
def test_what_cannot_be_compressed_is_said(
    make: Callable[[], nn.Module], inputs: Tensor, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tailcut"
    with pytest.raises(ArgumentError, match=message):
        tailcut.compress(make(), path, [inputs], max_bytes=700, num_gradients=8)
    assert not path.exists()
