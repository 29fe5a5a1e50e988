"""Running truncated networks: fused against dense weights, against rebuilding them, and against naive factoring."""

import copy
import ctypes
import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from bench.choices import choices_table, overhead_table
from bench.large_image import large_image_table
from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare, forward_of
from bench.training import WholeFFT
from tailcut.execution import fuse
from tailcut.execution.cpu.compiled import is_installed
from tailcut.execution.ir.cost import Costs
from tailcut.execution.layers.factorization import Factorization, TruncatedWeight
from tailcut.execution.lazy.context import Context
from tailcut.structure import create_model
from tailcut.weights import regularize, to_dense, truncated_tensors, truncation_of

# As in the published network: 33 coefficients a layer, images of 640 x 959.
UNET_KEPT = 33
FULL_IMAGE = (640, 959)
# ResNet18 of the paper: 128 coefficients in each of 21 tensors.
RESNET_KEPT = 128
RESNET_BATCH = 128
SWEEP_COEFFICIENTS = (1, 33, 300, 3000, 30000)
FUSED = {"fused, compiled": "compiled", "fused, torch": "torch"}

Candidates = Mapping[str, Callable[[], object]]


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Measure the UNet, a very large image, a block over corner sizes and widths, networks, a training step."""
    torch.manual_seed(0)
    return [
        _unet(scale, machine),
        large_image_table(scale),
        _sweep(scale, machine),
        choices_table(scale),
        overhead_table(scale),
        _training(scale, machine),
    ]


def _unet(scale: Scale, machine: Machine) -> Table:
    network = create_model("unet", **scale.unet_arguments()).eval()
    whole = copy.deepcopy(network)
    for module in list(whole.modules()):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            parametrize.register_parametrization(module, "weight", WholeFFT(module.weight.shape), unsafe=True)
    regularize(network, num_kept=UNET_KEPT)
    dense = to_dense(network)
    x = torch.rand(1, 3, *_image(scale))
    channels_last: nn.Module = nn.Module.to(copy.deepcopy(dense), memory_format=torch.channels_last)  # type: ignore[call-overload]
    y = x.contiguous(memory_format=torch.channels_last)
    fused = {title: fuse(network, engine=engine) for title, engine in FUSED.items() if _has(engine)}
    candidates: dict[str, Callable[[], object]] = {title: forward_of(view, x) for title, view in fused.items()}
    candidates |= {
        "dense": forward_of(dense, x),
        "dense, channels last": forward_of(channels_last, y),
        "weights by truncated bases": forward_of(network, x),
        "weights by full FFT (torch-dct)": forward_of(whole, x),
        "naive factored": forward_of(naively_factored(network), x),
    }
    with torch.no_grad():
        title = f"One image of {x.shape[2]} x {x.shape[3]} through the UNet, {UNET_KEPT} coefficients a layer"
        reference = ("dense", "dense, channels last")
        table = _table(title, candidates, reference, scale)
        macs = sum(layer.macs for layer in next(iter(fused.values())).report().layers)
    limit = 2 * macs / machine.product_rate
    moved = 4 * sum(4 * x[0, 0].numel() for _ in range(8)) / machine.copy_rate
    note = (
        f"The fused network does {macs / 1e9:.2f} G MACs: {1e3 * limit:.0f} ms at this machine's matrix product; its "
        f"narrow maps of full size are about {1e3 * moved:.0f} ms of copying."
    )
    return Table(table.title, table.columns, table.rows, [*table.notes, note])


def _sweep(scale: Scale, machine: Machine) -> Table:
    """3 x 3 convolution, batch norm, ReLU, 3 x 3 convolution: cost follows the corner, not the width."""
    rows: list[Row] = []
    size = max(16, scale.image_size // 2)
    for width in (scale.unet_widths[0], 4 * scale.unet_widths[0]):
        for num_kept in SWEEP_COEFFICIENTS[1:3] if scale.is_tiny else SWEEP_COEFFICIENTS:
            rows.append(_sweep_row(width, num_kept, size, scale, machine))
    timed = ("fused ms", "dense ms", "naive ms", "tensorly-torch ms", "limit ms")
    columns = {
        "width": "d",
        "kept": "d",
        "corner": "",
        "ways": "",
        **dict.fromkeys(timed, ".2f"),
        "times faster": ".2f",
    }
    notes = [
        "naive: three convolutions for one, wide maps in memory. tensorly-torch: its FactorizedConv (Tucker) of the "
        "same ranks. limit: the fused way's products or its bytes at this machine's rates."
    ]
    return Table(f"Two convolutions of one width on {size} x {size} pixels, plain tiles", columns, rows, notes)


def _sweep_row(width: int, num_kept: int, size: int, scale: Scale, machine: Machine) -> Row:
    block = nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
    ).eval()
    regularize(block, num_kept=num_kept)
    x = torch.rand(1, width, size, size)
    dense, fused = to_dense(block), fuse(block, x, engine="torch")
    corner = truncation_of(block, "0.weight").truncation.corner_shape
    candidates = {
        "fused": forward_of(fused, x),
        "dense": forward_of(dense, x),
        "naive": forward_of(naively_factored(block), x),
        "tensorly-torch": forward_of(tucker_factored(dense, corner), x),
    }
    with torch.no_grad():
        found = compare(candidates, scale, share=0.05)
    layers = fused.report().layers
    limit = max(
        2 * sum(layer.macs for layer in layers) / machine.product_rate,
        sum(layer.moved_bytes for layer in layers) / machine.copy_rate,
    )
    return {
        "width": width,
        "kept": num_kept,
        "corner": " x ".join(map(str, corner)),
        "ways": ", ".join(sorted({layer.strategy for layer in layers})),
        **{f"{name} ms": 1e3 * timing.median_s for name, timing in found.items()},
        "limit ms": 1e3 * limit,
        "times faster": found["dense"].median_s / found["fused"].median_s,
    }


def tucker_factored(dense: nn.Module, ranks: Sequence[int]) -> nn.Module:
    """Return a copy of a network whose convolutions are tensorly-torch's, in Tucker form of these ranks."""
    import tltorch

    result = copy.deepcopy(dense)
    for name, layer in list(result.named_modules()):
        if isinstance(layer, nn.Conv2d):
            parent, _, child = name.rpartition(".")
            factored = tltorch.FactorizedConv(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                order=2,
                padding=layer.padding[0],
                bias=False,
                rank=tuple(ranks),
                factorization="tucker",
                implementation="factorized",
            )
            setattr(result.get_submodule(parent), child, factored)
    return result


def _training(scale: Scale, machine: Machine) -> Table:
    widths = scale.unet_widths[:4] if len(scale.unet_widths) >= 4 else (8, 8, 16, 16)
    batch = RESNET_BATCH if len(scale.unet_widths) > 4 else 8
    network = resnet18(widths)
    regularize(network, num_kept=RESNET_KEPT)
    plain = to_dense(network)
    fused = {title: fuse(network, engine=engine) for title, engine in FUSED.items() if _has(engine)}
    x, target = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def step(model: nn.Module) -> Callable[[], object]:
        def call() -> None:
            model.zero_grad(set_to_none=True)
            cross_entropy(model(x), target).backward()

        return call

    candidates = {title: step(view) for title, view in fused.items()}
    candidates |= {"dense weights": step(plain), "weights by truncated bases": step(network)}
    table = _table(
        f"A training step of ResNet18, widths {widths}, batch {batch}, {RESNET_KEPT} coefficients a tensor",
        candidates,
        ("dense weights",),
        scale,
    )
    layers = next(iter(fused.values())).report().layers
    macs = {name: sum(getattr(layer, name) for layer in layers) for name in ("macs", "dense_macs")}
    limits = {name: 1e3 * 6 * value / machine.product_rate for name, value in macs.items()}  # forward and two gradients
    note = (
        f"At this machine's matrix product, forward and gradients take {limits['macs']:.0f} ms fused and "
        f"{limits['dense_macs']:.0f} ms dense; fused, wide maps are made a second time in the backward pass."
    )
    return Table(table.title, table.columns, table.rows, [*table.notes, note])


def _table(title: str, candidates: Candidates, reference: tuple[str, ...], scale: Scale) -> Table:
    peaks = {name: peak_bytes(call) for name, call in candidates.items()}
    timings = compare(candidates, scale)
    nearest = min(reference, key=lambda name: timings[name].median_s)
    fastest, first = timings[nearest].median_s, peaks[nearest]
    rows: list[Row] = []
    for name, timing in timings.items():
        peak = peaks[name]
        rows.append(
            {
                "way": name,
                "ms": 1e3 * timing.median_s,
                "times faster": fastest / timing.median_s,
                "peak MB": None if peak is None else peak / 1e6,
                "of dense": None if peak is None or not first else peak / first,
            }
        )
    columns = {"way": "", "ms": ".1f", "times faster": ".2f", "peak MB": ".1f", "of dense": ".3f"}
    notes = [
        f"times faster, of dense: than the fastest of {' and '.join(reference)}. peak: memory above what was in use "
        "before the call; weights and input are in use already."
    ]
    return Table(title, columns, rows, notes)


def peak_bytes(call: Callable[[], object]) -> int | None:
    """Resident memory that a second call takes at its peak, above that before it; None where Linux does not tell.

    What the first call left in the allocator's hands is given back before, or the second would take it unseen.
    """
    call()
    gc.collect()
    reset = Path("/proc/self/clear_refs")
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        reset.write_text("5", encoding="ascii")
        before = _status("VmRSS")
        call()
        return max(0, _status("VmHWM") - before)
    except (OSError, AttributeError):
        return None


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {key} in /proc/self/status")


def _has(engine: str) -> bool:
    return engine == "torch" or is_installed()


def _image(scale: Scale) -> tuple[int, int]:
    if len(scale.unet_widths) >= 5:
        return FULL_IMAGE
    side = 2 * scale.image_size
    return side, side


class NaivelyFactored(nn.Module):
    """Three layers for one: cosines of the input, the core, cosines of the output; wide maps in memory between."""

    def __init__(self, layer: Any, factors: Factorization) -> None:
        super().__init__()
        self.layer, self.factors = layer, factors

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's."""
        layer, core, inward, outward = self.layer, self.factors.core, self.factors.inward, self.factors.outward
        if inward is not None and inward.shape[0] < inward.shape[1]:
            x = torch.conv2d(x, inward[:, :, None, None])
        elif inward is not None:
            core = torch.tensordot(core, inward, dims=([1], [0])).movedim(-1, 1)
        if isinstance(layer, nn.ConvTranspose2d):
            x = torch.conv_transpose2d(x, core.transpose(0, 1), None, layer.stride)
        else:
            x = torch.conv2d(x, core, None, layer.stride, layer.padding)
        return x if outward is None else torch.conv2d(x, outward[:, :, None, None])


def naively_factored(network: nn.Module) -> nn.Module:
    """Return a copy of a network of convolutions without biases, each factored into three."""
    result = to_dense(network)
    state = Context("torch", "auto", Costs.of("cpu", with_gradients=False))
    for tensor in truncated_tensors(network):
        path = tensor.name.removesuffix(".weight")
        parent, _, child = path.rpartition(".")
        layer = network.get_submodule(path)
        with torch.no_grad():
            factors = TruncatedWeight(tensor, layer).factors(state)
        setattr(result.get_submodule(parent), child, NaivelyFactored(layer, factors))
    return result


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, last: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(last, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or last != width:
            self.shortcut = nn.Sequential(nn.Conv2d(last, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, last, height, width) to (batch, width, ...)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(widths: tuple[int, ...]) -> nn.Module:
    """ResNet18 for images of 32 x 32, as in CIFAR experiments."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
    ]
    last = widths[0]
    for stage, width in enumerate(widths):
        layers += [BasicBlock(last, width, 1 if stage == 0 else 2), BasicBlock(width, width, 1)]
        last = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 10))
