from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta, relu
from torch import Tensor, nn
from torch.nn import functional as f

from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import resnet18, resnet34, resnet50, resnet101


def parts(model: nn.Module) -> tuple[int, int]:
    """Weights, and all parameters that are not batch norm's."""
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    norms = sum(count_parameters(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    return weights, count_parameters(model) - norms


def test_counts_of_frequency_regularization() -> None:
    """Table 2's ResNet18-ref: 11,173,962 in the first version of the paper, 11,162,624 in the published one."""
    model = on_meta(resnet18, num_classes=10, small_input=True)
    assert count_parameters(model) == 11_173_962
    assert parts(model)[0] - 3 * 64 * 9 == 11_162_624


def test_counts_of_cfdp() -> None:
    """ResNet-50: 25.50 M parameters, which leave out batch norm, and 4.09 B MACs, of which the table says FLOPs."""
    model = on_meta(resnet50)
    assert round(parts(model)[1] / 1e6, 2) == 25.50
    assert round(count_macs(model, torch.empty(1, 3, 224, 224)).total / 1e9, 2) == 4.09


def stage_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if name.count(".") == 1 and "layer" in name]


def forward(by: ByHand, x: Tensor, blocks: list[str], *, small_input: bool) -> Tensor:
    """The oracle: v1.5, whatever the depth; a block has a bottleneck if it has three convolutions."""
    if small_input:
        x = relu(by.norm(by.conv(x, "conv1", 1, 1), "bn1"))
    else:
        x = f.max_pool2d(relu(by.norm(by.conv(x, "conv1", 2, 3), "bn1")), 3, 2, 1)
    for block in blocks:
        stride = 2 if block.endswith(".0") and not block.startswith("layer1") else 1
        if f"{block}.conv3.weight" in by.numbers:
            y = relu(by.norm(by.conv(x, f"{block}.conv1"), f"{block}.bn1"))
            y = relu(by.norm(by.conv(y, f"{block}.conv2", stride, 1), f"{block}.bn2"))
            y = by.norm(by.conv(y, f"{block}.conv3"), f"{block}.bn3")
        else:
            y = relu(by.norm(by.conv(x, f"{block}.conv1", stride, 1), f"{block}.bn1"))
            y = by.norm(by.conv(y, f"{block}.conv2", 1, 1), f"{block}.bn2")
        if f"{block}.downsample.0.weight" in by.numbers:
            x = by.norm(by.conv(x, f"{block}.downsample.0", stride), f"{block}.downsample.1")
        x = relu(x + y)
    return by.linear(x.mean((2, 3)), "fc")


@pytest.mark.parametrize("small_input", [False, True])
@pytest.mark.parametrize(("build", "num_blocks"), [(resnet18, 8), (resnet34, 16), (resnet50, 16), (resnet101, 33)])
def test_forward(build: Any, num_blocks: int, small_input: bool) -> None:
    torch.manual_seed(0)
    model = build(num_classes=7, width=3, small_input=small_input)
    blocks = stage_names(model)
    assert len(blocks) == num_blocks
    by, x = ByHand(model), image(2, 3, 33, 20)
    torch.testing.assert_close(model(x), forward(by, x, blocks, small_input=small_input))


def test_he_initialisation() -> None:
    torch.manual_seed(0)
    weight = resnet18(width=32).layer3[1].conv2.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def test_stem_for_small_images() -> None:
    """Children by name, which an edit of the stem relies on."""
    children = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    for small_input, side in ((True, 32), (False, 8)):
        model = resnet18(width=1, small_input=small_input)
        assert [name for name, _ in model.named_children()] == children
        assert model.maxpool(model.relu(model.bn1(model.conv1(torch.rand(1, 3, 32, 32))))).shape == (1, 1, side, side)


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"width": -1}, {"width": 65_537}, {"width": 1.5}])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    key = next(iter(arguments))
    with pytest.raises(ArgumentError, match=f"resnet50: {key} must be an integer from 1 to 65,536"):
        resnet50(**arguments)
