"""The three papers in one network, and each of its steps alone: MACs, and seconds for one image."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare, forward_of, has_onnx, onnx_forward
from tailcut import channels, inputs
from tailcut.counting import count_macs
from tailcut.execution import fuse
from tailcut.structure import create_model
from tailcut.weights import regularize, to_dense, truncated_tensors

# As the recipes in recipes/combined.
NUM_CHANNELS = 24
MACS_RATIO = 0.5
KEEP_RATIO = 0.05


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return a ResNet-18 on pixels, after each step alone, and after all of them."""
    del machine
    torch.manual_seed(0)
    side = 112 if scale.is_full else 32
    pixels, frequencies = torch.rand(1, 3, side, side), torch.rand(1, NUM_CHANNELS, side // 4, side // 4)
    networks = {
        f"pixels of {side} x {side}": (_resnet(scale), pixels),
        f"{NUM_CHANNELS} frequency channels of {2 * side} x {2 * side}": (_on_frequencies(_resnet(scale)), frequencies),
        "half of the MACs pruned": (_pruned(_resnet(scale), pixels), pixels),
        f"{KEEP_RATIO:.0%} of the coefficients": (_truncated(_resnet(scale)), pixels),
        "all three": (_truncated(_pruned(_on_frequencies(_resnet(scale)), frequencies)), frequencies),
    }
    if scale.is_tiny:
        networks = {name: networks[name] for name in (*list(networks)[:1], "all three")}
    rows = _rows(networks, scale)
    columns = {
        "network": "",
        "M parameters": ".3g",
        "M MACs": ".4g",
        "fused M MACs": ".4g",
        "dense ms": ".3g",
        "fused ms": ".3g",
        "ONNX Runtime ms": ".3g",
        "small ONNX ms": ".3g",
        "times faster": ".3g",
    }
    notes = [
        "One image; frequency channels as they come from a JPEG, or of twice the pixels a side. Weights are random, "
        "so other channels are pruned than in trained networks: parameters differ, MACs agree. MACs and parameters are "
        "those of dense weights; fused M MACs those that tailcut.fuse does. ONNX Runtime runs a file with dense "
        "weights, small ONNX one with the coefficients. Times faster: the fastest way than the fastest of the first "
        "line."
    ]
    return [Table("A ResNet-18 by all three papers, and by each alone", columns, rows, notes)]


def _resnet(scale: Scale) -> nn.Module:
    width = 64 if scale.is_full else 8
    return create_model("resnet18", num_classes=10, width=width).eval()


def _on_frequencies(model: nn.Module) -> nn.Module:
    return inputs.replace_stem(model, NUM_CHANNELS).eval()


def _pruned(model: nn.Module, x: Tensor) -> nn.Module:
    channels.prune(model, x, channels.score(model, method="l1"), macs_ratio=MACS_RATIO)
    return model


def _truncated(model: nn.Module) -> nn.Module:
    regularize(model, keep_ratio=KEEP_RATIO)
    return model.eval()


def _rows(networks: dict[str, tuple[nn.Module, Tensor]], scale: Scale) -> list[Row]:
    dense = {name: to_dense(model) for name, (model, _) in networks.items()}
    fused = {name: fuse(model, x) for name, (model, x) in networks.items()}
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, dict[str, Callable[[], object]]] = {}
        for number, (name, (model, x)) in enumerate(networks.items()):
            ways[name] = {"dense": forward_of(dense[name], x), "fused": forward_of(fused[name], x)}
            if has_onnx():
                path = Path(folder) / f"{number}.onnx"
                ways[name]["ONNX Runtime"] = onnx_forward(dense[name], path, x, dynamic=not scale.is_tiny)
            if has_onnx() and truncated_tensors(model):
                path = Path(folder) / f"{number}-small.onnx"
                ways[name]["small ONNX"] = onnx_forward(model, path, x, dynamic=not scale.is_tiny)
        timings = compare({f"{name}, {way}": run for name in ways for way, run in ways[name].items()}, scale)
    times = {name: {way: timings[f"{name}, {way}"].median_s for way in ways[name]} for name in networks}
    first = min(next(iter(times.values())).values())
    rows: list[Row] = []
    for name, (_, x) in networks.items():
        seconds = times[name]
        macs, layers = count_macs(dense[name], x).total, fused[name].report().layers
        rows.append(
            {
                "network": name,
                "M parameters": sum(parameter.numel() for parameter in dense[name].parameters()) / 1e6,
                "M MACs": macs / 1e6,
                "fused M MACs": (macs - sum(layer.dense_macs - layer.macs for layer in layers)) / 1e6,
                "dense ms": 1e3 * seconds["dense"],
                "fused ms": 1e3 * seconds["fused"],
                **{
                    f"{way} ms": 1e3 * seconds[way] if way in seconds else None
                    for way in ("ONNX Runtime", "small ONNX")
                },
                "times faster": first / min(seconds.values()),
            }
        )
    return rows
