"""Training steps in bfloat16 with small maps and short sequences as matrix products, against torch's own way."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare
from tailcut.structure import create_model
from tailcut.training.matrix_unit import OnMatrixUnit, has_amx_bf16

# (channels in, channels out, side of the input, stride); VGG-16-BN on CIFAR-10 and ResNet-18 on 128 pixels have these.
LAYERS = ((256, 512, 8, 2), (256, 256, 4, 1), (256, 512, 4, 1), (512, 512, 4, 1), (512, 512, 2, 1), (512, 512, 1, 1))
TOKENS = (17, 65, 197)  # of attention with 8 heads of 64 numbers
NETWORKS = {"vgg16_bn_cifar": 32, "resnet18": 128, "vit": 32}  # with the side of their images
BATCHES = (8, 32, 128)
TINY_BATCHES = (1, 2)  # a processor without instructions for bfloat16 takes a hundred times as long


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return one table of layers, attention and networks."""
    del machine
    torch.manual_seed(0)
    batches = TINY_BATCHES if scale.is_tiny else BATCHES
    layers, tokens = (LAYERS, TOKENS) if scale.is_full else (LAYERS[:1], TOKENS[:1])
    rows = [_layer_row(layer, batch, scale) for layer in layers for batch in batches]
    rows += [_attention_row(count, batches[-1], scale) for count in tokens]
    if scale.is_full:
        for name, side in NETWORKS.items():
            steps = [_network_step(name, side, 128, in_bfloat16=is_rounded) for is_rounded in (True, False)]
            rows.append(_row(name, 128, steps[0], scale, in_float32=steps[1]))
    unit = "has" if has_amx_bf16() else "has not"
    notes = [
        "Forward and backward, of networks with the step of SGD; float32 of these alone. "
        f"This machine {unit} AMX; only where it has does a training run this way."
    ]
    columns = {
        "step of": "",
        "batch": "d",
        "torch ms": ".2f",
        "as products ms": ".2f",
        "times faster": ".2f",
        "float32 / products": ".2f",
    }
    return [Table("Small maps and short sequences under bfloat16 autocast", columns, rows, notes)]


def _layer_row(layer: tuple[int, int, int, int], batch: int, scale: Scale) -> Row:
    num_in, num_out, side, stride = layer
    convolution = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
    images = torch.randn(batch, num_in, side, side).to(memory_format=torch.channels_last).requires_grad_()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = convolution(images).sum()
        torch.autograd.grad(loss, (images, convolution.weight))

    return _row(f"{num_in} to {num_out} on {side} x {side}, stride {stride}", batch, step, scale)


def _attention_row(tokens: int, batch: int, scale: Scale) -> Row:
    queries, keys, values = (torch.randn(batch, 8, tokens, 64, requires_grad=True) for _ in range(3))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = scaled_dot_product_attention(queries, keys, values).sum()
        torch.autograd.grad(loss, (queries, keys, values))

    return _row(f"attention over {tokens} tokens", batch, step, scale)


def _network_step(name: str, side: int, batch: int, *, in_bfloat16: bool) -> Callable[[], None]:
    network: nn.Module = nn.Module.to(create_model(name), memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    targets = torch.randint(10, (batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
            loss = cross_entropy(network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _row(
    title: str, batch: int, step: Callable[[], None], scale: Scale, *, in_float32: Callable[[], None] | None = None
) -> Row:
    ways: dict[str, AbstractContextManager[object]] = {"torch": nullcontext(), "products": OnMatrixUnit()}

    def within(context: AbstractContextManager[object]) -> Callable[[], None]:
        def call() -> None:
            with context:
                step()

        return call

    candidates = {name: within(context) for name, context in ways.items()}
    timings = compare(candidates | ({} if in_float32 is None else {"float32": in_float32}), scale, share=0.25)
    library, products = timings["torch"].median_s, timings["products"].median_s
    return {
        "step of": title,
        "batch": batch,
        "torch ms": 1e3 * library,
        "as products ms": 1e3 * products,
        "times faster": library / products,
        "float32 / products": timings["float32"].median_s / products if in_float32 is not None else None,
    }
