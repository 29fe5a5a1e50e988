"""How long the ONNX export of a truncated network takes, beside that of the dense one by torch alone."""

import contextlib
import copy
import functools
import importlib
import importlib.util
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from tailcut.execution.onnx.export import export_onnx
from tailcut.structure import create_model, example_shape
from tailcut.weights import regularize

KEEP_RATIO = 0.1
# Those of timm and torchvision are measured where these can be imported.
NETWORKS = {
    "tailcut": ("lenet5", "resnet20", "resnet18", "mobilenetv2", "vgg16", "unet"),
    "torchvision": ("densenet121", "googlenet", "vit_b_16"),
    "timm": (
        *(
            "mobilenetv3_small_100",
            "mobilenetv3_large_100",
            "efficientnet_b0",
            "convnext_atto",
            "regnety_002",
            "mixer_s32_224",
        ),
        *("swin_tiny_patch4_window7_224", "mobilevit_xxs"),
    ),
}
SIDES = {"mobilevit_xxs": 256}


def run(scale: Scale, machine: Machine) -> list[Table]:
    """About a dozen networks."""
    del machine
    columns = {
        "network": "",
        "torch, sizes fixed s": ".3g",
        "torch, sizes open s": ".3g",
        "tailcut, sizes fixed s": ".3g",
        "tailcut, sizes open s": ".3g",
        "fixed: times torch": ".3g",
        "open: times torch": ".3g",
        "open: times torch fixed": ".3g",
    }
    notes = [
        "Processor time of one export to a file, the four of a network in one process; "
        f"keep_ratio {KEEP_RATIO}, random weights. torch: "
        "torch.onnx.export(dynamo=True) of the dense network. open: the batch, and height and width where the network "
        "lets them vary, which is the default of tailcut.export_onnx; fixed: dynamic=False, the default of torch."
    ]
    rows: list[Row] = []
    if importlib.util.find_spec("onnxscript") is None:
        notes.append("needs the extra onnx.")
    else:
        _torchs(nn.Linear(2, 2), torch.rand(2, 2), ())  # the first one loads the exporter
        rows.extend(_row(name, make(), x) for name, make, x in _networks(scale))
    return [Table("ONNX export of a truncated network", columns, rows, notes)]


def _networks(scale: Scale) -> Iterator[tuple[str, Callable[[], nn.Module], torch.Tensor]]:
    if scale.is_tiny:
        yield "lenet5", lambda: create_model("lenet5"), torch.rand(2, 1, 28, 28)
        return
    for name in NETWORKS["tailcut"]:
        shape = example_shape(create_model(name)) or ()
        yield name, functools.partial(create_model, name), torch.rand(2, *shape[1:])
    for package, names in NETWORKS.items():
        if package == "tailcut" or importlib.util.find_spec(package) is None:
            continue
        for name in names:
            side = SIDES.get(name, 224)
            yield name, functools.partial(_outside, package, name), torch.rand(2, 3, side, side)


def _outside(package: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    if package == "timm":
        network: nn.Module = importlib.import_module(package).create_model(name, pretrained=False)
        return network
    import torchvision

    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    made: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return made


def _row(name: str, network: nn.Module, x: torch.Tensor) -> Row:
    truncated = copy.deepcopy(network).eval()
    regularize(truncated, keep_ratio=KEEP_RATIO)
    fixed = _torchs(network.eval(), x, ())
    ours_fixed, _ = _ours(truncated, x, dynamic=False)
    ours_open, axes = _ours(truncated, x, dynamic=True)
    opened = _torchs(network, x, axes)
    return {
        "network": name,
        "torch, sizes fixed s": fixed,
        "torch, sizes open s": opened,
        "tailcut, sizes fixed s": ours_fixed,
        "tailcut, sizes open s": ours_open,
        "fixed: times torch": ours_fixed / fixed,
        "open: times torch": ours_open / opened,
        "open: times torch fixed": ours_open / fixed,
    }


def _torchs(network: nn.Module, x: torch.Tensor, axes: Sequence[int]) -> float:
    shapes = {"dynamic_shapes": (dict.fromkeys(axes, torch.export.Dim.AUTO),)} if axes else {}
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        torch.onnx.export(network, (x,), Path(folder) / "a.onnx", dynamo=True, verbose=False, **shapes)  # type: ignore[arg-type]
        return time.process_time() - start


def _ours(network: nn.Module, x: torch.Tensor, *, dynamic: bool) -> tuple[float, list[int]]:
    """Seconds, and the axes that are open."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        report = export_onnx(network, Path(folder) / "a.onnx", example_input=x, dynamic=dynamic)
        seconds = time.process_time() - start
    (shape,) = report.inputs.values()
    return seconds, [axis for axis, size in enumerate(shape) if isinstance(size, str)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter prints its workings."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
