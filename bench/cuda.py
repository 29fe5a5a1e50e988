"""Truncated networks on a GPU: fused, with dense weights, and with weights that are rebuilt in each call.

`python -m bench.cuda [SCALE [FILE]]` makes the tables of `python -m bench cuda` without the peers that other topics
need: a machine with a GPU may have little else than torch.

`torch.compile` is left out: compiling these networks takes longer than all else together.
"""

import copy
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.machine import Machine
from bench.scale import FULL, QUICK, TINY, Scale
from bench.tables import Row, Table, write_topic
from bench.timing import compare, forward_of
from tailcut.errors import TailcutError, first_line
from tailcut.execution import FusedNetwork, fuse
from tailcut.execution.ir.cost import NUMBER_BYTES
from tailcut.runtime.share import device_name
from tailcut.structure import create_model
from tailcut.weights import regularize, to_dense, truncated_tensors

# As in the published UNet and in the paper's smallest networks for CIFAR-10.
UNET_KEPT, CIFAR_KEPT = 33, 128
CIFAR_BATCH = 128
UNET_IMAGE = (640, 960)
# Of the scale's seconds: there are two dozen comparisons, and all of them shall take well under a minute.
SHARE = 0.025
DENSE = ("dense", "dense, channels last")

# Seconds after which no forward, and no training step, is measured any more.
MAX_FORWARD_SECONDS, MAX_SECONDS = 27.0, 42.0
COLUMNS = {
    "network": "",
    "batch": "d",
    "precision": "",
    "fused layers": "",
    "fused ms": ".2f",
    "low rank ms": ".2f",
    "its limit ms": ".2f",
    "dense ms": ".2f",
    "dense limit ms": ".2f",
    "regularized ms": ".2f",
    "rebuilt ms": ".2f",
    "times faster": ".2f",
    "fused MB": ".0f",
    "low rank MB": ".0f",
    "dense MB": ".0f",
}

Run = Callable[[], object]


@dataclass(frozen=True)
class Precision:
    """How numbers are held, and how their products are made.

    Attributes:
        name: for people.
        dtype: of weights, maps and inputs.
        tf32: whether products of float32 are rounded to TF32.
    """

    name: str
    dtype: torch.dtype
    tf32: bool


PRECISIONS = (
    Precision("float32", torch.float32, tf32=False),
    Precision("TF32", torch.float32, tf32=True),
    Precision("bfloat16", torch.bfloat16, tf32=False),
)


@dataclass(frozen=True)
class Limits:
    """What a device can do at most in one precision.

    Attributes:
        copy_rate: bytes read and written per second by a copy of a large tensor.
        product_rate: operations per second of a large matrix product.
    """

    copy_rate: float
    product_rate: float

    def least_ms(self, macs: float, num_bytes: float) -> float:
        """Return the least time for so many multiplications and bytes."""
        return 1e3 * max(2 * macs / self.product_rate, num_bytes / self.copy_rate)


@dataclass(frozen=True)
class Case:
    """One network with its input.

    Attributes:
        name: for people.
        make: a fresh network, without memory of earlier ones.
        num_kept: coefficients a tensor.
        shape: of the input, batch first.
    """

    name: str
    make: Callable[[], nn.Module]
    num_kept: int
    shape: tuple[int, ...]


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Measure the device's limits, forwards and training steps; without a CUDA device there is one empty table."""
    if not torch.cuda.is_available():
        return [Table("Truncated networks on a GPU", {"way": ""}, [], ["Left out: this needs a CUDA device."])]
    return device_tables(scale, torch.device("cuda"))


def device_tables(scale: Scale, device: torch.device) -> list[Table]:
    """Measure all tables on a device; on the CPU they say nothing of interest, but can be made."""
    start = time.perf_counter()
    torch.manual_seed(0)
    limits = {precision.name: measure_limits(scale, device, precision) for precision in PRECISIONS}
    return [
        _limits_table(limits, device),
        _forward_table(scale, device, limits, start + MAX_FORWARD_SECONDS),
        _training_table(scale, device, limits, start + MAX_SECONDS),
    ]


def cases(scale: Scale) -> list[Case]:
    """Return the published UNet and the paper's networks for CIFAR-10, at the scale's widths."""
    width = scale.unet_widths[0]
    image = UNET_IMAGE if scale.is_full else (2 * scale.image_size, 3 * scale.image_size)
    unet = functools.partial(create_model, "unet", **scale.unet_arguments())
    vgg = functools.partial(create_model, "vgg19_bn_cifar", bias=False, width=width)
    resnet = functools.partial(create_model, "resnet18", num_classes=10, small_input=True, width=width)
    hidden = 4096 if scale.is_full else 16 * width
    alexnet = functools.partial(
        create_model, "alexnet", num_classes=10, resize=64, dropout=0.0, width=width, hidden=hidden
    )
    # In tests as few as normalisation takes: many a processor emulates bfloat16, which takes a hundred times as long.
    cifar = (CIFAR_BATCH if scale.is_full else 2 if scale.is_tiny else 4, 3, 32, 32)
    return [  # the quickest first, so that the slow ones cannot cost them their time
        Case("AlexNet", alexnet, CIFAR_KEPT, cifar),
        Case("VGG16", vgg, CIFAR_KEPT, cifar),
        Case("ResNet18", resnet, CIFAR_KEPT, cifar),
        Case("UNet", unet, UNET_KEPT, (1, 3, *image)),
        Case("UNet", unet, UNET_KEPT, (4, 3, *image)),
    ]


def measure_limits(scale: Scale, device: torch.device, precision: Precision) -> Limits:
    """Measure a copy and a matrix product; the best run counts, since a disturbed one measures something else."""
    size = 4 * scale.limit_size
    source = torch.ones(scale.limit_bytes // precision.dtype.itemsize, dtype=precision.dtype, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(size, size, device=device).to(precision.dtype) for _ in range(2))
    candidates = {"copy": lambda: target.copy_(source), "product": lambda: left @ right}
    with products(precision):
        timings = compare(_waited_for(candidates, device), scale, share=SHARE)
    return Limits(2 * scale.limit_bytes / timings["copy"].best_s, 2 * size**3 / timings["product"].best_s)


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Within the block products of float32 on a GPU are made in TF32, or in full."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision.tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _limits_table(limits: Mapping[str, Limits], device: torch.device) -> Table:
    rows: list[Row] = [
        {"precision": name, "copy GB/s": limit.copy_rate / 1e9, "product TFLOP/s": limit.product_rate / 1e12}
        for name, limit in limits.items()
    ]
    columns = {"precision": "", "copy GB/s": ".0f", "product TFLOP/s": ".1f"}
    return Table(f"Limits of {device_name(device)}, torch {torch.__version__}", columns, rows)


class _Rows:
    """Rows of one table, and notes of those that could not be measured: one failure shall not cost all others."""

    def __init__(self, deadline: float) -> None:
        self.rows: list[Row] = []
        self._failures: list[str] = []
        self._late: list[str] = []
        self._deadline = deadline

    @property
    def notes(self) -> list[str]:
        """What is left out, and why."""
        late = [f"Left out, for want of time: {'; '.join(self._late)}."] if self._late else []
        return [*self._failures, *late]

    def add(self, name: str, make: Callable[[], Row]) -> None:
        """Add what `make` measures, or the reason why it is left out."""
        if time.perf_counter() > self._deadline:
            self._late.append(name)
            return
        try:
            self.rows.append(make())
        except (RuntimeError, TailcutError) as error:
            self._failures.append(f"Left out: {name}: {type(error).__name__}: {first_line(error)}")


def _forward_table(scale: Scale, device: torch.device, limits: Mapping[str, Limits], deadline: float) -> Table:
    found = _Rows(deadline)
    for case in cases(scale):
        network = _network(case, device)
        for precision in PRECISIONS:
            with products(precision):
                name = f"{case.name}, batch {case.shape[0]}, {precision.name}"
                found.add(
                    name, functools.partial(_forward_row, case, network, precision, limits[precision.name], scale)
                )
    notes = [
        "fused: as fuse decides. low rank: each layer that can, whatever fuse's cost model says. regularized: the "
        "network itself, which looks in each call whether coefficients changed since its weights were made. rebuilt: "
        "it makes them in each call. dense: the faster of channels first and channels last. times faster: fused than "
        "dense. limit: products or bytes, at the limits above. MB: memory above that of weights and input. apart: low "
        "rank from dense, over the largest output."
    ]
    title = f"Forwards on {device_name(device)}: UNet of {UNET_KEPT} coefficients a tensor, others of {CIFAR_KEPT}"
    return Table(title, {**COLUMNS, "apart": ".1e"}, found.rows, [*notes, *found.notes])


def _training_table(scale: Scale, device: torch.device, limits: Mapping[str, Limits], deadline: float) -> Table:
    found = _Rows(deadline)
    for case in cases(scale):
        if case.name == "UNet" and case.shape[0] > 1:
            continue
        network = _network(case, device).train()
        for precision in PRECISIONS:
            with products(precision):
                name = f"{case.name}, {precision.name}"
                row = functools.partial(_training_row, case, network, precision, limits[precision.name], scale)
                found.add(name, row)
    notes = [
        "Forward and gradients to coefficients; dense: to dense weights. Within torch.autocast fuse runs the network "
        "itself: bfloat16 here is that of the whole network. limit: three times that of a forward."
    ]
    title = f"Training steps on {device_name(device)}, of the same networks"
    return Table(title, COLUMNS, found.rows, [*notes, *found.notes])


def _network(case: Case, device: torch.device) -> nn.Module:
    network = case.make().to(device).eval()
    regularize(network, num_kept=case.num_kept)
    return network


def _forward_row(case: Case, network: nn.Module, precision: Precision, limits: Limits, scale: Scale) -> Row:
    network = copy.deepcopy(network).to(precision.dtype)
    device = next(network.parameters()).device
    x = torch.rand(case.shape, device=device).to(precision.dtype)
    dense = to_dense(network)
    fused, low_rank = fuse(network), fuse(network)
    last, rebuilding = _channels_last(dense), torch.no_grad()(_rebuilding_forward(network))
    candidates = {
        "fused": forward_of(fused, x),
        "low rank": lambda: _run_low_rank(low_rank, x),
        "dense": forward_of(dense, x),
        "dense, channels last": forward_of(last, x.contiguous(memory_format=torch.channels_last)),
        "regularized": forward_of(network, x),
        "rebuilt": lambda: rebuilding(x),
    }
    with torch.no_grad():
        expected = dense(x).float()
        apart = (_run_low_rank(low_rank, x).float() - expected).abs().max() / expected.abs().max()
        row = _row(case, precision, candidates, (fused, low_rank), limits, scale, device)
    return {**row, "apart": float(apart)}


def _training_row(case: Case, network: nn.Module, precision: Precision, limits: Limits, scale: Scale) -> Row:
    network = copy.deepcopy(network).to(precision.dtype)
    device = next(network.parameters()).device
    x = torch.rand(case.shape, device=device).to(precision.dtype)
    dense = to_dense(network).train()
    last = _channels_last(dense)
    fused, low_rank = fuse(network), fuse(network)
    candidates = {
        "fused": _step(network, fused, x),
        "low rank": _step(network, functools.partial(_run_low_rank, low_rank), x),
        "dense": _step(dense, dense, x),
        "dense, channels last": _step(last, last, x.contiguous(memory_format=torch.channels_last)),
        "regularized": _step(network, network, x),
        "rebuilt": _step(network, _rebuilding_forward(network), x),
    }
    return _row(case, precision, candidates, (fused, low_rank), limits, scale, device, passes=3)


def _step(owner: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Run:
    def call() -> None:
        owner.zero_grad(set_to_none=True)
        forward(x).float().square().mean().backward()

    return call


def _rebuilding_forward(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the network's forward, which makes all dense weights anew, also where no coefficient has changed."""

    def forward(x: Tensor) -> Tensor:
        for tensor in truncated_tensors(network):
            tensor.truncation.kept = None
        result: Tensor = network(x)
        return result

    return forward


def _channels_last(dense: nn.Module) -> nn.Module:
    copied: Any = copy.deepcopy(dense)
    last: nn.Module = copied.to(memory_format=torch.channels_last)
    return last


def _run_low_rank(fused: FusedNetwork, x: Tensor) -> Any:
    """Run all layers in low rank; not by a call, which would take a snapshot of all buffers to undo it."""
    fused.strategy, fused._shapes = "low_rank", (tuple(x.shape),)
    return fused._run_fused((x,), {})[0]


def _row(
    case: Case,
    precision: Precision,
    candidates: Mapping[str, Run],
    views: tuple[FusedNetwork, FusedNetwork],
    limits: Limits,
    scale: Scale,
    device: torch.device,
    *,
    passes: int = 1,
) -> Row:
    calls = _waited_for(candidates, device)
    peaks = {name: _peak_mb(call, device) for name, call in calls.items()}
    times = {name: 1e3 * timing.median_s for name, timing in compare(calls, scale, share=SHARE).items()}
    fastest_dense = min(DENSE, key=lambda name: times[name])
    dense = times[fastest_dense]
    fused, low_rank = views
    ran = [layer.strategy != "dense" for layer in fused.report().layers]
    # The report counts numbers of four bytes.
    part = precision.dtype.itemsize / NUMBER_BYTES
    layers = low_rank.report().layers
    least = limits.least_ms(sum(layer.macs for layer in layers), part * sum(layer.moved_bytes for layer in layers))
    of_dense = limits.least_ms(
        sum(layer.dense_macs for layer in layers), part * sum(layer.dense_bytes for layer in layers)
    )
    return {
        "network": case.name,
        "batch": case.shape[0],
        "precision": precision.name,
        "fused layers": f"{sum(ran)} of {len(truncated_tensors(fused.source))}",
        "fused ms": times["fused"],
        "low rank ms": times["low rank"],
        "its limit ms": passes * least,
        "dense ms": dense,
        "dense limit ms": passes * of_dense,
        "regularized ms": times["regularized"],
        "rebuilt ms": times["rebuilt"],
        "times faster": dense / times["fused"],
        "fused MB": peaks["fused"],
        "low rank MB": peaks["low rank"],
        "dense MB": peaks[fastest_dense],
    }


def _waited_for(candidates: Mapping[str, Run], device: torch.device) -> dict[str, Run]:
    """Let each run wait until the device has finished, so that the processor's clock can time it."""

    def waiting(call: Run) -> Run:
        def waited() -> object:
            result = call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return result

        return waited

    return {name: waiting(call) for name, call in candidates.items()}


def _peak_mb(call: Run, device: torch.device) -> float | None:
    """Memory that a second call takes at its peak, above that before it; None where torch does not count it."""
    call()
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def main(arguments: list[str]) -> int:
    """Print the tables; write them to a JSON file if one is named. Without a CUDA device, say so and return 1."""
    name = arguments[0] if arguments else "full"
    if not torch.cuda.is_available():
        print("python -m bench.cuda needs a CUDA device", file=sys.stderr)
        return 1
    tables = device_tables({"full": FULL, "quick": QUICK, "tiny": TINY}[name], torch.device("cuda"))
    print("\n\n".join(map(str, tables)))
    if len(arguments) > 1:
        write_topic(arguments[1], name, "cuda", tables)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
