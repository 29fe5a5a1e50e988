"""Sizes of files, and how fast they are written and read, against torch.save, safetensors and xz."""

import io
import lzma
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import Timing, compare
from tailcut.data.roots import data_roots
from tailcut.format import load, save, zoo_names
from tailcut.format.conversion.frereg import convert
from tailcut.format.save import encode_network
from tailcut.structure import base_of, create_model
from tailcut.weights import regularize, to_dense, truncated_tensors

PUBLISHED = Path("carvana") / "published" / "unet_fr.tar.xz"
CODEC = "float16"
SMALLEST_LENET5 = "lenet5-776"


@dataclass(frozen=True)
class Case:
    """One regularised network.

    Attributes:
        title: for people.
        model: the regularised network, of a registered family.
        is_published: the paper's authors published a network of this form.
        authors_bytes: size of their file; None where there is none here.
    """

    title: str
    model: nn.Module
    is_published: bool = False
    authors_bytes: int | None = None


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return a table of sizes, one of packing, one of loading."""
    torch.manual_seed(0)
    cases = [_lenet5(), _smallest_unet(scale), _unet_one_percent(scale)]
    with tempfile.TemporaryDirectory() as folder:
        timings = [_time_case(case, Path(folder), scale) for case in cases]
    limit = f"Limit: a copy reads and writes {machine.copy_rate / 1e6:,.0f} MB/s."
    return [
        _sizes([row for case in cases for row in _size_rows(case)]),
        _throughput("Packing to bytes", "pack", cases, timings, machine, limit),
        _throughput("Loading from a file, ready to run", "load", cases, timings, machine, limit),
    ]


def published_file() -> Path | None:
    """Return the archive of the paper's authors, if a data root has it."""
    found = [root / PUBLISHED for root in data_roots() if (root / PUBLISHED).is_file()]
    return found[0] if found else None


def _lenet5() -> Case:
    if SMALLEST_LENET5 in zoo_names():
        return Case("LeNet-5, 776 (trained)", load(f"zoo:{SMALLEST_LENET5}"))
    model = create_model("lenet5", bias=False)
    regularize(model, num_kept=194)
    return Case("LeNet-5, 776 (random)", model)


def _smallest_unet(scale: Scale) -> Case:
    archive = published_file()
    if archive is not None and scale.is_full:
        model = convert(archive, model="unet")
        return Case("UNet, 759 (published)", model, True, archive.stat().st_size)
    model = create_model("unet", **scale.unet_arguments())
    sizes = {name: weight.numel() for name, weight in model.named_parameters() if weight.ndim > 1}
    regularize(model, num_kept={name: min(33, size) for name, size in sizes.items()})
    return Case("UNet, 33 each (random)", model, True)


def _unet_one_percent(scale: Scale) -> Case:
    model = create_model("unet", **scale.unet_arguments())
    regularize(model, keep_ratio=0.01)
    return Case("UNet, 1 % (random)", model)


def _size_rows(case: Case) -> list[Row]:
    dense = to_dense(case.model).state_dict()
    coefficients = [tensor.coefficients().detach().to(torch.float16) for tensor in truncated_tensors(case.model)]
    num_kept = sum(entry.numel() for entry in coefficients)
    own = len(encode_network(case.model, dtype=CODEC)[0])
    sizes = {
        "tailcut, float16": own,
        "coefficients, xz, float16": len(_xz(coefficients)),
        "coefficients, torch.save, float16": len(_torch_bytes(coefficients)),
        "authors' archive, float32": case.authors_bytes,
        "dense, safetensors": len(safetensors.torch.save(dense)),
        "dense, torch.save": len(_torch_bytes(dense)),
    }
    return [
        {
            "network": case.title,
            "coefficients": num_kept,
            "file": name,
            "bytes": size,
            "bytes / tailcut": None if size is None else size / own,
            "bits each": None if size is None or name.startswith("dense") else 8 * size / num_kept,
        }
        for name, size in sizes.items()
        if size is not None or case.is_published
    ]


def _sizes(rows: list[Row]) -> Table:
    columns = {
        "network": "",
        "coefficients": ",d",
        "file": "",
        "bytes": ",d",
        "bytes / tailcut": ",.2f",
        "bits each": ".1f",
    }
    notes = [
        "tailcut: float16 coefficients and all that rebuilds the network (other tensors in float32).",
        "coefficients by xz or torch.save: these alone, without the network's names, biases or batch norm.",
        "bits each: of the whole file, per coefficient; 16 is the limit without entropy coding.",
    ]
    if published_file() is None:
        notes.append(f"authors' archive: no data root has {PUBLISHED} (see TAILCUT_DATA), so its size is not shown.")
    return Table("File sizes", columns, rows, notes)


def _xz(tensors: list[torch.Tensor]) -> bytes:
    return lzma.compress(b"".join(tensor.numpy().tobytes() for tensor in tensors), preset=9)


def _torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _time_case(case: Case, folder: Path, scale: Scale) -> dict[str, dict[str, Timing]]:
    dense = to_dense(case.model).state_dict()
    ours, theirs, tensors = folder / "network.tailcut", folder / "network.pt", folder / "network.safetensors"
    save(case.model, ours, dtype=CODEC)
    torch.save(dense, theirs)
    safetensors.torch.save_file(dense, tensors)
    packers: dict[str, Callable[[], object]] = {
        "tailcut": lambda: encode_network(case.model, dtype=CODEC),
        "torch.save": lambda: _torch_bytes(dense),
        "safetensors": lambda: safetensors.torch.save(dense),
    }
    loaders: dict[str, Callable[[], object]] = {
        "tailcut": lambda: load(ours),
        "tailcut, to_dense": lambda: to_dense(load(ours)),
        "torch.save": lambda: _filled(case, torch.load(theirs, weights_only=True)),
        "safetensors": lambda: _filled(case, safetensors.torch.load_file(tensors)),
    }
    return {"pack": compare(packers, scale), "load": compare(loaders, scale)}


def _filled(case: Case, state: dict[str, torch.Tensor]) -> nn.Module:
    """Return the dense network around tensors that were read, without first making weights of its own."""
    base = base_of(case.model)
    if base is None:
        raise ValueError(f"{case.title} is not of a registered family")
    with torch.device("meta"):
        model = create_model(base.name, **base.arguments)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _throughput(
    title: str,
    action: str,
    cases: list[Case],
    timings: list[dict[str, dict[str, Timing]]],
    machine: Machine,
    limit: str,
) -> Table:
    rows = []
    for case, timing in zip(cases, timings, strict=True):
        num_bytes = 4 * sum(parameter.numel() for parameter in to_dense(case.model).parameters())
        num_kept = sum(tensor.num_kept for tensor in truncated_tensors(case.model))
        rows += [
            _rate_row(case.title, way, found, timing[action], num_bytes, num_kept, machine)
            for way, found in timing[action].items()
        ]
    columns = {
        "network": "",
        "way": "",
        "ms": ".2f",
        "peer / tailcut": ".2f",
        "dense MB/s": ",.0f",
        "of limit %": ".0f",
        "coefficients/s": ",.0f",
        "runs": "d",
    }
    return Table(title, columns, rows, (f"dense MB/s: bytes of the dense float32 weights over the time. {limit}",))


def _rate_row(
    title: str, way: str, timing: Timing, others: dict[str, Timing], num_bytes: int, num_kept: int, machine: Machine
) -> Row:
    is_own = way.startswith("tailcut")
    return {
        "network": title,
        "way": way,
        "ms": 1e3 * timing.median_s,
        "peer / tailcut": timing.median_s / others["tailcut"].median_s,
        "dense MB/s": num_bytes / timing.median_s / 1e6,
        "of limit %": 100 * num_bytes / timing.median_s / machine.copy_rate,
        "coefficients/s": num_kept / timing.median_s if is_own else None,
        "runs": timing.num_repetitions,
    }
