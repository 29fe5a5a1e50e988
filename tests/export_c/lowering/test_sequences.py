"""Networks over sequences in C: what differs from networks over images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.networks import enliven, lively, truncated
from tests.export_c.running import compare
from torch import Tensor, nn

import tailcut
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


class Spectrum(nn.Module):
    """Layers along two axes, then along the time alone."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 6) -> None:
        super().__init__()
        self.image, self.line = nn.Conv2d(1, 6, (6, 3), padding=(0, 1)), nn.Conv1d(channels, 5, 3)
        self.function, self.head = function, nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.line(self.function(torch.relu(self.image(x)))))
        z: Tensor = self.head(y.mean(2))
        return z


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            Of(lambda x: x * torch.arange(7.0)),
            (3, 9),
            r"mul \(Of.forward\): .* of shape \(7,\); C code knows one number",
        ),
        (Of(lambda x: torch.cat([x, x], 0)), (3, 9), r"cat \(Of.forward\): a concatenation along axis 0"),
        (Of(nn.MaxPool1d(2, dilation=2)), (3, 9), r"max_pool1d \(function\): max pooling with dilation=\[1, 2\]"),
        (nn.Conv3d(3, 4, 3), (3, 9, 9, 9), r"an example \(1, channels, height, width\), \(1, channels, length\) or"),
        (nn.LSTM(3, 4), (7, 3), r"lstm .*: reads \(1, 7, 3\) as 7 sequences; C code knows one"),
        (Of(lambda x: x.log_softmax(-1)), (3, 9), "log softmax along axis 2"),
        (Of(lambda x: x.mean((1, 2))), (3, 9), r"mean .*: of \(1, 4, 7\) over the axes \[1, 2\]"),
    ],
)
def test_what_has_no_form_is_named(model: nn.Module, shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises((StructureError, ArgumentError), match=message):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, *shape))
    assert not (tmp_path / "c").exists()


def test_numbers_along_the_length_are_no_numbers_of_channels(tmp_path: Path) -> None:
    """Even where there are as many: (length,) goes along the length, as in torch."""
    with pytest.raises(StructureError, match=r"of shape \(4,\); C code knows one number, or one for each of the 4"):
        export_c(Of(lambda x: x * torch.arange(4.0)), tmp_path / "c", example_input=torch.rand(1, 3, 6))


def check(model: nn.Module, shape: tuple[int, ...], folder: Path, **settings: Any) -> None:
    """In C as in torch, and in integers as in Python bit for bit, plain and truncated, and near torch's numbers."""
    example = torch.rand(1, *shape)
    if settings:
        tailcut.regularize(model, **settings)
    enliven(model)
    difference, report = compare(model, folder / "float32", example_input=example)
    assert difference < 1e-5
    assert report.input_shape == shape
    check_same(model, folder / "integer", example_input=example)
    found, wanted = IntegerNetwork(model)(example), model(example)
    assert isinstance(found, Tensor)
    assert (found - wanted).abs().max() < 0.003 * wanted.abs().max()


class LastStep(nn.Module):
    """A temporal network of inputs (batch, length, features), as users write them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.norm = (
            nn.Linear(3, 6),
            nn.Conv1d(6, 6, 3, padding=4, dilation=2),
            nn.BatchNorm1d(6),
        )
        self.second, self.head = nn.Conv1d(6, 8, 4, 2, padding=1), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.rand(3) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x * self.scale - torch.tensor([[0.1, 0.2, 0.3]])).permute(0, 2, 1)
        y = torch.relu(self.norm(self.first(x))[:, :, :-4] + x)
        y = nn.functional.pad(self.second(y), (2, 1)).transpose(-1, -2)
        z: Tensor = self.head(y[:, -3:-1].relu())[:, -1] + self.head(y.mT[..., -1]) + self.head(y.amax(1))
        return z


SETTINGS: list[dict[str, Any]] = [
    {},
    {"keep_ratio": 0.3},
    {"keep_ratio": 0.3, "axes": (0, 1)},
    {"keep_ratio": 0.3, "axes": (1,)},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_inputs_of_a_step_after_the_other(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    check(lively(LastStep()), (19, 3), tmp_path, **settings)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, :1].squeeze(2),
        lambda x: x.mean(2),
        lambda x: x.amax(2),
        lambda x: x.max(dim=2)[0],
        lambda x: x[:, :, -1],
        lambda x: nn.functional.max_pool2d(x, (x.shape[2], 1)).squeeze(2),
    ],
)
def test_layers_along_two_axes_then_one(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    check(lively(Spectrum(function)), (1, 9, 12), tmp_path)


def test_an_input_of_one_channel_is_taken_as_a_sequence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(1, 2), nn.Conv1d(9, 5, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(10, 4)
    )
    check(lively(model), (1, 9, 12), tmp_path)


@pytest.mark.parametrize(
    "how", [lambda x: x.max(-1).values, lambda x: nn.functional.max_pool1d(x, 300), lambda x: x[..., -1:]]
)
def test_a_long_sequence_at_once(how: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """Longer than the largest window of C code."""
    torch.manual_seed(0)
    check(Of(how), (3, 302), tmp_path)


def test_both_a_sequence_and_an_image(tmp_path: Path) -> None:
    check(Both(), (1, 5, 9), tmp_path)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv1d(3, 4, 3), nn.Parameter(torch.rand(4, 7))

    def forward(self, x: Tensor) -> Any:
        return self.conv(x) * self.table


def test_numbers_of_places_are_named_as_in_the_network(tmp_path: Path) -> None:
    with pytest.raises(
        StructureError, match=r"mul \(Table.forward\): table of shape \(4, 7\); C code knows one number"
    ):
        export_c(Table(), tmp_path / "c", example_input=torch.rand(1, 3, 9))


class BatchElsewhere(nn.Module):
    """Outputs whose batch is another axis than the first, as layers without `batch_first` have them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv1d(8, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.layer(x)
        steps = y.permute(2, 0, 1)
        return steps, self.head(steps), steps.transpose(1, 2), y.transpose(0, 1), steps[-1]


def test_outputs_whose_batch_is_another_axis_are_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, example = lively(BatchElsewhere()), torch.rand(1, 8, 10)
    difference, report = compare(model, tmp_path / "floats", example_input=example)
    assert difference < 1e-5
    assert report.output_shapes == ((8, 5), (8, 3), (8, 5), (5, 8), (5,))
    check_same(model, tmp_path / "integers", example_input=example)
