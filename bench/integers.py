"""Networks in C with integers alone, beside float32, on a small core without a floating-point unit.

Needs what `bench.microcontroller` needs, and for the accuracies the data sets.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import tailcut
from bench.machine import Machine
from bench.microcontroller import M3, Measured, measure, missing_tools, write_given
from bench.scale import Scale
from bench.tables import Row, Table
from tailcut.data import open_dataset
from tailcut.data.dataset import DatasetPart
from tailcut.errors import DataNotFoundError
from tailcut.evaluation.evaluate import evaluate
from tailcut.export_c import IntegerNetwork, export_c, integer_program_of, simulate
from tailcut.export_c.export import CExportReport

TITLE = "Networks in C with integers alone, on a Cortex-M3"
# Networks, the data set that they are for, and how many of its test images are looked at.
NETWORKS = (
    ("lenet5-776", "mnist", 10_000),
    ("lenet5-1500", "mnist", 10_000),
    ("lenet300-2816", "mnist", 10_000),
    ("cifar10-resnet20-combined", "cifar10@128", 1_000),
    ("resnet18-9900", "cifar10", 1_000),
    ("vgg16-16384", "cifar10", 1_000),
)


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Measure networks in integers and in float32."""
    del machine
    networks = NETWORKS[:1] if scale.is_tiny else NETWORKS
    columns = {
        "network": "",
        "arithmetic": "",
        "constants": ",",
        "code": ",",
        "network and runner": ",",
        "RAM: arena": ",",
        "RAM: input and output": ",",
        "RAM: stack": ",",
        "million instructions": ",.1f",
        "with -O2": ",.1f",
        "accuracy": "",
        "images": ",",
    }
    notes = [
        "Bytes. Cortex-M3, which has no floating-point unit: float32 is computed by the compiler's functions, whose "
        "code counts. -Os but where it says -O2, in QEMU (mps2-an385), which counts instructions and knows no cycles. "
        "The integers' outputs there are those of Python bit for bit. accuracy: on the first test images."
    ]
    missing = missing_tools()
    if missing:
        return [Table(TITLE, columns, [], [*notes, f"needs {' and '.join(missing)}."])]
    return [Table(TITLE, columns, [row for network in networks for row in _rows(*network)], notes)]


def _rows(name: str, data: str, num_images: int) -> list[Row]:
    model = tailcut.load(f"zoo:{name}")
    rows: list[Row] = []
    for arithmetic in ("integer", "float32"):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            report = export_c(model, folder, arithmetic=arithmetic)
            small, fast = _measured(model, folder, report, f"zoo:{name}")
        constants = sum(report.flash_bytes.values())
        network = IntegerNetwork(model) if arithmetic == "integer" else model
        accuracy = _accuracy(network, data, num_images)
        rows.append(
            {
                "network": name,
                "arithmetic": arithmetic,
                "constants": constants,
                "code": small.flash - constants,
                "network and runner": small.flash,
                "RAM: arena": report.arena_bytes,
                "RAM: input and output": report.input_and_output_bytes,
                "RAM: stack": small.stack,
                "million instructions": small.instructions / 1e6,
                "with -O2": fast.instructions / 1e6,
                "accuracy": "-" if accuracy is None else f"{100 * accuracy:.2f} %",
                "images": num_images,
            }
        )
    return rows


def _measured(model: nn.Module, folder: Path, report: CExportReport, file: str) -> tuple[Measured, Measured]:
    """Run with -Os and with -O2 on one image of noise; an error if integers come out otherwise than in Python."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, *report.input_shape, generator=generator)
    is_integer = report.arithmetic == "integer"
    x = (32_767 * x).round().to(torch.int64) if is_integer else x
    write_given(folder, x, file)
    small, fast = (measure(folder, report, optimize=optimize, core=M3) for optimize in ("-Os", "-O2"))
    if is_integer:
        outputs = simulate(integer_program_of(model), x.numpy())
        parts = [output.exponents for output in outputs] + [output.numbers.reshape(-1) for output in outputs]
        wanted = torch.cat([torch.from_numpy(part) for part in parts])
        for found in (small, fast):
            if not torch.equal(found.outputs.to(torch.int64), wanted):
                raise RuntimeError(f"{file}: the core's integers differ from Python's")
    return small, fast


def _accuracy(model: nn.Module, data: str, num_images: int) -> float | None:
    """Accuracy on the first test images; None where the data set is not."""
    try:
        dataset = open_dataset(data)
    except DataNotFoundError:
        return None
    return evaluate(model, DatasetPart(dataset, range(num_images), dataset.split), dense=True)["accuracy"]
