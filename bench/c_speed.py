"""The exported C on this machine, beside the compiled loops of `fuse`, torch and ONNX Runtime; all on one thread."""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.layers_in_c import FEATURES, KeywordTransformer
from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare, forward_of, has_onnx, num_threads, onnx_forward
from tailcut.execution import fuse
from tailcut.export_c import export_c
from tailcut.format import load
from tailcut.structure import example_shape
from tailcut.weights import to_dense

COMPILER = "cc"
OPTIONS = ("-O3", "-march=native", "-shared", "-fPIC")
NETWORKS = (
    *("lenet5-776", "lenet300-2816", "unet-759-float16", "resnet18-2688", "vgg16-2048", "alexnet-1408-float16"),
    "gan-64383",
)
# KWT-1 of Berg et al., "Keyword Transformer" (2021), not trained: no network of the zoo has attention.
TRANSFORMER = "keyword transformer"
TRANSFORMER_SIZE = {"steps": 98, "width": 64, "num_heads": 1, "mlp_ratio": 4, "depth": 12}


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Time networks of each kind in the zoo; the UNet on an image of the scale's size."""
    del machine
    names = NETWORKS[:1] if scale.is_tiny else (*NETWORKS, TRANSFORMER)
    columns = {
        "network": "",
        "input": "",
        "C ms": ".3g",
        "fused ms": ".3g",
        "dense ms": ".3g",
        "ONNX Runtime ms": ".3g",
        "C / fused": ".3g",
        "ONNX Runtime / C": ".3g",
    }
    notes = [
        f"One input, one thread. C: {COMPILER} {' '.join(OPTIONS[:2])}, prepared. fused: tailcut.fuse, compiled loops "
        f"where they pay. dense and ONNX Runtime: with dense weights. {TRANSFORMER}: KWT-1, not trained nor truncated."
    ]
    if shutil.which(COMPILER) is None:
        return [Table("Networks in C on this machine", columns, [], [*notes, f"Left out: all, no {COMPILER} is here."])]
    with num_threads(1):
        rows = [_row(name, scale) for name in names]
    return [Table("Networks in C on this machine", columns, rows, notes)]


def _row(name: str, scale: Scale) -> Row:
    if name == TRANSFORMER:
        torch.manual_seed(0)
        model: nn.Module = KeywordTransformer(**TRANSFORMER_SIZE).eval()
        shape: tuple[int, ...] = (1, TRANSFORMER_SIZE["steps"], FEATURES)
    else:
        model = load(f"zoo:{name}")
        shape = example_shape(model) or ()
    if name.startswith("unet"):
        size = scale.photo_size if scale.is_full else (96, 96)
        shape = (1, 3, *size)
    x = torch.rand(1, *shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], object]] = {
            "C": c_forward(model, x, Path(folder)),
            "fused": forward_of(fuse(model), x),
            "dense": forward_of(to_dense(model).eval(), x),
        }
        if has_onnx():
            ways["onnx"] = onnx_forward(to_dense(model).eval(), Path(folder) / "dense.onnx", x, dynamic=False)
        timings = compare(ways, scale, share=1 / len(NETWORKS))
    seconds = {way: timing.median_s for way, timing in timings.items()}
    onnx = seconds.get("onnx")
    return {
        "network": name,
        "input": " x ".join(map(str, shape[1:])),
        "C ms": 1e3 * seconds["C"],
        "fused ms": 1e3 * seconds["fused"],
        "dense ms": 1e3 * seconds["dense"],
        "ONNX Runtime ms": None if onnx is None else 1e3 * onnx,
        "C / fused": seconds["C"] / seconds["fused"],
        "ONNX Runtime / C": None if onnx is None else onnx / seconds["C"],
    }


def c_forward(model: nn.Module, x: Tensor, folder: Path) -> Callable[[], Tensor]:
    """Return a call of the exported and prepared network, compiled for this machine.

    Args:
        model: see `export_c`.
        x: the input, of batch size 1.
        folder: for the files, which must stay.
    """
    report = export_c(model, folder, example_input=x)
    library = folder / "model.so"
    subprocess.run(
        [COMPILER, *OPTIONS, f"-I{folder}", *map(str, sorted(folder.glob("*.c"))), "-o", str(library)], check=True
    )
    code = ctypes.CDLL(str(library))
    network = ctypes.byref(ctypes.c_char.in_dll(code, "model"))
    counts = report.prepared_bytes // 4, report.output_bytes // 4, report.arena_bytes // 4 + 1
    prepared, output, arena = map(torch.empty, counts)
    # Referred to by the call below, so that their memory stays.
    memory = prepared, x.contiguous(), output, arena
    at = [ctypes.c_void_p(tensor.data_ptr()) for tensor in memory]
    if code.tailcut_prepare(network, at[0], ctypes.c_size_t(report.prepared_bytes), at[3]):
        raise RuntimeError(f"tailcut_prepare refused {report.prepared_bytes:,} bytes")

    def forward() -> Tensor:
        if code.tailcut_run_prepared(network, *at):
            raise RuntimeError(f"tailcut_run_prepared refused an input of {tuple(x.shape)}")
        return memory[2]

    return forward
