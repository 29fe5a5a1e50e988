"""Convolutions as matrix products: torch's own, in float64, is the oracle."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.training import im2col
from tailcut.training.im2col import SmallMapsByMatmul, fast_convolutions

CPU = torch.device("cpu")
# Two roundings to bfloat16 of a result, each at most 2 ** -9 of it, and those of the factors.
TOLERANCE = 0.01


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(im2col, "MIN_ELEMENTS", 1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the weights that were convolved as matrices."""
    found: list[torch.Size] = []
    apply: Callable[..., Tensor] = im2col._Im2colConvolution.apply

    def record(images: Tensor, weight: Tensor, *rest: object) -> object:
        found.append(weight.shape)
        return apply(images, weight, *rest)

    monkeypatch.setattr(im2col._Im2colConvolution, "apply", record)
    return found


def relative_error(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((4, 4), (3, 3), 1, 1),
        ((2, 2), (3, 3), 1, 1),
        ((1, 1), (3, 3), 1, 1),
        ((8, 8), (3, 3), 2, 1),
        ((7, 7), (3, 3), 2, 1),
        ((9, 6), (5, 2), (3, 2), (1, 0)),
        ((4, 3), (1, 3), 1, (0, 1)),
        ((3, 3), (3, 3), 1, 0),
    ],
)
def test_output_and_gradients_are_those_of_torch(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    channels_last: bool,
    calls: list[torch.Size],
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 5, kernel, stride, padding)
    images = torch.randn(3, 6, *size)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    wanted_images = images.double().requires_grad_()
    oracle = copy.deepcopy(layer).double()
    wanted = oracle(wanted_images)
    direction = torch.randn_like(wanted)
    wanted.backward(direction)

    images.requires_grad_()
    with SmallMapsByMatmul(), torch.autocast("cpu", torch.bfloat16):
        found = layer(images)
    found.backward(direction.to(found.dtype))

    assert calls == [layer.weight.shape]
    assert found.dtype == torch.bfloat16
    assert relative_error(found, wanted) < TOLERANCE
    assert images.grad is not None
    assert wanted_images.grad is not None
    assert relative_error(images.grad, wanted_images.grad) < TOLERANCE
    for parameter, exact in zip(layer.parameters(), oracle.parameters(), strict=True):
        assert parameter.grad is not None
        assert exact.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert relative_error(parameter.grad, exact.grad) < TOLERANCE


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), 4),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), 4),
        (nn.Conv2d(4, 4, 3, padding="same"), 4),
        (nn.Conv2d(4, 4, 1), 4),
        (nn.Conv2d(4, 4, 3, padding=1), 5),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), 5),
    ],
    ids=str,
)
def test_other_convolutions_are_left_to_torch(layer: nn.Module, size: int, calls: list[torch.Size]) -> None:
    images = torch.randn(2, 4, size, size)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = layer(images)
        with SmallMapsByMatmul():
            found = layer(images)
    assert not calls
    assert torch.equal(found, wanted)


def test_other_precisions_and_calls_are_left_to_torch(calls: list[torch.Size]) -> None:
    images, layer = torch.randn(2, 4, 4, 4), nn.Conv2d(4, 4, 3, padding=1)
    with SmallMapsByMatmul():
        assert torch.equal(layer(images), functional.conv2d(images, layer.weight, layer.bias, padding=1))
        with torch.autocast("cpu", torch.float16):
            assert layer(images).dtype == torch.float16
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="channels"):
            layer(torch.randn(2, 3, 4, 4))
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="Kernel size"):
            nn.Conv2d(4, 4, 7)(images)
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="type"):
            layer(images.double())
    assert not calls


def test_functional_calls_with_numbers(calls: list[torch.Size]) -> None:
    torch.manual_seed(0)
    images, weight = torch.randn(2, 4, 4, 4), torch.randn(4, 4, 3, 3)
    with SmallMapsByMatmul(), torch.autocast("cpu", torch.bfloat16):
        found = functional.conv2d(images, weight, None, 2, 1, 1, 1)
    assert calls == [weight.shape]
    assert relative_error(found, functional.conv2d(images, weight, stride=2, padding=1)) < TOLERANCE


def test_inputs_without_gradients_and_frozen_weights(calls: list[torch.Size]) -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    with SmallMapsByMatmul(), torch.autocast("cpu", torch.bfloat16):
        second(first(torch.randn(2, 4, 4, 4))).sum().backward()
    assert len(calls) == 2
    assert first.weight.grad is not None
    assert second.weight.grad is None


@pytest.mark.parametrize(
    ("device", "precision", "has_unit", "wanted"),
    [
        (CPU, "bf16", True, True),
        (CPU, "bf16", False, False),
        (CPU, "fp32", True, False),
        (torch.device("cuda"), "bf16", True, False),
    ],
)
def test_only_trainings_in_bfloat16_on_cpus_with_the_unit(
    device: torch.device, precision: str, has_unit: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(im2col, "has_matrix_unit", lambda: has_unit)
    assert isinstance(fast_convolutions(device, precision), SmallMapsByMatmul) == wanted
