"""Convolutions and attention as matrix products: torch's own, in float64, are the oracle."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.structure import create_model
from tailcut.training import matrix_unit
from tailcut.training.matrix_unit import OnMatrixUnit, computes_bfloat16, fast_products, warn_of_emulation

CPU = torch.device("cpu")
# Two roundings to bfloat16 of a result, each at most 2 ** -9 of it, and those of the factors.
TOLERANCE = 0.01


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_unit, "MIN_ELEMENTS", 1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the weights that were convolved as matrices."""
    found: list[torch.Size] = []
    apply: Callable[..., Tensor] = matrix_unit._Im2colConvolution.apply

    def record(images: Tensor, weight: Tensor, *rest: object) -> object:
        found.append(weight.shape)
        return apply(images, weight, *rest)

    monkeypatch.setattr(matrix_unit._Im2colConvolution, "apply", record)
    return found


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the queries whose attention ran as products."""
    found: list[torch.Size] = []
    attend = matrix_unit._attend

    def record(queries: Tensor, *rest: Tensor, **settings: Any) -> Tensor:
        found.append(queries.shape)
        return attend(queries, *rest, **settings)

    monkeypatch.setattr(matrix_unit, "_attend", record)
    return found


def attention(tensors: Sequence[Tensor], **settings: Any) -> Tensor:
    queries, keys, values = tensors
    return functional.scaled_dot_product_attention(queries, keys, values, **settings)


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
    with OnMatrixUnit(), torch.autocast("cpu", torch.bfloat16):
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
        with OnMatrixUnit():
            found = layer(images)
    assert not calls
    assert torch.equal(found, wanted)


def test_other_precisions_and_calls_are_left_to_torch(calls: list[torch.Size]) -> None:
    images, layer = torch.randn(2, 4, 4, 4), nn.Conv2d(4, 4, 3, padding=1)
    with OnMatrixUnit():
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
    with OnMatrixUnit(), torch.autocast("cpu", torch.bfloat16):
        found = functional.conv2d(images, weight, None, 2, 1, 1, 1)
    assert calls == [weight.shape]
    assert relative_error(found, functional.conv2d(images, weight, stride=2, padding=1)) < TOLERANCE


def test_inputs_without_gradients_and_frozen_weights(calls: list[torch.Size]) -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    with OnMatrixUnit(), torch.autocast("cpu", torch.bfloat16):
        second(first(torch.randn(2, 4, 4, 4))).sum().backward()
    assert len(calls) == 2
    assert first.weight.grad is not None
    assert second.weight.grad is None


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("num_queries", [5, 2])
def test_attention_is_that_of_torch(scale: float | None, num_queries: int, attended: list[torch.Size]) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(2, 3, n, 8) for n in (num_queries, 5, 5)]
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    wanted = attention(exact, scale=scale)
    direction = torch.randn_like(wanted)
    wanted.backward(direction)
    for tensor in tensors:
        tensor.requires_grad_()
    with OnMatrixUnit(), torch.autocast("cpu", torch.bfloat16):
        found = attention(tensors, scale=scale)
    found.backward(direction.to(found.dtype))
    assert attended == [tensors[0].shape]
    assert found.dtype == torch.bfloat16
    assert relative_error(found, wanted) < TOLERANCE
    for tensor, oracle in zip(tensors, exact, strict=True):
        assert tensor.grad is not None
        assert oracle.grad is not None
        assert relative_error(tensor.grad, oracle.grad) < 3 * TOLERANCE  # through three more roundings


@pytest.mark.parametrize(
    ("shapes", "settings"),
    [
        (((5, 8),) * 3, {"is_causal": True}),
        (((5, 8),) * 3, {"attn_mask": torch.zeros(5, 5)}),
        (((5, 8),) * 3, {"dropout_p": 0.5}),
        (((300, 8),) * 3, {}),
    ],
    ids=["causal", "mask", "dropout", "long"],
)
def test_other_attention_is_left_to_torch(
    shapes: tuple[tuple[int, int], ...], settings: dict[str, Any], attended: list[torch.Size]
) -> None:
    tensors = [torch.randn(2, 3, *shape) for shape in shapes]
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        wanted = attention(tensors, **settings)
        torch.manual_seed(1)
        with OnMatrixUnit():
            found = attention(tensors, **settings)
    assert not attended
    assert torch.equal(found, wanted)


def test_a_vision_transformer_trains_with_it(attended: list[torch.Size]) -> None:
    torch.manual_seed(0)
    network = create_model("vit", width=32, depth=2, num_heads=2, mlp_width=32)
    with OnMatrixUnit(), torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 3, 32, 32)).sum().backward()
    assert attended == [torch.Size([2, 2, 65, 16])] * 2


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
    monkeypatch.setattr(matrix_unit, "has_amx_bf16", lambda: has_unit)
    assert isinstance(fast_products(device, precision), OnMatrixUnit) == wanted


@pytest.mark.parametrize(
    ("device", "precision", "is_emulated", "warns"),
    [
        (CPU, "bf16", True, True),
        (CPU, "bf16", False, False),
        (CPU, "fp32", True, False),
        (torch.device("cuda"), "bf16", True, False),
    ],
)
def test_a_training_in_emulated_bfloat16_says_so(
    device: torch.device,
    precision: str,
    is_emulated: bool,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(matrix_unit, "computes_bfloat16", lambda: not is_emulated)
    warn_of_emulation(device, precision)
    assert ("--set training.precision=fp32" in caplog.text) == warns


def test_a_cpu_of_bfloat16_is_known_by_its_instructions() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "flags" not in flags.read_text():
        pytest.skip("needs the flags of an x86 processor in /proc/cpuinfo")
    has_instructions = {"avx512bw", "avx512vl", "avx512dq"} <= set(flags.read_text().split())
    assert computes_bfloat16() == has_instructions
