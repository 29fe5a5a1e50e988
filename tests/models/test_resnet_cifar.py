from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.by_hand import ByHand, image, names_and_shapes, on_meta, relu
from torch import Tensor, nn

from tailcut.counting import count_macs, count_parameters
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError
from tailcut.models import resnet20, resnet56, resnet110
from tailcut.models.resnet_cifar import PadShortcut


def checkpoint(root: Path, name: str) -> dict[str, Tensor]:
    stored = torch.load(root / "weights" / f"{name}-cifar10.th", weights_only=True, map_location="cpu")
    return {key.removeprefix("module."): tensor for key, tensor in stored["state_dict"].items()}


def forward(by: ByHand, x: Tensor, blocks_per_stage: int) -> Tensor:
    """The oracle: option A is written with NumPy's way of indexing."""
    x = relu(by.norm(by.conv(x, "conv1", 1, 1), "bn1"))
    for stage in (1, 2, 3):
        for number in range(blocks_per_stage):
            block, stride = f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1
            y = relu(by.norm(by.conv(x, f"{block}.conv1", stride, 1), f"{block}.bn1"))
            y = by.norm(by.conv(y, f"{block}.conv2", 1, 1), f"{block}.bn2")
            if stride == 2:
                before = (y.shape[1] - x.shape[1]) // 2
                y[:, before : before + x.shape[1]] += x[:, :, ::2, ::2]
            else:
                y = y + x
            x = relu(y)
    return by.linear(x.mean((2, 3)), "linear")


@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
@pytest.mark.parametrize(("build", "blocks_per_stage"), [(resnet20, 3), (resnet56, 9), (resnet110, 18)])
def test_forward(build: Any, blocks_per_stage: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build(num_classes=7, width=3)
    by, x = ByHand(model), image(2, 3, *size)
    torch.testing.assert_close(model(x), forward(by, x, blocks_per_stage))


def test_counts_of_cfdp() -> None:
    """ResNet-56: 0.85 M parameters and 125.49 M MACs."""
    model = on_meta(resnet56)
    assert count_parameters(model) == 853_018
    assert round(count_macs(model, torch.empty(1, 3, 32, 32)).total / 1e6, 2) == 125.49


@pytest.mark.parametrize(("build", "millions"), [(resnet20, 0.27), (resnet56, 0.85), (resnet110, 1.7)])
def test_counts_of_the_original(build: Any, millions: float) -> None:
    """He et al., table 6."""
    digits = len(str(millions)) - 2
    assert round(count_parameters(on_meta(build)) / 1e6, digits) == millions


@pytest.mark.parametrize(("name", "build", "num_correct"), [("resnet20", resnet20, 94), ("resnet56", resnet56, 96)])
def test_published_checkpoint(weights_root: Path, cifar10_root: Path, name: str, build: Any, num_correct: int) -> None:
    """Names, shapes, shortcuts and normalisation are right if the network sees what its author's does."""
    weights = checkpoint(weights_root, name)
    model = build(normalize=True).eval()
    expected = [entry for entry in names_and_shapes(model) if not entry[0].endswith("num_batches_tracked")]
    assert [(key, tuple(tensor.shape)) for key, tensor in weights.items()] == expected
    model.load_state_dict(weights)
    images, labels = open_dataset("cifar10", "test", roots=cifar10_root).batch(range(100))
    with torch.inference_mode():
        assert abs(int((model(images).argmax(1) == labels).sum()) - num_correct) <= 1


@pytest.mark.slow
def test_published_accuracy(weights_root: Path, cifar10_root: Path) -> None:
    """Of ResNet-20: the test above has images for all, and ResNet-56 takes three times as long on the whole split."""
    model = resnet20(normalize=True).eval()
    model.load_state_dict(checkpoint(weights_root, "resnet20"))
    dataset = open_dataset("cifar10", "test", roots=cifar10_root)
    num_correct = 0
    for start in range(0, len(dataset), 500):
        images, labels = dataset.batch(range(start, start + 500))
        with torch.inference_mode():
            num_correct += int((model(images).argmax(1) == labels).sum())
    assert 100 * num_correct / len(dataset) == pytest.approx(91.73, abs=0.015)  # one image either way


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize(("stride", "before", "after"), [(2, 8, 8), (2, 2, 3), (1, 0, 4), (3, 0, 0)])
def test_pad_shortcut(size: tuple[int, int], stride: int, before: int, after: int) -> None:
    """The oracle: the array that NumPy's indexing describes."""
    x = torch.rand(2, 5, *size)
    expected = np.zeros((2, before + 5 + after, -(-size[0] // stride), -(-size[1] // stride)), dtype=np.float32)
    expected[:, before : before + 5] = x.numpy()[:, :, ::stride, ::stride]
    shortcut = PadShortcut(stride, before, after)
    np.testing.assert_array_equal(shortcut(x).numpy(), expected)
    assert str(shortcut) == f"PadShortcut(stride={stride}, pad_before={before}, pad_after={after})"


def test_shortcuts_follow_their_attributes() -> None:
    """After channels are taken away, the pad widths say where those that are left lie."""
    model = resnet20(width=16)
    shortcut = model.layer2[0].shortcut
    assert isinstance(shortcut, PadShortcut)
    assert (shortcut.stride, shortcut.pad_before, shortcut.pad_after) == (2, 8, 8)
    shortcut.pad_before, shortcut.pad_after = 3, 0
    assert shortcut(torch.rand(1, 13, 4, 4)).shape == (1, 16, 2, 2)
    shortcuts = [module for module in resnet20(width=5).modules() if isinstance(module, PadShortcut)]
    assert [(module.pad_before, module.pad_after) for module in shortcuts] == [(2, 3), (5, 5)]


def test_normalize() -> None:
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (x.numpy() - mean[:, None, None]) / std[:, None, None]
    torch.manual_seed(0)
    inside = resnet20(width=2, normalize=True).double().eval()
    outside = resnet20(width=2).double().eval()
    outside.load_state_dict(inside.state_dict())
    torch.testing.assert_close(inside(x), outside(torch.from_numpy(expected)))
    assert list(inside.state_dict()) == list(outside.state_dict())


def test_channels_that_do_not_follow_from_width() -> None:
    """Widths of a published pruned network: the first shortcut takes the middle 13 of 16 channels."""
    torch.manual_seed(0)
    model = resnet20(channels=(16, 13, 26, 64))
    by, x = ByHand(model), image(2, 3, 8, 8)
    stem = relu(by.norm(by.conv(x, "conv1", 1, 1), "bn1"))
    y = relu(by.norm(by.conv(stem, "layer1.0.conv1", 1, 1), "layer1.0.bn1"))
    y = by.norm(by.conv(y, "layer1.0.conv2", 1, 1), "layer1.0.bn2") + stem[:, 2:15]
    torch.testing.assert_close(model.layer1[0](stem), relu(y))
    assert model.linear.in_features == 64
    assert "MiddleChannels(first=2, count=13)" in str(model)
    assert [tuple(p.shape) for p in resnet20(channels=(5, 5, 10, 20)).parameters()] == [
        tuple(p.shape) for p in resnet20(width=5).parameters()
    ]


@pytest.mark.parametrize("channels", [(16, 16, 32), (16, 32, 16, 64), (16, 16, 32, 0)])
def test_wrong_channels(channels: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="resnet20: channels must be"):
        resnet20(channels=channels)


def test_children_by_name() -> None:
    names = [name for name, _ in resnet110(width=1).named_children()]
    assert names == ["normalize", "conv1", "bn1", "relu", "layer1", "layer2", "layer3", "avgpool", "linear"]


def test_he_initialisation() -> None:
    torch.manual_seed(0)
    block = resnet20(width=32).layer3[1]
    assert isinstance(block.conv2, nn.Conv2d)
    assert block.conv2.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"width": -1}, {"width": 65_537}])
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    key = next(iter(arguments))
    with pytest.raises(ArgumentError, match=f"resnet56: {key} must be an integer from 1 to 65,536"):
        resnet56(**arguments)
