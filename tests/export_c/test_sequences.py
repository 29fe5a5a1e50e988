"""Networks over sequences in C: what differs from networks over images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export_c.networks import truncated
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.export_c import IntegerNetwork, export_c


def test_shapes_are_those_of_the_network(tmp_path: Path) -> None:
    model, shape = truncated("gated sequence")
    report = export_c(model, tmp_path, example_input=torch.rand(1, *shape))
    assert report.input_shape == (3, 14)
    assert report.output_shapes == ((8, 12), (4,))
    assert "input 3 x 14, output 8 x 12, 4, float32" in str(report)
    assert "/* 3 x 14 */" in (tmp_path / "model.h").read_text()
    sequence, shape = truncated("sequence")
    assert IntegerNetwork(sequence)(torch.rand(2, *shape)).shape == (2, 5)


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.line = nn.Conv2d(1, 4, (5, 3)), nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.line(self.image(x).squeeze(2))


class Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv1d(3, 4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Both(), (1, 5, 9), r"squeeze \(Both.forward\): a map of shape \(1, 4, 1, 7\) seen as \(1, 4, 7\)"),
        (Of(lambda x: x[:, :, -1]), (3, 9), r"select \(Of.forward\): one row or column of a map"),
        (Of(lambda x: x[:, :, 2:]), (3, 9), r"slice \(Of.forward\): .* along axis 3; C code takes channels in a row"),
        (Of(lambda x: x.transpose(1, 2)), (3, 9), r"C code has no form of transpose \(Of.forward\)"),
        (
            Of(lambda x: x * torch.arange(7.0)),
            (3, 9),
            r"mul \(Of.forward\): .* of shape \(7,\); C code knows one number",
        ),
        (Of(lambda x: torch.cat([x, x], 2)), (3, 9), r"cat \(Of.forward\): a concatenation along axis 3"),
        (Of(nn.MaxPool1d(2, dilation=2)), (3, 9), r"max_pool1d \(function\): max pooling with dilation=\[1, 2\]"),
        (nn.Conv3d(3, 4, 3), (3, 9, 9, 9), r"an example \(1, channels, height, width\), \(1, channels, length\) or"),
        (nn.LSTM(3, 4), (7, 3), "lstm"),
    ],
)
def test_what_has_no_form_is_named(model: nn.Module, shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises((StructureError, ArgumentError), match=message):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, *shape))
    assert not (tmp_path / "c").exists()


def test_numbers_along_the_length_are_no_numbers_of_channels(tmp_path: Path) -> None:
    """Even where there are as many: (length,) is added along the length, as in torch."""
    with pytest.raises(StructureError, match=r"of shape \(4,\); C code knows one number, or one for each of the 4"):
        export_c(Of(lambda x: x + torch.arange(4.0)), tmp_path / "c", example_input=torch.rand(1, 3, 6))
