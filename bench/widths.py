"""One truncated network with fewer and fewer channels: how fast it runs elsewhere, and what it still finds."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import Timing, compare, forward_of, has_onnx, onnx_forward
from tailcut.counting import count_macs
from tailcut.errors import DataNotFoundError
from tailcut.evaluation.files import evaluate_file
from tailcut.execution import fuse
from tailcut.format import load, save
from tailcut.printing import figure_text
from tailcut.structure import create_model
from tailcut.weights import regularize, resample, to_dense

NETWORK = "zoo:unet-759-float16"
KEPT = 33
DIVISORS = (1, 2, 4)
DATA = "carvana"


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return the UNet with all, half and a quarter of its channels."""
    del machine
    model = load(NETWORK) if scale.is_full else _small_network(scale)
    with tempfile.TemporaryDirectory() as folder:
        rows, notes = _measure(model, scale, Path(folder))
    columns = {
        "channels": "",
        "dense numbers": ",d",
        "dense G MACs": ".4g",
        "mean Dice": "",
        "ONNX file KB": ".3g",
        "ONNX Runtime ms": ".4g",
        "times faster": ".3g",
        "dense ms": ".4g",
        "fused ms": ".4g",
    }
    height, width = scale.photo_size
    title = f"One image of {height} x {width} through the UNet resampled to fewer channels"
    return [Table(title, columns, rows, notes)]


def _small_network(scale: Scale) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("unet", **scale.unet_arguments())
    regularize(model, num_kept=KEPT)
    return model.eval()


def _measure(model: nn.Module, scale: Scale, folder: Path) -> tuple[list[Row], list[str]]:
    networks = {divisor: _resampled(model, scale, divisor) for divisor in DIVISORS}
    x = torch.rand(1, 3, *scale.photo_size)
    with_onnx = has_onnx()
    files = {divisor: folder / f"{divisor}.onnx" for divisor in networks}
    ways: dict[str, Callable[[], object]] = {}
    for divisor, network in networks.items():
        ways[f"dense {divisor}"] = forward_of(to_dense(network), x)
        ways[f"fused {divisor}"] = forward_of(fuse(network), x)
        if with_onnx:
            ways[f"onnx {divisor}"] = onnx_forward(network, files[divisor], x, dynamic=not scale.is_tiny)
    timings = compare(ways, scale)
    found = {divisor: _dice(network, folder / f"{divisor}.tailcut") for divisor, network in networks.items()}
    kilobytes = {divisor: file.stat().st_size / 1e3 if with_onnx else None for divisor, file in files.items()}
    notes = ["times faster: ONNX Runtime, than with all channels; the file is that of tailcut export."]
    if not with_onnx:
        notes.append("ONNX Runtime: needs the extra onnx.")
    if None in found.values():
        notes.append(f"Dice: no data root has {DATA}.")
    return list(_rows(networks, timings, found, kilobytes, x)), notes


def _rows(
    networks: dict[int, nn.Module],
    timings: dict[str, Timing],
    found: dict[int, float | None],
    kilobytes: dict[int, float | None],
    x: torch.Tensor,
) -> Iterator[Row]:
    for divisor, network in networks.items():
        dice, onnx, whole = found[divisor], timings.get(f"onnx {divisor}"), timings.get(f"onnx {DIVISORS[0]}")
        yield {
            "channels": "all" if divisor == 1 else f"1/{divisor}",
            "dense numbers": sum(parameter.numel() for parameter in to_dense(network).parameters()),
            "dense G MACs": count_macs(network, x).total / 1e9,
            "mean Dice": None if dice is None else figure_text("dice", dice),
            "ONNX file KB": kilobytes[divisor],
            "ONNX Runtime ms": None if onnx is None else 1e3 * onnx.median_s,
            "times faster": None if onnx is None or whole is None else whole.median_s / onnx.median_s,
            "dense ms": 1e3 * timings[f"dense {divisor}"].median_s,
            "fused ms": 1e3 * timings[f"fused {divisor}"].median_s,
        }


def _resampled(model: nn.Module, scale: Scale, divisor: int) -> nn.Module:
    arguments = scale.unet_arguments()
    other = create_model("unet", **{**arguments, "widths": tuple(width // divisor for width in scale.unet_widths)})
    resample(model, other)
    return other.eval()


def _dice(network: nn.Module, path: Path) -> float | None:
    save(network, path)
    try:
        return evaluate_file(path, DATA, "val").metrics["dice"]
    except DataNotFoundError:
        return None
