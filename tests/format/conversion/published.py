"""The networks of HRank, HRankPlus, CHIP and CFDP as data: names and shapes of their tensors, and what they compute.

Written down by hand from what their code builds. The forwards use torch's functions on the tensors by their own names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as f

Shapes = dict[str, tuple[int, ...]]
Numbers = Mapping[str, Tensor]


def conv(name: str, inner: int, outer: int, kernel: int, *, bias: bool = False, groups: int = 1) -> Shapes:
    weight: Shapes = {f"{name}.weight": (outer, inner // groups, kernel, kernel)}
    return weight | ({f"{name}.bias": (outer,)} if bias else {})


def norm(name: str, channels: int) -> Shapes:
    vectors = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def linear(name: str, inner: int, outer: int) -> Shapes:
    return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}


def filled(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Numbers that keep the maps at a sound size, and no two layers alike."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            found[name] = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) == 1:
            found[name] = 0.5 + 0.5 * torch.rand(shape, generator=generator)
        else:
            fan_in = torch.tensor(shape[1:]).prod().item()
            found[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    return found


def kept(channels: int, rate: float) -> int:
    return int(channels * (1 - rate))


@dataclass
class Layers:
    """Their layers, applied in float64."""

    numbers: Numbers

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0, *, depthwise: bool = False) -> Tensor:
        weight, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        return f.conv2d(x, weight, bias, stride, padding, groups=x.shape[1] if depthwise else 1)

    def norm(self, x: Tensor, name: str) -> Tensor:
        parts = [self._get(f"{name}.{part}") for part in ("running_mean", "running_var", "weight", "bias")]
        return f.batch_norm(x, *parts)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return f.linear(x, self._get(f"{name}.weight"), self._get(f"{name}.bias"))

    def _get(self, name: str) -> Any:
        return self.numbers[name].double() if name in self.numbers else None


VGG_NAMES = (0, 1, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16)  # the pooling takes the numbers between
VGG_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def vgg(rates: Sequence[float]) -> Shapes:
    shapes: Shapes = {}
    inner = 3
    for name, width, rate in zip(VGG_NAMES, VGG_WIDTHS, [*rates, 0.0], strict=True):
        outer = kept(width, rate)
        shapes |= conv(f"features.conv{name}", inner, outer, 3, bias=True) | norm(f"features.norm{name}", outer)
        inner = outer
    return (
        shapes
        | linear("classifier.linear1", 512, 512)
        | norm("classifier.norm1", 512)
        | linear("classifier.linear2", 512, 10)
    )


def run_vgg(numbers: Numbers, x: Tensor) -> Tensor:
    layers = Layers(numbers)
    previous = 0
    for name in VGG_NAMES:
        if name - previous > 1:
            x = f.max_pool2d(x, 2)
        x = layers.norm(layers.conv(x, f"features.conv{name}", 1, 1), f"features.norm{name}").relu()
        previous = name
    x = layers.linear(f.avg_pool2d(x, 2).flatten(1), "classifier.linear1")
    return layers.linear(layers.norm(x, "classifier.norm1").relu(), "classifier.linear2")


def resnet(rates: Sequence[float], *, blocks: int, last: str) -> Shapes:
    """Rates of the first convolution, of the outputs of stages 1 and 2, of each block's first convolution."""
    stages = (kept(16, rates[1]), kept(32, rates[2]), 64)
    inner = kept(16, rates[0])
    shapes = conv("conv1", 3, inner, 3) | norm("bn1", inner)
    for stage, outer in enumerate(stages):
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            middle = kept(16 << stage, rates[3 + stage * blocks + block])
            shapes |= conv(f"{name}.conv1", inner, middle, 3) | norm(f"{name}.bn1", middle)
            shapes |= conv(f"{name}.conv2", middle, outer, 3) | norm(f"{name}.bn2", outer)
            inner = outer
    return shapes | linear(last, 64, 10)


def run_resnet(numbers: Numbers, x: Tensor) -> Tensor:
    layers = Layers(numbers)
    x = layers.norm(layers.conv(x, "conv1", 1, 1), "bn1").relu()
    blocks = sum(name.startswith("layer1.") and name.endswith("conv1.weight") for name in numbers)
    for stage in (1, 2, 3):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = layers.norm(layers.conv(x, f"{name}.conv1", stride, 1), f"{name}.bn1").relu()
            y = layers.norm(layers.conv(y, f"{name}.conv2", 1, 1), f"{name}.bn2")
            more = y.shape[1] - x.shape[1]
            # Their shortcut pads by floor division, which cuts where there are fewer channels.
            x = (y + f.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more // 2, more - more // 2))).relu()
    return layers.linear(x.mean((2, 3)), "fc" if "fc.weight" in numbers else "linear")


# 1 x 1; before 3 x 3, 3 x 3; before 5 x 5, 5 x 5; after pooling.
INCEPTIONS = {
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}


def googlenet(rates: Sequence[float]) -> Shapes:
    """The first rate is read by nobody: the first convolution keeps its 192 channels."""

    def layer(name: str, place: int, inner: int, outer: int, kernel: int) -> Shapes:
        return conv(f"{name}.{place}", inner, outer, kernel, bias=True) | norm(f"{name}.{place + 1}", outer)

    shapes = layer("pre_layers", 0, 3, 192, 3)
    inner = 192
    for (block, widths), rate in zip(INCEPTIONS.items(), rates[1:], strict=True):
        name, left = f"inception_{block}", 1 - rate
        one, before3, three, before5, five, pooled = widths
        inside = int(five * left)
        three, five = (three, five) if block == "b5" else (int(three * left), inside)
        shapes |= layer(f"{name}.branch1x1", 0, inner, one, 1)
        shapes |= layer(f"{name}.branch3x3", 0, inner, before3, 1) | layer(f"{name}.branch3x3", 3, before3, three, 3)
        shapes |= layer(f"{name}.branch5x5", 0, inner, before5, 1) | layer(f"{name}.branch5x5", 3, before5, inside, 3)
        shapes |= layer(f"{name}.branch5x5", 6, inside, five, 3) | layer(f"{name}.branch_pool", 1, inner, pooled, 1)
        inner = one + three + five + pooled
    return shapes | linear("linear", inner, 10)


def run_googlenet(numbers: Numbers, x: Tensor) -> Tensor:
    layers = Layers(numbers)

    def layer(x: Tensor, name: str, place: int, kernel: int) -> Tensor:
        return layers.norm(layers.conv(x, f"{name}.{place}", 1, kernel // 2), f"{name}.{place + 1}").relu()

    x = layer(x, "pre_layers", 0, 3)
    for block in INCEPTIONS:
        name = f"inception_{block}"
        three = layer(layer(x, f"{name}.branch3x3", 0, 1), f"{name}.branch3x3", 3, 3)
        five = layer(layer(x, f"{name}.branch5x5", 0, 1), f"{name}.branch5x5", 3, 3)
        five = layer(five, f"{name}.branch5x5", 6, 3)
        pooled = layer(f.max_pool2d(x, 3, 1, 1), f"{name}.branch_pool", 1, 1)
        x = torch.cat([layer(x, f"{name}.branch1x1", 0, 1), three, five, pooled], dim=1)
        if block in ("b3", "e4"):
            x = f.max_pool2d(x, 3, 2, 1)
    return layers.linear(x.mean((2, 3)), "linear")


def densenet(rates: Sequence[float]) -> Shapes:
    inner = 24
    shapes = conv("conv1", 3, inner, 3)
    for block in range(3):
        own = rates[1 + 13 * block : 14 + 13 * block]
        for place, rate in enumerate(own[:12]):
            name, growth = f"dense{block + 1}.{place}", kept(12, rate)
            shapes |= norm(f"{name}.bn1", inner) | conv(f"{name}.conv1", inner, growth, 3)
            inner += growth
        if block < 2:
            outer = kept(inner, own[12])
            name = f"trans{block + 1}"
            shapes |= norm(f"{name}.bn1", inner) | conv(f"{name}.conv1", inner, outer, 1)
            inner = outer
    return shapes | norm("bn", inner) | linear("fc", inner, 10)


def run_densenet(numbers: Numbers, x: Tensor) -> Tensor:
    layers = Layers(numbers)
    x = layers.conv(x, "conv1", 1, 1)
    for block in (1, 2, 3):
        for place in range(12):
            name = f"dense{block}.{place}"
            x = torch.cat([x, layers.conv(layers.norm(x, f"{name}.bn1").relu(), f"{name}.conv1", 1, 1)], dim=1)
        if block < 3:
            y = layers.conv(layers.norm(x, f"trans{block}.bn1").relu(), f"trans{block}.conv1")
            x = f.avg_pool2d(y, 2)
    return layers.linear(layers.norm(x, "bn").relu().mean((2, 3)), "fc")


DEPTHS = (3, 4, 6, 3)


def resnet50(rates: Sequence[float]) -> Shapes:
    """Rates of the first convolution, of the outputs of stages 1 to 3, of each block's inner convolutions."""
    stages = [kept(256 << stage, rate) for stage, rate in enumerate((*rates[1:4], 0.0))]
    inner = kept(64, rates[0])
    shapes = conv("conv1", 3, inner, 7) | norm("bn1", inner)
    number = 4
    for stage, outer in enumerate(stages):
        for block in range(DEPTHS[stage]):
            name, middle = f"layer{stage + 1}.{block}", kept(64 << stage, rates[number])
            shapes |= conv(f"{name}.conv1", inner, middle, 1) | norm(f"{name}.bn1", middle)
            shapes |= conv(f"{name}.conv2", middle, middle, 3) | norm(f"{name}.bn2", middle)
            shapes |= conv(f"{name}.conv3", middle, outer, 1) | norm(f"{name}.bn3", outer)
            if block == 0:
                shapes |= conv(f"{name}.downsample.0", inner, outer, 1) | norm(f"{name}.downsample.1", outer)
            inner, number = outer, number + 1
    return shapes | linear("fc", 2048, 1000)


def run_resnet50(numbers: Numbers, x: Tensor) -> Tensor:
    layers = Layers(numbers)
    x = f.max_pool2d(layers.norm(layers.conv(x, "conv1", 2, 3), "bn1").relu(), 3, 2, 1)
    for stage, depth in enumerate(DEPTHS):
        for block in range(depth):
            x = bottleneck(layers, x, f"layer{stage + 1}.{block}", 2 if stage and block == 0 else 1)
    return layers.linear(x.mean((2, 3)), "fc")


def bottleneck(layers: Layers, x: Tensor, name: str, stride: int) -> Tensor:
    y = layers.norm(layers.conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
    y = layers.norm(layers.conv(y, f"{name}.conv2", stride, 1), f"{name}.bn2").relu()
    y = layers.norm(layers.conv(y, f"{name}.conv3"), f"{name}.bn3")
    if f"{name}.downsample.0.weight" in layers.numbers:
        x = layers.norm(layers.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
    return (y + x).relu()


V1_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def mobilenet_v1(rates: Sequence[float]) -> Shapes:
    """A rate for the first convolution, which is not pruned, and for all blocks but the last."""
    inner = 32
    shapes = conv("conv1.0", 3, inner, 3) | norm("conv1.1", inner)
    for block, (width, rate) in enumerate(zip(V1_WIDTHS, (*rates[1:], 0.0), strict=True)):
        name, outer = f"features.{block}", kept(width, rate)
        shapes |= conv(f"{name}.0", inner, inner, 3, groups=inner) | norm(f"{name}.1", inner)
        shapes |= conv(f"{name}.3", inner, outer, 1) | norm(f"{name}.4", outer)
        inner = outer
    return shapes | linear("classifier.0", 1024, 1000)


def run_mobilenet_v1(numbers: Numbers, x: Tensor) -> Tensor:
    layers = Layers(numbers)
    x = layers.norm(layers.conv(x, "conv1.0", 2, 1), "conv1.1").relu()
    for block, stride in enumerate(V1_STRIDES):
        name = f"features.{block}"
        x = layers.norm(layers.conv(x, f"{name}.0", stride, 1, depthwise=True), f"{name}.1").relu()
        x = layers.norm(layers.conv(x, f"{name}.3"), f"{name}.4").relu()
    return layers.linear(x.mean((2, 3)), "classifier.0")


# Expansion, channels, blocks, stride of the first.
V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def inverted_residual(name: str, inner: int, outer: int, expansion: int) -> Shapes:
    middle = inner * expansion
    shapes: Shapes = {}
    place = 0
    if expansion > 1:
        shapes |= conv(f"{name}.0", inner, middle, 1) | norm(f"{name}.1", middle)
        place = 3
    shapes |= conv(f"{name}.{place}", middle, middle, 3, groups=middle) | norm(f"{name}.{place + 1}", middle)
    return shapes | conv(f"{name}.{place + 3}", middle, outer, 1) | norm(f"{name}.{place + 4}", outer)


def run_inverted_residual(layers: Layers, x: Tensor, name: str, stride: int) -> Tensor:
    y, place = x, 0
    if f"{name}.7.weight" in layers.numbers:
        y, place = layers.norm(layers.conv(y, f"{name}.0"), f"{name}.1").clamp(0, 6), 3
    y = layers.norm(layers.conv(y, f"{name}.{place}", stride, 1, depthwise=True), f"{name}.{place + 1}").clamp(0, 6)
    y = layers.norm(layers.conv(y, f"{name}.{place + 3}"), f"{name}.{place + 4}")
    return x + y if stride == 1 and x.shape == y.shape else y


def mobilenet_v2(rates: Sequence[float]) -> Shapes:
    """A rate for the first convolution, which is not pruned, and for each stage."""
    inner, number = 32, 1
    shapes = conv("features.0.0", 3, inner, 3) | norm("features.0.1", inner)
    for (expansion, width, depth, _), rate in zip(V2_STAGES, rates[1:], strict=True):
        for _ in range(depth):
            shapes |= inverted_residual(f"features.{number}.conv", inner, kept(width, rate), expansion)
            inner, number = kept(width, rate), number + 1
    shapes |= conv(f"features.{number}.0", inner, 1280, 1) | norm(f"features.{number}.1", 1280)
    return shapes | linear("classifier.1", 1280, 1000)


def run_mobilenet_v2(numbers: Numbers, x: Tensor) -> Tensor:
    layers = Layers(numbers)
    x = layers.norm(layers.conv(x, "features.0.0", 2, 1), "features.0.1").clamp(0, 6)
    number = 1
    for _, _, depth, stride in V2_STAGES:
        for block in range(depth):
            x = run_inverted_residual(layers, x, f"features.{number}.conv", stride if block == 0 else 1)
            number += 1
    x = layers.norm(layers.conv(x, "features.18.0"), "features.18.1").clamp(0, 6)
    return layers.linear(x.mean((2, 3)), "classifier.1")


@dataclass
class PublishedNetwork:
    """A network of their code: how its tensors are shaped for a list of rates, and what it computes."""

    model: str
    shapes: Callable[[Sequence[float]], Shapes]
    run: Callable[[Numbers, Tensor], Tensor]
    rates: Sequence[float]
    normalize: str
    side: int

    @property
    def originals(self) -> Sequence[float]:
        return [0.0] * len(self.rates)


def _resnet(blocks: int, last: str) -> Callable[[Sequence[float]], Shapes]:
    return lambda rates: resnet(rates, blocks=blocks, last=last)


# The rates are those that their pages give as examples.
NETWORKS = {
    network.model: network
    for network in (
        PublishedNetwork("vgg16_bn_cifar", vgg, run_vgg, [0.21] * 7 + [0.75] * 5, "cifar10", 32),
        PublishedNetwork("resnet56", _resnet(9, "fc"), run_resnet, [0.0] + [0.18] * 29, "cifar10", 32),
        PublishedNetwork(
            "resnet110", _resnet(18, "linear"), run_resnet, [0.0] + [0.2] * 2 + [0.3] * 18 + [0.35] * 36, "cifar10", 32
        ),
        PublishedNetwork(
            "googlenet_cifar", googlenet, run_googlenet, [0.3] + [0.6] * 2 + [0.7] * 5 + [0.8] * 2, "cifar10", 32
        ),
        PublishedNetwork(
            "densenet40",
            densenet,
            run_densenet,
            [0.0] + [0.4] * 12 + [0.2] + [0.5] * 12 + [0.3] + [0.6] * 12,
            "cifar10",
            32,
        ),
        PublishedNetwork("resnet50", resnet50, run_resnet50, [0.0] + [0.1] * 3 + [0.35] * 16, "imagenet", 64),
        PublishedNetwork("mobilenetv1", mobilenet_v1, run_mobilenet_v1, [0.0] + [0.3] * 12, "imagenet", 64),
        PublishedNetwork("mobilenetv2", mobilenet_v2, run_mobilenet_v2, [0.0] + [0.3] * 7, "imagenet", 64),
    )
}
