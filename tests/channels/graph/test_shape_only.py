"""Forwards for their shapes alone, against the same computed in full."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.channels.slim_networks import EXACT
from torch import Tensor, nn

from tailcut.channels.graph.memory_layout import Layout
from tailcut.channels.graph.shape_only import ShapesOnly, attempt

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 8)),
    "dilated, in groups": (lambda: nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), groups=2, bias=False), (2, 4, 9, 8)),
    "depthwise, same": (lambda: nn.Conv1d(4, 8, 3, groups=4, padding="same"), (2, 4, 9)),
    "volumes": (lambda: nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 2)), (1, 2, 4, 5, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 4, 5, 3)),
    "linear": (lambda: nn.Linear(4, 6), (2, 3, 4)),
    "linear without bias": (lambda: nn.Linear(4, 6, bias=False), (5, 4)),
    "batch norm": (lambda: nn.BatchNorm2d(4), (2, 4, 5, 6)),
    "batch norm without scales": (lambda: nn.BatchNorm1d(4, affine=False), (3, 4)),
    "batch norm in evaluation": (lambda: nn.BatchNorm2d(4).eval(), (2, 4, 5, 6)),
    "activations": (
        lambda: nn.Sequential(
            nn.ReLU(), nn.SiLU(), nn.ReLU6(), nn.Hardtanh(), nn.Hardswish(), nn.GELU(), nn.ELU(), nn.Sigmoid()
        ),
        (2, 4, 5, 6),
    ),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), (2, 3, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("channels_last", ["", "input", "input and weights"])
def test_outputs_and_gradients_have_the_shapes_and_strides_of_a_full_run(name: str, channels_last: str) -> None:
    build, shape = LAYERS[name]
    layer, x = build(), torch.rand(shape)
    if channels_last:
        if x.ndim != 4:
            pytest.skip("channels last is a layout of four axes")
        if channels_last == "input and weights":
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.to(memory_format=torch.channels_last)

    def both() -> tuple[Tensor, ...]:
        y = layer(x.requires_grad_())
        return y, *torch.autograd.grad(y.sum(), [x, *layer.parameters()])

    expected = both()
    with ShapesOnly():
        found = both()
    assert [one.shape for one in found] == [one.shape for one in expected]
    assert found[0].stride() == expected[0].stride()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("size", [1, 4, 40])
@pytest.mark.parametrize("batch", [1, 2])
def test_maps_of_tokens_are_not_convolved(kernel: int, groups: int, size: int, batch: int) -> None:
    layer, tokens = nn.Conv2d(16, 16, kernel, padding=kernel // 2, groups=groups), torch.rand(batch, size * size, 16)
    maps = tokens.transpose(1, 2).unflatten(2, (size, size))
    expected = layer(maps)
    with ShapesOnly():
        found = layer(maps)
    assert not bool(found.any())
    assert Layout.of(found).is_like(Layout.of(expected))  # strides of axes of size 1 mean nothing


def test_products_are_not_computed() -> None:
    with ShapesOnly():
        assert not bool(nn.Conv2d(3, 4, 3)(torch.rand(1, 3, 5, 5)).any())
        assert not bool((torch.rand(2, 3) @ torch.rand(3, 2)).any())
        assert not bool((torch.rand(3, 2).t() @ torch.rand(3, 2)).any())


MISFITS: dict[str, Callable[[], Any]] = {
    "channels": lambda: nn.Conv2d(3, 4, 3)(torch.rand(1, 4, 5, 5)),
    "kernel": lambda: nn.Conv2d(3, 4, 3)(torch.rand(1, 3, 2, 2)),
    "groups": lambda: torch.conv2d(torch.rand(1, 4, 5, 5), torch.rand(3, 2, 1, 1), groups=2),
    "bias": lambda: torch.conv2d(torch.rand(1, 4, 5, 5), torch.rand(3, 4, 1, 1), torch.rand(4)),
    "width": lambda: nn.Linear(3, 4)(torch.rand(2, 5)),
    "wide bias": lambda: torch.addmm(torch.rand(3), torch.rand(2, 5), torch.rand(5, 4)),
    "statistics": lambda: nn.BatchNorm2d(3)(torch.rand(2, 4, 5, 5)),
    "scales": lambda: nn.functional.batch_norm(torch.rand(2, 4, 5), None, None, torch.rand(3), training=True),
    "batches": lambda: torch.bmm(torch.rand(2, 3, 4), torch.rand(3, 4, 5)),
    "type": lambda: torch.mm(torch.rand(2, 3), torch.rand(3, 4).double()),
}


@pytest.mark.parametrize("name", MISFITS)
def test_sizes_that_do_not_fit_fail_as_they_do_in_full(name: str) -> None:
    with pytest.raises(RuntimeError) as expected:
        MISFITS[name]()
    with ShapesOnly(), pytest.raises(RuntimeError) as found:
        MISFITS[name]()
    assert str(found.value) == str(expected.value)


def test_code_that_reads_numbers_runs_in_full() -> None:
    layer, x = nn.Linear(3, 1, bias=False), torch.ones(1, 3)
    nn.init.ones_(layer.weight)

    def run() -> str:
        return "large" if layer(x).item() > 2 else "small"

    assert attempt(run, shapes_only=True) == attempt(run, shapes_only=False) == "large"

    def fail() -> str:
        if layer(x).item() < 2:
            raise ValueError("zeros")
        return "in full"

    assert attempt(fail, shapes_only=True) == "in full"
    with pytest.raises(ValueError, match="wrong"):
        attempt(lambda: (_ for _ in ()).throw(ValueError("wrong")), shapes_only=True)


@pytest.mark.parametrize("kind", ["grouped", "U-shaped", "attention", "dropped channels and paths"])
def test_networks(kind: str) -> None:
    case = EXACT[kind]
    model, x = case.build().double().eval(), case.example()
    expected = model(x)
    with ShapesOnly():
        found = model(x)
    assert found.shape == expected.shape
