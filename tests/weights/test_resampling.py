import copy
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tailcut
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, StructureError
from tailcut.execution import fuse
from tailcut.structure import create_model
from tailcut.transform import idct
from tailcut.transform.order import l1_order_index
from tailcut.weights import kept_counts, regularize, resample, truncate_norms, truncated_tensors, truncation_of


def convolutions(width: int, *, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    """Strided, transposed, batch norm with statistics; 3 channels in, 2 out."""
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, kernel, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, groups=groups),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(width, 2, 1),
    )


def smooth(model: nn.Module, num_kept: int = 30) -> nn.Module:
    """Regularised, and everything with one value per channel a smooth function of the channel."""
    regularize(model, num_kept=num_kept)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "parametrizations" in name:
                value.copy_(torch.from_numpy(np.random.default_rng(len(name)).normal(size=value.shape)))
            elif value.ndim == 1:
                place = (torch.arange(len(value)) + 0.5) / len(value)
                value.copy_(1 + 0.5 * torch.cos(math.pi * (1 + len(name) % 2) * place))
    return model.eval()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a - b).norm() / a.norm())


def linear_chain(widths: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)))


@given(
    before=st.lists(st.integers(4, 40), min_size=1, max_size=3),
    after=st.lists(st.integers(4, 40), min_size=3, max_size=3),
    num_kept=st.integers(1, 10),
)
@settings(max_examples=40, deadline=None)
def test_products_of_layers_stay_exactly(before: list[int], after: list[int], num_kept: int) -> None:
    """A sum over channels of two cosines is their integral on every grid that carries them both."""
    model = linear_chain([5, *before, 6]).double()
    regularize(model, num_kept=num_kept)  # the highest of 10 cosines has number 3
    other = linear_chain([5, *after[: len(before)], 6]).double()
    report = resample(model, other)
    x = torch.rand(7, 5, dtype=torch.float64)
    torch.testing.assert_close(other(x), model(x))
    assert [tensor.energy_lost for tensor in report.tensors] == [0.0] * len(report.tensors)


@pytest.mark.parametrize(
    ("layer", "axis_out", "axis_in"),
    [
        (lambda o, i: nn.Conv2d(i, o, 3, bias=False), 0, 1),
        (lambda o, i: nn.ConvTranspose2d(i, o, 3, bias=False), 1, 0),
        (lambda o, i: nn.Conv1d(i, o, 3, bias=False), 0, 1),
        (lambda o, i: nn.Linear(i, o, bias=False), 0, 1),
    ],
)
def test_a_weight_is_the_same_function_on_another_grid(
    layer: Callable[[int, int], nn.Module], axis_out: int, axis_in: int
) -> None:
    """The sum of cosines by hand, at the centres of the other channels; more inputs share a sum."""
    model, other = layer(12, 10), layer(18, 30)
    regularize(model, num_kept=20)
    resample(model, other)
    tensor = truncation_of(model, "weight")
    after = truncation_of(other, "weight").shape
    expected = np.zeros(after)
    places = np.meshgrid(*((np.arange(size) + 0.5) / size for size in after), indexing="ij")
    index = l1_order_index(tensor.shape, 20, axes=tensor.axes)
    for value, frequencies in zip(tensor.coefficients().tolist(), index, strict=True):
        for place, frequency, size in zip(places, frequencies, tensor.shape, strict=True):
            value = value * np.cos(np.pi * frequency * place) * math.sqrt((1 if frequency == 0 else 2) / size)
        expected += value
    assert (after[axis_out], after[axis_in]) == (18, 30)
    weight: Any = other.weight
    np.testing.assert_allclose(weight.detach(), expected * 10 / 30, atol=1e-6)


def test_wider_grids_come_closer_and_closer() -> None:
    model, x = smooth(convolutions(64)), torch.rand(2, 3, 12, 16)
    differences = []
    for width in (8, 16, 32, 128):
        other = convolutions(width).eval()
        resample(model, other)
        differences.append(relative(model(x), other(x)))
    assert differences[0] > 2 * differences[1] > 4 * differences[2]
    assert differences[3] < differences[2] < 0.01


def test_back_and_forth_loses_nothing_that_both_grids_carry() -> None:
    model, wide, back = smooth(convolutions(16)), convolutions(48), convolutions(16)
    resample(model, wide)
    resample(wide, back)
    for before, after in zip(truncated_tensors(model), truncated_tensors(back), strict=True):
        torch.testing.assert_close(after.coefficients(), before.coefficients())


def test_the_same_sizes_give_the_same_network() -> None:
    model, other = smooth(convolutions(16)), convolutions(16).eval()
    report = resample(model, other)
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(other(x), model(x))
    assert report.interpolated == ()
    before, after = model.state_dict(), other.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_first_network_is_not_changed() -> None:
    model = smooth(convolutions(16))
    before = copy.deepcopy(model.state_dict())
    resample(model, convolutions(8))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_fused_view_is_resampled_as_its_network_is() -> None:
    model, other, again = smooth(convolutions(16)), convolutions(32).eval(), convolutions(32).eval()
    expected = resample(model, other)
    assert resample(fuse(model), again) == expected
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(again(x), other(x))
    with pytest.raises(StructureError, match="the other network is regularised already; give a fresh one"):
        resample(fuse(model), fuse(other))


def test_values_of_channels_are_interpolated_between_their_neighbours() -> None:
    model, other = convolutions(8), convolutions(16)
    regularize(model, num_kept=4)
    norm: Any = model[1]
    wider: Any = other[1]
    norm.running_var.copy_(torch.tensor([1.0, 5, 1, 1, 9, 1, 1, 3]))
    norm.num_batches_tracked.fill_(7)
    report = resample(model, other)
    assert "1.running_var" in report.interpolated
    assert "1.num_batches_tracked" not in report.interpolated
    assert wider.num_batches_tracked == 7
    centres = (np.arange(16) + 0.5) / 2 - 0.5
    expected = np.interp(centres, np.arange(8), norm.running_var.numpy())
    np.testing.assert_allclose(wider.running_var.numpy(), expected, rtol=1e-6)


def test_regularised_biases_are_values_of_channels() -> None:
    model, other = nn.Linear(4, 16), nn.Linear(4, 48)
    regularize(model, num_kept=3, include=["weight", "bias"])
    resample(model, other)
    x = torch.zeros(1, 4)
    for before, after in ((model(x)[0].mean(), other(x)[0].mean()), (model(x)[0].std(), other(x)[0].std())):
        torch.testing.assert_close(after, before, rtol=0.05, atol=1e-4)


def test_what_a_small_grid_does_not_carry_is_reported() -> None:
    model, other = nn.Linear(3, 64), nn.Linear(3, 4)
    regularize(model, num_kept=60)
    coefficients = truncation_of(model, "weight")
    with torch.no_grad():
        coefficients.vector.fill_(1.0)
    report = resample(model, other)
    (tensor,) = report.tensors
    assert (tensor.before, tensor.after) == ((64, 3), (4, 3))
    assert (tensor.num_before, tensor.num_after) == (60, 12)
    assert tensor.energy_lost == pytest.approx(1 - 12 / 60)
    assert "80.00%" in str(report)


def test_settings_come_along() -> None:
    model, other = convolutions(16), convolutions(32)
    regularize(model, num_kept=9, axes=[0, 1], order_weights=[1, 2], precision="float16", exclude="8.*")
    with pytest.raises(StructureError, match=r"8.weight has shape \(2, 16, 1, 1\).*not truncated: regularise it too"):
        resample(model, other)
    assert truncated_tensors(other) == []
    model = convolutions(16)
    regularize(model, num_kept=9, axes=[0, 1], order_weights=[1, 2], precision="float16")
    resample(model, other)
    for tensor in truncated_tensors(other):
        truncation = tensor.truncation
        assert (tensor.axes, truncation.order_weights, truncation.precision) == ((0, 1), (1, 2), "float16")
    assert kept_counts(other) == kept_counts(model)


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(self.a(x))
        return y.mean(1)


def test_tied_weights_stay_tied() -> None:
    model, other = Tied(8), Tied(24)
    regularize(model, num_kept=5)
    resample(model, other)
    assert len(truncated_tensors(other)) == 1
    torch.testing.assert_close(other(torch.ones(1, 24)), model(torch.ones(1, 8)))


class Positions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.positions = nn.Linear(4, width), nn.Parameter(torch.zeros(1, 7, width))


@pytest.mark.parametrize(
    ("model", "other", "message"),
    [
        (nn.Linear(3, 8), nn.Linear(3, 8), "nothing to resample"),
        (smooth(nn.Linear(3, 8)), smooth(nn.Linear(3, 9)), "regularised already"),
        (smooth(nn.Linear(3, 8)), nn.Conv2d(3, 8, 3), r"weight: expected as many axes as in \(8, 3\)"),
        (smooth(nn.Linear(3, 8)), nn.Sequential(nn.Linear(3, 8)), "no parameter 'weight'; expected the same class"),
        (smooth(nn.Linear(3, 8)), nn.Linear(3, 8, bias=False), "'bias' is in only one of the two networks"),
        (smooth(convolutions(8)), convolutions(8, kernel=5), r"0.weight: axis 2 has 3 places.*only channels"),
        (smooth(nn.Embedding(9, 8)), nn.Embedding(12, 8), "weight: axis 0 has 9 places"),
        (smooth(nn.Embedding(9, 8)), nn.Embedding(9, 16, sparse=True), "weight of the other network cannot be regul"),
        (smooth(nn.MultiheadAttention(8, 2)), nn.MultiheadAttention(16, 2), "attention divides by the root"),
        (smooth(Positions(8)), Positions(16), r"positions has shape \(1, 7, 8\)"),
    ],
)
def test_what_cannot_be_resampled(model: nn.Module, other: nn.Module, message: str) -> None:
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(StructureError, match=message):
        resample(model, other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_weights_that_are_tied_as_input_and_output_are_refused() -> None:
    class Tied(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(40, width), nn.Linear(width, 40, bias=False)
            self.head.weight = self.table.weight

    wide, narrow = Tied(64), Tied(32)
    regularize(wide, num_kept=30)
    with pytest.raises(
        StructureError, match=r"table.weight: axis 1 has 64 places.*32, and it is tied: .*; untie it first"
    ):
        resample(wide, narrow)


def test_an_axis_that_is_not_transformed_keeps_its_size() -> None:
    model = nn.Linear(3, 8)
    regularize(model, num_kept=9, axes=[1])
    with pytest.raises(StructureError, match="axis 0 has 8 places, the other network's 16; it is not transformed"):
        resample(model, nn.Linear(3, 16))
    resample(model, other := nn.Linear(6, 8))
    torch.testing.assert_close(other(torch.ones(1, 6)), model(torch.ones(1, 3)))


def test_groups_and_depthwise_layers() -> None:
    model = smooth(convolutions(32, groups=4), num_kept=12)
    other = convolutions(64, groups=4).eval()
    resample(model, other)
    x = torch.rand(1, 3, 8, 8)
    assert relative(model(x), other(x)) < 0.03

    def depthwise(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, groups=width), nn.ReLU(), nn.Conv2d(width, 2, 1)
        )

    model, other = smooth(depthwise(32), num_kept=12), depthwise(64).eval()
    resample(model, other)
    assert relative(model(x), other(x)) < 0.03


@pytest.mark.parametrize("name", ["1.weight", "0.bias"])
def test_what_does_not_fit_into_the_other_type_is_reported(name: str) -> None:
    model, other = (nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2)) for width in (8, 32))
    regularize(model, num_kept=6)
    with torch.no_grad():
        tensor = truncated_tensors(model)[1].vector if name == "1.weight" else dict(model.named_parameters())[name]
        tensor[0] = 60_000.0 if name == "0.bias" else 140_000.0  # of the weight a half is left: 70,000
    before = copy.deepcopy(other.half().state_dict())
    if name == "0.bias":  # fits, also where it is interpolated
        resample(model, copy.deepcopy(other))
        with torch.no_grad():
            tensor[0] = 70_000.0
    with pytest.raises(ArgumentError, match=rf"{name}: its .* reach 70,000, and torch.float16 holds at most 65,504"):
        resample(model, other)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    resample(model, other.float())


def test_it_trains_on_and_saves(tmp_path: Path) -> None:
    names = {"bias": False, "affine": False, "running_stats": False}
    model = tailcut.create_model("unet", widths=(8, 16), **names)
    regularize(model, num_kept=10)
    other: Any = tailcut.create_model("unet", widths=(24, 48), **names)
    resample(model, other)
    x = torch.rand(1, 3, 16, 16)
    before = other(x)
    tailcut.save(other, tmp_path / "a.tailcut")
    loaded: Any = tailcut.load(tmp_path / "a.tailcut")
    torch.testing.assert_close(loaded(x), before)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    before.square().mean().backward()
    optimizer.step()
    assert other(x).square().mean() < before.square().mean()


def test_a_unet_of_half_the_width_has_the_same_dice(carvana_root: Path) -> None:
    model = tailcut.load("zoo:unet-759-float16")
    other: Any = tailcut.create_model(
        "unet", widths=(32, 64, 128, 256, 512), bias=False, affine=False, running_stats=False
    ).eval()
    resample(model, other)
    images, masks = open_dataset("carvana", "val", roots=[carvana_root]).batch([0, 12, 24, 36])
    cars, found = [], []
    for network in (fuse(model), fuse(other)):
        with torch.no_grad():
            cars.append(torch.cat([network(image[None]).argmax(1) for image in images]) == 1)
        common, sizes = cars[-1] & (masks == 1), cars[-1].sum((1, 2)) + (masks == 1).sum((1, 2))
        found.append((2 * common.sum((1, 2)) / sizes).mean().item())
    assert found[0] > 0.9
    assert found[1] == pytest.approx(found[0], abs=2e-3)
    assert (cars[0] == cars[1]).double().mean((1, 2)).min() > 0.99


def test_networks_must_have_been_changed_alike() -> None:
    """Pruned channels are no grid of those of another network, though all shapes could be filled."""
    pruned, fresh = (create_model("lenet5", conv_relu=True) for _ in range(2))
    tailcut.prune(pruned, torch.zeros(1, 1, 28, 28), {"conv1": torch.arange(20.0)}, 0.5)
    regularize(pruned, num_kept=9)
    with pytest.raises(StructureError, match="changed by prune, the other one by nothing: change the other one alike"):
        resample(pruned, fresh)
    tailcut.prune(fresh, torch.zeros(1, 1, 28, 28), {"conv1": torch.arange(20.0)}, 0.25)
    assert [tensor.after[0] for tensor in resample(pruned, fresh).tensors][:1] == [15]


def test_finer_grids_carry_what_a_whole_tensor_has() -> None:
    def network(width: int) -> nn.Sequential:
        torch.manual_seed(width)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, bias=False), nn.Conv2d(width, width, 3, bias=False), nn.Conv2d(width, 4, 1)
        )

    source, wider = network(8), network(12)
    regularize(source)
    report = resample(source, wider)
    assert [tensor.energy_lost for tensor in report.tensors] == [0, 0, 0]
    assert all(tensor.num_after > tensor.num_before for tensor in report.tensors)
    back = network(8)
    resample(wider, back)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(back(images), source(images))


def test_truncated_norms_are_resampled() -> None:
    def network(width: int) -> nn.Sequential:
        torch.manual_seed(width)
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 1))

    source, wider = network(8), network(16)
    regularize(source, num_kept=20)
    truncate_norms(source, 3)
    with torch.no_grad():
        truncation_of(source, "1.bias").vector.copy_(torch.tensor([1.0, -0.5, 0.25]))
    resample(source, wider)
    assert kept_counts(wider) == kept_counts(source)
    bias = truncation_of(source, "1.bias")
    expected = idct(torch.cat([bias.coefficients(), torch.zeros(13)])) * math.sqrt(2)
    torch.testing.assert_close(wider[1].bias, expected)
