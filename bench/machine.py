"""The machine a benchmark ran on: its name, and how fast it can copy memory and multiply matrices."""

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.scale import Scale
from bench.timing import compare


@dataclass(frozen=True)
class Machine:
    """What figures are compared with.

    Attributes:
        processor: the processor's name.
        note: what the caller says about the machine.
        num_threads: threads torch used.
        copy_rate: bytes read and written per second by a copy of a large tensor.
        product_rate: floating-point operations per second of a large float32 matrix product.
        torch_version: version of torch.
        python_version: version of Python.
    """

    processor: str
    note: str
    num_threads: int
    copy_rate: float
    product_rate: float
    torch_version: str
    python_version: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.processor}{note}, {self.num_threads} threads, torch {self.torch_version}, "
            f"Python {self.python_version}\n"
            f"measured limits: copy {self.copy_rate / 1e9:.1f} GB/s (read and written), "
            f"float32 matrix product {self.product_rate / 1e9:.1f} GFLOP/s"
        )


def measure_machine(scale: Scale, note: str = "") -> Machine:
    """Measure the limits with the number of threads that torch is set to."""
    source = torch.ones(scale.limit_bytes // 4)
    target = torch.empty_like(source)
    left = torch.randn(scale.limit_size, scale.limit_size)
    right = torch.randn(scale.limit_size, scale.limit_size)
    candidates = {"copy": lambda: target.copy_(source), "product": lambda: left @ right}
    # The limit is the best run: a disturbed one measures something else.
    timings = compare(candidates, scale, share=0.5)
    return Machine(
        processor=processor_name(),
        note=note,
        num_threads=torch.get_num_threads(),
        copy_rate=2 * scale.limit_bytes / timings["copy"].best_s,
        product_rate=2 * scale.limit_size**3 / timings["product"].best_s,
        torch_version=torch.__version__,
        python_version=platform.python_version(),
    )


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
