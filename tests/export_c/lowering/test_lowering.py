"""Shapes, types and changes in place that the C program would get wrong are refused by name."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.running import compare
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.errors import StructureError
from tailcut.export_c import IntegerNetwork, integer_program_of, simulate
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.lowering import Lowering
from tailcut.export_c.program.program import Leaf, Map, of_leaf

CLOSE = 1e-5
X = torch.rand(1, 3, 9, 7)


class Of(nn.Module):
    """A function of the maps of a convolution, (1, 4, 7, 5)."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))


def change_a_view(x: Tensor) -> Tensor:
    x[:, :2].relu_()
    return x


def change_a_part(x: Tensor) -> Tensor:
    x.chunk(2, 1)[0].relu_()
    return x


def change_rows(x: Tensor) -> Tensor:
    x.chunk(2, 2)[0].relu_()
    return x


def change_a_permutation(x: Tensor) -> Tensor:
    x.transpose(2, 3).relu_()
    return x


def view_what_changes(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    x.mul_(2.0)
    return flat


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.flatten(1)[:, 3:5], r"slice .*: a part of \(1, 140\)"),
        (lambda x: x.flatten(1)[:, 2:74], r"slice .*: a part of \(1, 140\)"),
        (lambda x: functional.pad(x.flatten(1), (1, 2)), r"pad .*: of \(1, 140\)"),
        (lambda x: x[:, 0][:, :2], r"slice .*: a part of \(1, 7, 5\)"),
        (lambda x: x[:, 0][:, 0], "select .*: one row or column"),
        (lambda x: x[:, :, 0], "select .*: one row or column"),
        (lambda x: x[:, 0].softmax(1), "softmax .*: softmax along axis 1"),
        (lambda x: functional.max_pool2d(x[:, 0], 3, 1, 1), r"max_pool2d .*: of \(1, 7, 5\)"),
        (lambda x: functional.avg_pool2d(x[:, 0], 2), r"avg_pool2d .*: of \(1, 7, 5\)"),
        (
            lambda x: x.max(3).values,
            r"max .*: of \(1, 4, 7, 5\) over the axes \[3\]; C code knows it over channels, or over rows and",
        ),
        (lambda x: x.amax((1, 2)), r"amax .*: of \(1, 4, 7, 5\) over the axes \[1, 2\]"),
        (lambda x: x.max(), r"max .*: of \(1, 4, 7, 5\) over all axes"),
        (lambda x: x.max(2, keepdim=True)[1].float(), r"getitem .*: the places of the largest numbers"),
        (lambda x: functional.glu(x[:, :, :6], 2), r"glu .*: GLU along axis 2; C code knows that of the channels"),
        (lambda x: x**3, r"pow .*: a power of 3; C code knows squares"),
        (lambda x: x.unsqueeze(1), r"unsqueeze .*: a map of shape \(1, 4, 7, 5\) seen as \(1, 1, 4, 7, 5\)"),
        (lambda x: torch.cat([x[:, 0], x[:, 1]], 1), r"cat .*: gives \(1, 14, 5\)"),
        (lambda x: x.to(torch.int32) + 0.5, "to .*: gives int32; C code has float32 alone"),
        (lambda x: torch.div(x, 0.3, rounding_mode="floor"), "div .*: a quotient with rounding_mode='floor'"),
        (lambda x: x.clamp(min=x.mean((2, 3), keepdim=True)), "clamp .*: bounds that are tensors"),
        (
            lambda x: x.mean(),
            r"mean .*: of \(1, 4, 7, 5\) over all axes; C code knows it over channels, or over rows and",
        ),
        (lambda x: x.mean(3).mean(1), r"mean .*: of \(1, 4, 7, 5\) over the axes \[3\]"),
        (lambda x: x.mean(3).sum(2), r"mean .*: of \(1, 4, 7, 5\) over the axes \[3\]"),
        (lambda x: x.mean(3, keepdim=True).mean(3), r"mean .*: of \(1, 4, 7, 1\) over the axes \[3\]"),
        (lambda x: x.flatten(2).mean(1), r"mean .*: of \(1, 4, 35\) over the axes \[1\]"),
        (lambda x: x.view(1, 5, 28).mean(2), r"mean .*: of \(1, 5, 28\) over the axes \[2\]"),
        (lambda x: x[:, :1].expand_as(x), r"expand_as .*: from \(1, 1, 7, 5\) to \(1, 4, 7, 5\); C code knows it of"),
        (lambda x: x.mean((2, 3), keepdim=True).expand(2, 4, 7, 5), r"expand .*: from .* to \(2, 4, 7, 5\)"),
        (lambda x: x.mean((2, 3), keepdim=True).expand(1, 1, 4, 7, 5), r"expand .*: from .* to \(1, 1, 4, 7, 5\)"),
        (
            lambda x: x.flatten(2).chunk(5, 2)[0],
            r"chunk .*: parts of \(1, 4, 35\) along axis 2; C code splits channels",
        ),
        (change_rows, "relu_ .* changes in place a map that is read by another name"),
        (lambda x: x.flatten(1).split(35, 1)[0], r"split .*: parts of \(1, 140\) along axis 1"),
        (change_a_part, "relu_ .* changes in place a map that is read by another name"),
        (change_a_permutation, "relu_ .* changes in place a map that is read by another name"),
        (change_a_view, "relu_ .* changes in place a map that is read by another name"),
        (view_what_changes, "mul_ .* changes in place a map that is read by another name"),
    ],
)
def test_what_would_give_other_numbers_is_refused(
    function: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StructureError, match=message):
        export_c(Of(function), tmp_path / "c", example_input=X)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nn.RReLU(inplace=True), r"rrelu_ \(function\); the nearest it knows is relu; docs/microcontroller.md"),
        (lambda x: x.exp(), r"exp \(Of\.forward\); docs/microcontroller.md"),
        (lambda x: x.flip(2), r"flip \(Of\.forward\); docs/microcontroller.md"),
    ],
)
def test_unknown_operations_are_named_with_the_nearest_one(
    function: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    expected = f"^C code has no form of {message} lists the layers it knows$"
    with pytest.raises(StructureError, match=expected):
        export_c(Of(function), tmp_path / "c", example_input=X)


class Named(nn.Module):
    """A layer, its own numbers and those of an inner module."""

    def __init__(self, function: Callable[["Named", Tensor], Tensor]) -> None:
        super().__init__()
        self.reduce, self.block = nn.Conv2d(3, 4, 3), nn.PReLU(7)
        self.gate, self.table = nn.Parameter(torch.rand(1, 4, 7, 5)), torch.rand(7, 5)
        self.register_buffer("mean", torch.rand(7, 5))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.reduce(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda own, x: x * own.gate,
            r"mul .*: gate of shape \(1, 4, 7, 5\); C code knows one number, or one for each of",
        ),
        (lambda own, x: x * own.mean, r"mul .*: mean of shape \(7, 5\); C code knows"),
        (lambda own, x: x / own.table, r"div .*: table of shape \(7, 5\); C code knows"),
        (lambda own, x: x * own.block.weight[:, None], r"mul .*: unsqueeze \(Named.forward\) of shape \(7, 1\)"),
        (
            lambda own, x: torch.cat([x, own.gate], 1),
            "cat .*: gate does not depend on the input; C code needs",
        ),
        (lambda own, x: own.block.weight, "^block.weight does not depend on the input"),
        (lambda own, x: functional.conv2d(x, x), r"conv2d .*: conv2d \(reduce\) depends on the input"),
    ],
)
def test_numbers_are_named_as_in_the_network(
    function: Callable[[Named, Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StructureError, match=message):
        export_c(Named(function), tmp_path / "c", example_input=X)


def pad_by(*pads: int, **settings: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: functional.pad(x, pads, **settings)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            pad_by(-1, -1, 0, -2),
            r"pad \(Of.forward\): negative padding, \[-1, -1, 0, -2\]; C code knows padding by 0 and more",
        ),
        (nn.ReplicationPad2d((1, -1, 0, 0)), r"pad \(function\): negative padding, \[1, -1, 0, 0\]; .*"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), r"pad \(function\): mode='circular' by .*"),
        (
            pad_by(1, 1, 1, 1, value=2.5),
            r"pad .*: padding with 2\.5; C code pads with zeros, or mode='replicate' or 'reflect'",
        ),
        (
            pad_by(0, 0, 0, 0, 0, 0, 0, 1),
            r"pad .*: padding of the batch, by .*; C code pads channels, rows and columns",
        ),
        (nn.ConvTranspose2d(4, 4, 2, groups=2), r"conv_transpose2d \(function\): groups=2; .* with groups=1"),
        (nn.MaxPool2d(2, dilation=2), r"max_pool2d \(function\): .* dilation=\[?2.*; C code knows dilation=1"),
        (nn.AvgPool2d(2, divisor_override=3), r"avg_pool2d \(function\): divisor_override=3; C code divides by .*"),
        (
            nn.AvgPool2d(2, ceil_mode=True),
            r"avg_pool2d \(function\): ceil_mode, with .*; C code knows windows within the map",
        ),
        (
            nn.Upsample(scale_factor=1.3),
            r"upsample_nearest2d \(function\): .* \(1\.3, 1\.3\), .* \(7, 5\); C code takes size=.*",
        ),
        (
            lambda x: x[:, 1::2],
            r"slice .*: \[1:4:2\] along axis 1; C code takes channels in a row, and rows and columns",
        ),
        (lambda x: x / x, "div .*: a quotient of maps; C code divides by numbers, parameters and constants"),
        (
            lambda x: x + x[:, :1, :1],
            r"add .*: two maps .*, \(1, 4, 7, 5\) and \(1, 1, 1, 5\); C code knows equal ones, .*",
        ),
    ],
)
def test_settings_are_named_with_what_is_known(
    function: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StructureError, match=f"^{message}$"):
        export_c(Of(function), tmp_path / "c", example_input=X)


class Reversed(nn.Module):
    """Sums whose first part is no map, or changed in place and not seen otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.shift = nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.to(self.shift.dtype))
        rectified = x.relu_()
        return torch.add(self.shift, rectified, alpha=3) + x.flatten(1).mul_(0.5).view(1, 4, 7, 5)


def test_sums_with_a_factor_and_changes_in_place(tmp_path: Path) -> None:
    difference, _ = compare(Reversed(), tmp_path, example_input=X)
    assert difference < CLOSE


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.relu(),
        lambda x: torch.add(x, x.relu(), alpha=0.5),
        lambda x: 1 - x.relu(),
        lambda x: -x,
    ],
)
def test_differences(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    difference, _ = compare(Of(function), tmp_path, example_input=X)
    assert difference < CLOSE


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * functional.adaptive_avg_pool2d(x, 1).sigmoid(),
        lambda x: x.mean((2, 3), keepdim=True) + x.relu(),
        lambda x: x * x.mean((2, 3)).sigmoid().view(-1, 4, 1, 1),
    ],
)
def test_a_mean_of_each_channel_gates_its_map(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """Squeeze and excitation."""
    difference, _ = compare(Of(function), tmp_path, example_input=X)
    assert difference < CLOSE


def check_close(model: nn.Module, folder: Path) -> None:
    """Outputs in C are those of torch in float64, and in integers those of Python, bit for bit, and near torch's."""
    difference, _ = compare(model, folder / "float32", example_input=X)
    assert difference < CLOSE
    check_same(model, folder / "integer", example_input=X)
    images = torch.rand(4, *X.shape[1:], generator=torch.Generator().manual_seed(2))
    found = IntegerNetwork(model)(images)
    with torch.no_grad():
        wanted = model.double()(images.double())
    assert isinstance(found, Tensor)
    assert (found - wanted).abs().max() < 0.001 * wanted.abs().max()


def crossed_halves(x: Tensor) -> Tensor:
    """Ghost and cross-stage modules: a part goes on, a part is joined again; the map is costly to make twice."""
    one, two = functional.max_pool2d(x, 2).chunk(2, 1)
    return torch.cat([two.relu(), one - two, one], 1)


@pytest.mark.parametrize(
    "function",
    [
        crossed_halves,
        lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1),
        lambda x: x.split(3, 1)[-1],
        lambda x: torch.cat(x.mean((2, 3)).chunk(3, -1)[::-1], 1),
    ],
)
def test_channels_are_split(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    check_close(Of(function), tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(3).mean(2),
        lambda x: x.mean(-1).mean(-1),
        lambda x: x.mean(2).mean(-1, keepdim=True).flatten(1),
        lambda x: x.relu() + x.mean(2, keepdim=True).mean(3, keepdim=True),
        lambda x: x.mean(3, keepdim=True).mean(2).flatten(1),
        lambda x: x.flatten(2).mean(2),
        lambda x: x.view(-1, 4, 35).mean(-1, keepdim=True).unsqueeze(-1) - x,
        lambda x: x.sum((2, 3)),
        lambda x: x.sum(-1).sum(-1),
        lambda x: x.relu().flatten(2).sum(-1),
    ],
)
def test_means_of_each_channel_in_other_words(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    check_close(Of(function), tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x.mean((2, 3), keepdim=True).expand_as(x).relu(),
        lambda x: functional.adaptive_avg_pool2d(x, 1).expand(-1, -1, 7, 5) - x,
        lambda x: torch.cat([x.relu().expand_as(x), x.sum((2, 3))[:, :, None, None].expand(-1, 4, 7, 5)], 1),
    ],
)
def test_gates_are_expanded(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    check_close(Of(function), tmp_path)


def test_gates_expanded_before_a_product(tmp_path: Path) -> None:
    model = Of(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid().expand_as(x))
    difference, _ = compare(model, tmp_path, example_input=X)
    assert difference < CLOSE


def test_means_that_torch_takes_for_a_row_are_refused(tmp_path: Path) -> None:
    model = Of(lambda x: x * x.mean((2, 3)))  # of (1, 4, 7, 4) and (1, 4): a number for each column
    with pytest.raises(StructureError, match="two maps of different shapes"):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, 3, 9, 6))


class Constants(nn.Module):
    """Numbers computed from parameters, and a scale of features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        self.last = nn.Linear(4, 5)
        self.mean, self.log_scale = nn.Parameter(torch.rand(3)), nn.Parameter(torch.tensor(0.3))
        self.shift, self.scale = nn.Parameter(torch.rand(5)), nn.Parameter(torch.rand(5) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normed((x - self.mean[None, :, None, None]) * self.log_scale.exp())
        y: Tensor = (self.last(x.mean((2, 3))) - self.shift) / self.scale
        return y


def test_numbers_computed_from_parameters_are_constants(tmp_path: Path) -> None:
    difference, _ = compare(Constants(), tmp_path, example_input=X)
    assert difference < CLOSE


@pytest.mark.parametrize("arithmetic", ["float32", "integer"])
@pytest.mark.parametrize("function", [lambda x: x, lambda x: x * math.nan, lambda x: x + math.inf, lambda x: x * 1e39])
def test_numbers_that_are_not_finite_are_refused(
    function: Callable[[Tensor], Tensor], arithmetic: str, tmp_path: Path
) -> None:
    model = Of(function)
    if function(X) is X:
        model.layer.weight.data[1, 2] = math.inf
    with pytest.raises(StructureError, match="a weight or constant that is NaN, infinite or beyond float32"):
        export_c(model, tmp_path / "c", example_input=X, arithmetic=arithmetic)


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose2d(3, 5, 2, 2, dilation=2), nn.ConvTranspose1d(3, 5, 2, 2, dilation=2)]
)
def test_kernels_with_gaps_are_not_side_by_side(layer: nn.Module, tmp_path: Path) -> None:
    model = copy.deepcopy(layer).eval()
    tailcut.regularize(model, keep_ratio=0.5)
    example = X if isinstance(layer, nn.ConvTranspose2d) else X[:, :, 0]
    assert compare(model, tmp_path / "floats", example_input=example)[0] < CLOSE
    check_same(model, tmp_path / "integers", example_input=example)


def test_bounds_may_be_infinite(tmp_path: Path) -> None:
    model = Of(
        lambda x: torch.cat(
            [x.clamp(0.0, math.inf), functional.hardtanh(x, -math.inf, 0.1), x.clamp_min(0.2), x.clamp_max(0.3)], 1
        )
    )
    difference, _ = compare(model, tmp_path, example_input=X)
    assert difference < CLOSE
    numbers = (X * 4096).long()
    (found,) = simulate(integer_program_of(model, example_input=X), numbers.numpy(), -12)
    np.testing.assert_allclose(found.to_float(), model(numbers / 4096).detach().numpy(), atol=1e-3)


def test_random_numbers_are_no_constants(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="C code has no form of rand"):
        export_c(Of(lambda x: x + torch.rand(1, 4, 1, 1)), tmp_path / "c", example_input=X)


def test_a_network_that_cannot_be_traced_is_told_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = Of(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(StructureError, match=r"^Of cannot be exported: [^\n]*$"):
        export_c(model, tmp_path / "c", example_input=X)
    assert capfd.readouterr() == ("", "")


class Part(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(2, keepdim=True) - x,
        lambda x: x.relu() + x.sum(3, keepdim=True),
        lambda x: x + x[:, :1],
        lambda x: x[:, 1:2].mean(3, keepdim=True) + x[:, 3:, :, 1:2],
        lambda x: functional.avg_pool2d(x, (7, 5)),
    ],
)
def test_one_row_column_or_channel_meets_a_map(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    check_close(Of(function), tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.glu(x, 1),
        lambda x: functional.glu(x.mean((2, 3))),
        lambda x: x**2 - x.relu().square(),
        lambda x: x * x[:, 2:3].sigmoid(),
    ],
)
def test_products_of_a_map_with_itself(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    difference, _ = compare(Of(function), tmp_path, example_input=X)
    assert difference < CLOSE


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, (3, 2), padding="same"),
        nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(3, 2), groups=2),
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 3, (2, 4), padding="same")),
    ],
)
def test_kernels_of_even_sizes_have_one_more_zero_behind(layer: nn.Module, tmp_path: Path) -> None:
    check_close(Of(layer), tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :1].reshape(-1, 5, 7).relu(),
        lambda x: functional.relu(x[:, 2:3]).reshape(-1, 1, 5, 7)[:, :, 1:],
        lambda x: x[:, 2:3].squeeze(1).unsqueeze(1) + x,
        lambda x: x[:, :, 3:4].reshape(-1, 2, 2, 5).relu(),
        lambda x: x[:, :, 3:4].reshape(-1, 1, 20).unsqueeze(1),
    ],
)
def test_maps_of_one_row_or_channel_are_seen_in_other_shapes(
    function: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    check_close(Of(function), tmp_path)


def test_a_map_that_is_seen_otherwise_does_not_take_the_rows_of_another(tmp_path: Path) -> None:
    """A convolution to one channel, whose output would lie in its input's rows, wider than its own."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1), Part(lambda x: x.view(-1, 1, 7, 9)), nn.Conv2d(1, 2, 3)
    )
    check_close(model, tmp_path)


def test_the_input_is_seen_in_other_shapes_where_it_lies(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Unflatten(1, (3, 9, 7)), nn.Conv2d(3, 2, 3))
    example = torch.rand(1, 189)
    difference, report = compare(model, tmp_path, example_input=example)
    assert difference < CLOSE
    assert report.arena_bytes < 4 * 189 + 4 * 70  # no copy of the input: the rows of a kernel and the output


def test_an_error_of_an_output_and_of_integers_names_the_layer(tmp_path: Path) -> None:
    model = Of(lambda x: functional.softplus(x, threshold=1) + 1)
    with pytest.raises(
        StructureError, match=r"^before add \(Of.forward\): integers have no form of a softplus of 1 and 1, which jumps"
    ):
        export_c(model, tmp_path / "c", example_input=X, arithmetic="integer")
    with pytest.raises(StructureError, match=r"^max_pool2d \(Of.forward\)|^linear"):
        export_c(Of(lambda x: functional.max_pool2d(x, (300, 1), 300, (150, 0))), tmp_path / "c", example_input=X)


class Beside(nn.Module):
    """A layer of three features beside one of none."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.none = nn.Linear(2, 3), nn.Linear(2, 0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.three(x), self.none(x)], 1)


@pytest.mark.parametrize("arithmetic", ["float32", "integer"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 0)), (1, 2), r"^linear \(0\): gives \(1, 0\), no number; C code has sizes"),
        (lambda: nn.Sequential(nn.Linear(2, 0), nn.Linear(0, 3)), (1, 2), r"^linear \(0\): gives \(1, 0\), no number"),
        (Beside, (1, 2), r"^linear \(none\): gives \(1, 0\), no number; .*: leave out what is empty"),
        (lambda: nn.Linear(0, 3), (1, 0), r"^an input \(1, 0\) has no numbers; .*: give a larger example"),
        (lambda: nn.Linear(4, 3), (1, 0, 4), r"^an input \(1, 0, 4\) has no numbers"),
        (lambda: nn.ReLU(), (1, 3, 0), r"^an input \(1, 3, 0\) has no numbers"),
        (lambda: nn.ReLU(), (1, 3, 4, 0), r"^an input \(1, 3, 4, 0\) has no numbers"),
    ],
)
def test_what_has_no_number_is_refused(
    make: Callable[[], nn.Module], shape: tuple[int, ...], message: str, arithmetic: str, tmp_path: Path
) -> None:
    with pytest.raises(StructureError, match=message):
        export_c(make(), tmp_path / "c", example_input=torch.rand(shape), arithmetic=arithmetic)
    assert not list(tmp_path.iterdir())


def test_no_stage_has_a_size_of_0() -> None:
    low = Lowering({}, {}, {}, {})
    with pytest.raises(StructureError, match="a size of 0, C code has sizes from 1"):
        low.stored(of_leaf(Leaf(Map(3, 0, 4), 3, 0, 4)))


@pytest.mark.parametrize("arithmetic", ["float32", "integer"])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: [], "^the network gives no tensor; C code writes what its forward returns: return a tensor$"),
        (lambda x: None, "^the network gives no tensor; "),
        (lambda x: (None, {}), "^the network gives no tensor; "),
        (lambda x: (x, 3.0), r"^output 1 is 3\.0, not a tensor; return tensors alone$"),
        (lambda x: (x, None, [x, "mean"]), r"^output 3 is 'mean', not a tensor; return tensors alone$"),
        (lambda x: {"maps": x, "is_map": True}, r"^output 1 is True, not a tensor; return tensors alone$"),
    ],
)
def test_outputs_that_are_no_tensors_are_refused(
    function: Callable[[Tensor], Any], message: str, arithmetic: str, tmp_path: Path
) -> None:
    with pytest.raises(StructureError, match=message):
        export_c(Of(function), tmp_path / "c", example_input=X, arithmetic=arithmetic)
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_none_are_left_out(tmp_path: Path) -> None:
    """As the page says."""
    model = Of(lambda x: (None, x.relu(), None, x.mean((2, 3))))
    difference, report = compare(model, tmp_path / "floats", example_input=X)
    assert difference < CLOSE
    assert report.output_shapes == ((4, 7, 5), (4,))
    assert check_same(model, tmp_path / "integers", example_input=X).output_shapes == ((4, 7, 5), (4,))
