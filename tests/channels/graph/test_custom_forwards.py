"""Layers with a forward of their own. The oracle is the network in which the next layer does not read what went."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.errors import ArgumentError

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


class PaddedConv(nn.Conv2d):
    """Pads by itself, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (1, 0, 1, 0))
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class StandardizedConv(nn.Conv2d):
    """Brings each filter to mean 0 and variance 1 and scales it."""

    def __init__(self, inner: int, outer: int, size: int) -> None:
        super().__init__(inner, outer, size)
        self.gain = nn.Parameter(torch.rand(outer, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(rows, None, None, self.gain.view(-1), training=True, momentum=0.0)
        return functional.conv2d(x, weight.reshape_as(self.weight), self.bias)


class LowRankLinear(nn.Linear):
    """A linear layer and a second, narrow way beside it."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer)
        self.down, self.up = nn.Linear(inner, 2, bias=False), nn.Linear(2, outer, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional.linear(x, self.weight, self.bias) + self.up(self.down(x))
        return y


class UpConv(nn.ConvTranspose2d):
    """Doubles what it is given."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        groups = self.groups
        return functional.conv_transpose2d(2 * x, self.weight, self.bias, self.stride, groups=groups)


class NormAndReLU(nn.BatchNorm2d):
    """Batch norm with its activation, as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return functional.relu(functional.batch_norm(x, mean, var, self.weight, self.bias, self.training, 0.1))


class GroupNormAndReLU(nn.GroupNorm):
    """Group norm with its activation."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(functional.group_norm(x, self.num_groups, self.weight, self.bias))


def settled(*layers: nn.Module) -> Any:
    """A network in evaluation mode whose norms are far from doing nothing."""
    torch.manual_seed(0)
    for module in layers:
        if isinstance(module, nn.BatchNorm2d):
            for x in (module.weight.data, module.bias.data, module.running_mean):
                nn.init.normal_(x)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return nn.Sequential(*layers).eval()


def without_reading(network: Any, layer: int, places: list[int]) -> Any:
    """A copy of the network, one of whose layers ignores some of its input channels."""
    result = copy.deepcopy(network)
    with torch.no_grad():
        result[layer].weight[:, places] = 0
    return result


@pytest.mark.parametrize("first", [PaddedConv(3, 6, 2), StandardizedConv(3, 6, 2), UpConv(3, 6, 2)])
def test_channels_of_the_layer_are_removed(first: nn.Module, tmp_path: Path) -> None:
    network = settled(first, NormAndReLU(6), nn.Conv2d(6, 4, 2))
    expected = without_reading(network, 2, [0, 1, 2])(X)
    fresh = copy.deepcopy(network)
    tailcut.prune(network, X, {"0": torch.arange(6.0)}, 0.5)
    assert network[2].in_channels == network[1].num_features == 3
    assert torch.allclose(network(X), expected, atol=1e-5)
    tailcut.save(network, tmp_path / "slim.tailcut")
    assert torch.equal(tailcut.load(tmp_path / "slim.tailcut", into=fresh).eval()(X), network(X))


def test_gains_go_with_their_filters() -> None:
    network = settled(StandardizedConv(3, 6, 2), nn.ReLU(), nn.Conv2d(6, 4, 2))
    gain = network[0].gain.detach().clone()
    tailcut.prune(network, X, {"0": torch.tensor([5.0, 0, 4, 1, 3, 2])}, 0.5)
    assert torch.equal(network[0].gain, gain[[0, 2, 4]])


def test_its_input_channels_are_removed() -> None:
    network = settled(nn.Conv2d(3, 6, 2), NormAndReLU(6), PaddedConv(6, 4, 2), nn.Conv2d(4, 5, 1))
    expected = without_reading(network, 2, [3, 4, 5])(X)
    tailcut.prune(network, X, {"0": -torch.arange(6.0)}, 0.5)
    assert torch.allclose(network(X), expected, atol=1e-5)


def test_a_depthwise_one_goes_with_what_it_reads() -> None:
    network = settled(nn.Conv2d(3, 6, 1), PaddedConv(6, 6, 2, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    expected = without_reading(network, 3, [0, 1, 2])(X)
    tailcut.prune(network, X, {"0": torch.arange(6.0), "1": torch.arange(6.0)}, 0.5)
    assert network[1].groups == 3
    assert torch.allclose(network(X), expected, atol=1e-5)


def test_group_norm_keeps_its_groups() -> None:
    network = settled(nn.Conv2d(3, 8, 1), GroupNormAndReLU(2, 8), nn.Conv2d(8, 4, 1))
    tailcut.prune(network, X, {"0": torch.arange(8.0)}, 0.5)
    assert (network[1].num_groups, network[1].num_channels) == (2, 4)
    assert network(X).shape == (2, 4, 9, 9)


def test_a_linear_layer_is_narrowed() -> None:
    network = settled(nn.Flatten(), LowRankLinear(243, 6), nn.ReLU(), nn.Linear(6, 4))
    expected = without_reading(network, 3, [0, 1, 2])(X)
    tailcut.prune(network, X, {"1": torch.arange(6.0)}, 0.5)
    assert (network[1].out_features, network[1].up.out_features, network[1].down.in_features) == (3, 3, 243)
    assert torch.allclose(network(X), expected, atol=1e-5)


class MixedFilters(nn.Conv2d):
    """Each filter is a mean of all."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight.softmax(0), self.bias)


class Unused(nn.Conv2d):
    """Does not convolve."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2, 1, 1) * self.weight.sum((1, 2, 3)).view(1, -1, 1, 1)


class OtherGroups(nn.Conv2d):
    """Convolves by other filters than its own."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, torch.ones(6, 3, 2, 2), self.bias)


@pytest.mark.parametrize(
    "first", [MixedFilters(3, 6, 2), Unused(3, 6, 2), OtherGroups(3, 6, 2), UpConv(3, 6, 2, groups=3)]
)
def test_what_cannot_be_followed_is_named_and_left(first: nn.Module) -> None:
    network = settled(first, nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    scores = {"2": torch.arange(4.0)}
    report = tailcut.prune(network, X, scores, 0.5)
    assert "0" in {part.name for part in report.skipped if "custom forward" in part.reason}
    assert (network[2].in_channels, network[2].out_channels) == (6, 2)
    alone = settled(copy.deepcopy(first), nn.ReLU(), nn.Conv2d(6, 4, 1))
    with pytest.raises(ArgumentError, match=r"nothing can be pruned: .*0: it has a custom forward"):
        tailcut.prune(alone, X, {"2": torch.ones(4)}, 0.5)


def test_rate_zero_changes_nothing() -> None:
    network = settled(StandardizedConv(3, 6, 2), NormAndReLU(6), PaddedConv(6, 4, 2), nn.Conv2d(4, 5, 1))
    before = network(X)
    tailcut.prune(network, X, {"0": torch.arange(6.0)}, 0.0)
    assert torch.equal(network(X), before)


class Flipped(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight.flip(1), self.bias)


class Interleaved(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        parts = self.weight.view(self.out_channels, 2, -1, 1, 1)
        return functional.conv2d(x, parts.transpose(1, 2).reshape(self.weight.shape), self.bias)


class Rotated(nn.Conv2d):
    """Of one pixel or more: only the kernel's axes are turned."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight.flip(2, 3).transpose(2, 3), self.bias)


class Softened(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight.softmax(1), self.bias)


class Normalised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, functional.normalize(self.weight, dim=1), self.bias)


def behind(kind: type[nn.Conv2d], size: int = 1) -> tuple[nn.Module, torch.Tensor]:
    """A network with such a layer behind one whose first half of channels is dead, and its scores."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), kind(8, 4, size))
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter[:4] = 0
    return model.eval(), torch.tensor([0.0] * 4 + [1.0] * 4)


@pytest.mark.parametrize("kind", [Flipped, Interleaved])
def test_weights_that_are_moved_along_the_input_keep_it(kind: type[nn.Conv2d]) -> None:
    model, scores = behind(kind)
    with pytest.raises(ArgumentError, match="the forward of 2 moves its weight along its input channels"):
        tailcut.prune(model, X, {"0": scores}, 0.5)


@pytest.mark.parametrize("kind", [Softened, Normalised, lambda *sizes: StandardizedConv(*sizes)])
def test_weights_computed_over_the_input_are_told(kind: Any) -> None:
    model, scores = behind(kind)
    report = tailcut.prune(model, X, {"0": scores}, 0.5)
    assert "2 computes its weight over all its input channels" in str(report)


def test_kernels_may_be_turned() -> None:
    model, scores = behind(Rotated, 3)
    with torch.no_grad():
        before = model(X)
        tailcut.prune(model, X, {"0": scores}, 0.5)
        torch.testing.assert_close(model(X), before)
