"""Small networks in the manner of well-known ones, written without torchvision."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.execution import FusedNetwork

STRATEGIES = ("low_rank", "auto")


class AlexNet(nn.Sequential):
    def __init__(self, width: int = 16, num_classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(3, width, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(width, 3 * width, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(3 * width, 4 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(16 * width, 64),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(64, num_classes),
        )

    example = (2, 3, 95, 87)


class VGG(nn.Sequential):
    def __init__(self, widths: Sequence[int | str] = (16, 16, "M", 24, "M", 32, 32, "M")) -> None:
        layers: list[nn.Module] = []
        last = 3
        for width in widths:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(last, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            last = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 10))

    example = (2, 3, 24, 20)


class BasicBlock(nn.Module):
    def __init__(self, last: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(last, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module | None = None
        if stride != 1 or last != width:
            self.shortcut = nn.Sequential(nn.Conv2d(last, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.shortcut is None else self.shortcut(x)
        return torch.relu(y)


class Bottleneck(nn.Module):
    def __init__(self, last: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(last, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 1, bias=False),
            nn.BatchNorm2d(2 * width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or last != 2 * width:
            self.shortcut = nn.Sequential(nn.Conv2d(last, 2 * width, 1, stride, bias=False), nn.BatchNorm2d(2 * width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """ResNet18 (basic blocks) or one like ResNet50 (bottlenecks) on CIFAR's shapes."""

    def __init__(
        self, widths: Sequence[int] = (16, 24, 32, 48), *, bottleneck: bool = False, image_net_stem: bool = False
    ) -> None:
        super().__init__()
        first = widths[0]
        stem: list[nn.Module] = [
            nn.Conv2d(
                3, first, 7 if image_net_stem else 3, 2 if image_net_stem else 1, 3 if image_net_stem else 1, bias=False
            ),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        ]
        if image_net_stem:
            stem.append(nn.MaxPool2d(3, 2, 1))
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        last = first
        for stage, width in enumerate(widths):
            for number in range(2):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append((Bottleneck if bottleneck else BasicBlock)(last, width, stride))
                last = 2 * width if bottleneck else width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(last, 10)

    example = (2, 3, 32, 32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))
        return y


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


class Inception(nn.Module):
    def __init__(self, last: int, width: int) -> None:
        super().__init__()

        def conv(inner: int, outer: int, size: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(inner, outer, size, padding=size // 2, bias=False), nn.BatchNorm2d(outer, eps=1e-3), nn.ReLU()
            )

        self.one = conv(last, width, 1)
        self.two = nn.Sequential(conv(last, width, 1), conv(width, width, 3))
        self.three = nn.Sequential(conv(last, width, 1), conv(width, width, 5))
        self.four = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv(last, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.two(x), self.three(x), self.four(x)], 1)


class GoogLeNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Inception(16, 12),
            Inception(48, 12),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Inception(48, 16),
            nn.AvgPool2d(3, 2, 1),
            nn.Conv2d(64, 32, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )

    example = (2, 3, 23, 25)


class DenseLayer(nn.Module):
    def __init__(self, last: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(last),
            nn.ReLU(inplace=True),
            nn.Conv2d(last, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


class DenseNet(nn.Sequential):
    def __init__(self, growth: int = 12) -> None:
        super().__init__(
            nn.Conv2d(3, 24, 3, padding=1, bias=False),
            DenseLayer(24, growth),
            DenseLayer(24 + growth, growth),
            nn.BatchNorm2d(24 + 2 * growth),
            nn.ReLU(inplace=True),
            nn.Conv2d(24 + 2 * growth, 24, 1, bias=False),
            nn.AvgPool2d(2, 2),
            DenseLayer(24, growth),
            nn.BatchNorm2d(24 + growth),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24 + growth, 10),
        )

    example = (2, 3, 16, 18)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return y


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 4)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = self.mlp(self.norm2(x))
        return x + y


class ViT(nn.Module):
    def __init__(self, width: int = 32, depth: int = 2, *, torch_layers: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width))
        layers: list[nn.Module] = [Block(width) for _ in range(depth)]
        if torch_layers:
            layers = [nn.TransformerEncoderLayer(width, 4, 64, batch_first=True) for _ in range(depth)]
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    example = (2, 3, 16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
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
