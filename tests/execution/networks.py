"""Small networks that the tests of execution share, and what they ask of a fused network."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import tailcut
from tailcut.execution import FusedNetwork, fuse
from tailcut.execution.ir.expression import Affine
from tailcut.execution.lazy.lazy_map import LazyMap, as_tensor

STRATEGIES = ("low_rank", "auto")


def resnet18(width: int = 8) -> nn.Module:
    return tailcut.create_model("resnet18", width=width, num_classes=10, small_input=True)


class InvertedResidual(nn.Module):
    def __init__(self, last: int, width: int, stride: int) -> None:
        super().__init__()
        hidden = 4 * last
        self.joined = stride == 1 and last == width
        self.conv = nn.Sequential(
            nn.Conv2d(last, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.joined else y


class MobileNetV2(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 12, 3, 2, 1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU6(inplace=True),
            InvertedResidual(12, 16, 1),
            InvertedResidual(16, 16, 1),
            InvertedResidual(16, 24, 2),
            InvertedResidual(24, 24, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(24, 10),
        )

    example = (2, 3, 24, 24)


class ViT(nn.Module):
    """A transformer of torch's own layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(width, 4, 64, batch_first=True) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    example = (2, 3, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        y: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return y


class Between(nn.Module):
    """Two wide convolutions with a function between them, which is given the map and the network."""

    def __init__(self, between: Callable[..., Tensor] = lambda y, _: torch.relu(y)) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.between = between

    example = (2, 8, 7, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.between(self.a(x), self))
        return y


def between(function: Callable[..., Tensor] = lambda y, _: torch.relu(y)) -> tuple[Between, Tensor]:
    """A truncated `Between` in float64, and an input."""
    model = Between(function).double()
    tailcut.regularize(model, num_kept=6)
    return model, torch.randn(Between.example, dtype=torch.float64)


def assert_same_gradients(
    fused: FusedNetwork, model: nn.Module, x: Tensor, *, strategies: Sequence[str] = STRATEGIES
) -> None:
    """Output and gradients of the fused network are those of the network itself, at the first call and the second."""
    results: list[list[Tensor | None]] = []
    for strategy in (None, *strategies, *strategies):
        fused.strategy = strategy or "auto"
        model.zero_grad()
        own = x.clone().requires_grad_()
        output = (model if strategy is None else fused)(own)
        output.square().sum().backward()
        results.append([output, own.grad, *(parameter.grad for parameter in model.parameters())])
    for found in results[1:]:
        for one, expected in zip(found, results[0], strict=True):
            assert (one is None) == (expected is None)
            if one is not None:
                torch.testing.assert_close(one, expected)


def fused_as(model: nn.Module, strategy: str) -> FusedNetwork:
    """The fused network, with plain tiles, in which layers run by a strategy."""
    fused = fuse(model, engine="torch")
    fused.strategy = strategy
    return fused


def strategies_of(fused: FusedNetwork) -> dict[str, str]:
    return {layer.name: layer.strategy for layer in fused.report().layers}


def reasons_of(fused: FusedNetwork) -> dict[str, str]:
    return {layer.name: layer.reason for layer in fused.report().layers}


def lazy_map(
    channels: int = 6,
    k: int = 2,
    *,
    sizes: tuple[int, ...] = (3, 4, 5),
    axis: int = 1,
    offset: float = 0.0,
    shift: bool = True,
) -> LazyMap:
    """A map in float64 that no network made; `sizes` are those of batch and positions."""
    source, matrix = torch.randn(k, *sizes).double() + offset, torch.randn(channels, k).double()
    part = Affine(channels, source, matrix, torch.randn(channels).double() if shift else None)
    return LazyMap([part], axis, ["conv"])


def full_of(x: Any) -> Tensor:
    """The full map; `x` itself stays unwritten."""
    result: Tensor = as_tensor(x.like(x.parts) if isinstance(x, LazyMap) and x._full is None else x, "a test reads it")
    return result
