"""Buffers that two layers share: their channels go together, or not at all."""

import pytest
import torch
from torch import Tensor, nn

from tailcut.channels.pruning.prune import prune
from tailcut.errors import ArgumentError

X = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class SharedStatistics(nn.Module):
    """Two branches whose batch norms have the same running statistics, each with gains of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.norm, self.other = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.norm.running_mean = self.other.running_mean = torch.arange(8.0)
        self.norm.running_var = self.other.running_var = torch.arange(1.0, 9.0)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.cat([self.norm(self.a(x)), self.other(self.b(x))], 1))
        return found


def test_shared_statistics_couple_their_layers() -> None:
    model = SharedStatistics().eval()
    scores = torch.arange(8.0)
    with torch.no_grad():
        model.head.weight[:, [0, 1, 2, 3, 8, 9, 10, 11]] = 0  # what goes of both, if they go together
        before = model(X)
        prune(model, X, {"a": scores, "b": scores.roll(1)}, rates=0.5)
        torch.testing.assert_close(model(X), before)
    assert model.other.running_mean is model.norm.running_mean
    assert torch.equal(model.norm.running_mean, torch.arange(4.0, 8.0))  # type: ignore[arg-type]


def test_statistics_shared_with_a_layer_that_stays_whole_stay() -> None:
    model = SharedStatistics().eval()
    with pytest.raises(ArgumentError, match="nothing can be pruned: a, b: ignored"):
        prune(model, X, {"a": torch.arange(8.0)}, rates={"a": 0.5}, ignore=["b"])


class Noted(nn.Module):
    """A network that keeps its batch norm's mean under a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.register_buffer("mean", self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.b(self.norm(self.a(x)))
        return found


def test_a_second_name_of_a_buffer_follows() -> None:
    model = Noted().eval()
    prune(model, X, {"a": torch.arange(8.0)}, rates=0.5)
    assert model.a.out_channels == 4
    assert model.mean is model.norm.running_mean
    assert model.norm.running_mean is not None
    assert len(model.norm.running_mean) == 4
