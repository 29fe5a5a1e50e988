"""The networks of DCTNet as data: names and shapes of their tensors, and what they compute; see published.py."""

from itertools import pairwise

import torch
from tests.format.conversion.published import (
    DEPTHS,
    V2_STAGES,
    Layers,
    Numbers,
    Shapes,
    bottleneck,
    conv,
    inverted_residual,
    linear,
    norm,
    run_inverted_residual,
)
from torch import Tensor
from torch.nn import functional as f

LEVELS = (256, 512, 1024, 2048)


def stages(template: str, channels: int) -> Shapes:
    """The four stages of ResNet-50 behind so many channels; `template` names a stage by its number from 0 on."""
    shapes: Shapes = {}
    inner = channels
    for stage, depth in enumerate(DEPTHS):
        middle, outer = 64 << stage, 256 << stage
        for block in range(depth):
            name = f"{template.format(stage, stage + 1)}.{block}"
            shapes |= conv(f"{name}.conv1", inner, middle, 1) | norm(f"{name}.bn1", middle)
            shapes |= conv(f"{name}.conv2", middle, middle, 3) | norm(f"{name}.bn2", middle)
            shapes |= conv(f"{name}.conv3", middle, outer, 1) | norm(f"{name}.bn3", outer)
            if block == 0:
                shapes |= conv(f"{name}.downsample.0", inner, outer, 1) | norm(f"{name}.downsample.1", outer)
            inner = outer
    return shapes


def run_stages(layers: Layers, x: Tensor, template: str, strides: tuple[int, ...]) -> list[Tensor]:
    maps = []
    for stage, (depth, stride) in enumerate(zip(DEPTHS, strides, strict=True)):
        for block in range(depth):
            name = f"{template.format(stage, stage + 1)}.{block}"
            x = bottleneck(layers, x, name, stride if block == 0 else 1)
        maps.append(x)
    return maps


def resnet50_dct(channels: int) -> Shapes:
    return stages("model.{0}", channels) | linear("fc", 2048, 1000)


def run_resnet50_dct(numbers: Numbers, x: Tensor) -> Tensor:
    layers = Layers(numbers)
    return layers.linear(run_stages(layers, x, "model.{0}", (1, 1, 2, 2))[-1].mean((2, 3)), "fc")


def mobilenet_v2_dct(channels: int) -> Shapes:
    shapes = inverted_residual("features.0.conv", channels, 16, 1)
    inner, number = 16, 1
    for expansion, width, depth, _ in V2_STAGES[1:]:
        for _ in range(depth):
            shapes |= inverted_residual(f"features.{number}.conv", inner, width, expansion)
            inner, number = width, number + 1
    return shapes | conv("conv.0", inner, 1280, 1) | norm("conv.1", 1280) | linear("classifier", 1280, 1000)


def run_mobilenet_v2_dct(numbers: Numbers, x: Tensor) -> Tensor:
    layers = Layers(numbers)
    number = 0
    for _, _, depth, stride in V2_STAGES:
        for block in range(depth):
            x = run_inverted_residual(layers, x, f"features.{number}.conv", stride if block == 0 else 1)
            number += 1
    x = layers.norm(layers.conv(x, "conv.0"), "conv.1").clamp(0, 6)
    return layers.linear(x.mean((2, 3)), "classifier")


def detector(channels: int, *, masks: bool) -> Shapes:
    """mmdetection 1's Faster or Mask R-CNN with a ResNet-50 whose stem is there but not used."""
    shapes = conv("backbone.conv1", 3, 64, 7) | norm("backbone.bn1", 64) | stages("backbone.layer{1}", channels)
    for level, width in enumerate(LEVELS):
        shapes |= conv(f"neck.lateral_convs.{level}.conv", width, 256, 1, bias=True)
        shapes |= conv(f"neck.fpn_convs.{level}.conv", 256, 256, 3, bias=True)
    shapes |= conv("rpn_head.rpn_conv", 256, 256, 3, bias=True)
    shapes |= conv("rpn_head.rpn_cls", 256, 3, 1, bias=True) | conv("rpn_head.rpn_reg", 256, 12, 1, bias=True)
    shapes |= linear("bbox_head.shared_fcs.0", 256 * 7 * 7, 1024) | linear("bbox_head.shared_fcs.1", 1024, 1024)
    shapes |= linear("bbox_head.fc_cls", 1024, 81) | linear("bbox_head.fc_reg", 1024, 4 * 81)
    if masks:
        for place in range(4):
            shapes |= conv(f"mask_head.convs.{place}.conv", 256, 256, 3, bias=True)
        shapes |= {"mask_head.upsample.weight": (256, 256, 2, 2), "mask_head.upsample.bias": (256,)}
        shapes |= conv("mask_head.conv_logits", 256, 81, 1, bias=True)
    return shapes


def run_pyramid(numbers: Numbers, x: Tensor) -> list[Tensor]:
    layers = Layers(numbers)
    maps = run_stages(layers, x, "backbone.layer{1}", (1, 2, 2, 2))
    laterals = [layers.conv(x, f"neck.lateral_convs.{level}.conv") for level, x in enumerate(maps)]
    for below, above in pairwise(range(3, -1, -1)):
        laterals[above] = laterals[above] + f.interpolate(laterals[below], scale_factor=2.0)
    outputs = [layers.conv(x, f"neck.fpn_convs.{level}.conv", 1, 1) for level, x in enumerate(laterals)]
    return [*outputs, outputs[-1][:, :, ::2, ::2]]


def run_rpn(numbers: Numbers, x: Tensor) -> tuple[Tensor, Tensor]:
    layers = Layers(numbers)
    x = layers.conv(x, "rpn_head.rpn_conv", 1, 1).relu()
    return layers.conv(x, "rpn_head.rpn_cls"), layers.conv(x, "rpn_head.rpn_reg")


def run_box_head(numbers: Numbers, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Regions (n, 256, 7, 7) to scores (n, 81) and changes of boxes (n, 81, 4)."""
    layers = Layers(numbers)
    x = layers.linear(regions.flatten(1), "bbox_head.shared_fcs.0").relu()
    x = layers.linear(x, "bbox_head.shared_fcs.1").relu()
    return layers.linear(x, "bbox_head.fc_cls"), layers.linear(x, "bbox_head.fc_reg").unflatten(1, (81, 4))


def run_mask_head(numbers: Numbers, regions: Tensor) -> Tensor:
    """Regions (n, 256, 14, 14) to logits (n, 81, 28, 28)."""
    layers = Layers(numbers)
    for place in range(4):
        regions = layers.conv(regions, f"mask_head.convs.{place}.conv", 1, 1).relu()
    weight, bias = (numbers[f"mask_head.upsample.{part}"].double() for part in ("weight", "bias"))
    return layers.conv(f.conv_transpose2d(regions, weight, bias, 2).relu(), "mask_head.conv_logits")


def anchors(level: int, rows: int, columns: int) -> Tensor:
    """Their anchors: first and last pixel, (cells, 3, 4)."""
    stride = 4 << level
    centre = 0.5 * (stride - 1)
    boxes = []
    for ratio in (0.5, 1.0, 2.0):
        height, width = stride * 8 * ratio**0.5, stride * 8 / ratio**0.5
        half = torch.tensor([0.5 * (width - 1), 0.5 * (height - 1)], dtype=torch.float64)
        boxes.append(torch.cat([centre - half, centre + half]).round())
    cells = [(column * stride, row * stride) * 2 for row in range(rows) for column in range(columns)]
    return torch.tensor(cells, dtype=torch.float64)[:, None] + torch.stack(boxes)
