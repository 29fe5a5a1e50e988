"""Report of a file that was written: its size beside the dense network's."""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from tailcut.files import name_of
from tailcut.format.network.tensors import NetworkTensors
from tailcut.printing import Report


@dataclass(frozen=True)
class SaveReport(Report):
    """Report of `save`.

    Attributes:
        out: the file.
        file_bytes: its size.
        dense_bytes: of the dense network's parameters in float32.
        compression_ratio: `dense_bytes` over `file_bytes`; None for a network without parameters.
        num_parameters: numbers in the parameters of the dense network.
        num_truncated: how many of these are kept as coefficients.
        num_kept: coefficients in the file.
    """

    out: str
    file_bytes: int
    dense_bytes: int
    compression_ratio: float | None
    num_parameters: int
    num_truncated: int
    num_kept: int

    @property
    def size_text(self) -> str:
        """The file and its size beside the dense network's, in words."""
        return size_text(self.out, self.file_bytes, self.dense_bytes, self.compression_ratio)

    def __str__(self) -> str:
        return (
            f"{self.size_text}; "
            f"{self.num_kept:,} coefficients for {self.num_truncated:,} of {self.num_parameters:,} parameters"
        )


def save_report(path: str | Path | IO[bytes], file_bytes: int, tensors: NetworkTensors) -> SaveReport:
    """Return the report of a file with these tensors."""
    return SaveReport(
        name_of(path),
        file_bytes,
        dense_bytes(tensors.num_parameters()),
        compression_ratio(tensors.num_parameters(), file_bytes),
        tensors.num_parameters(),
        tensors.num_dense_of_kept(),
        sum(entry.num_kept for entry in tensors.coefficients),
    )


def size_text(out: str, file_bytes: int, dense: int, ratio: float | None) -> str:
    """Return the name of a file and its size beside the dense network's, in words."""
    times = "" if ratio is None else f" ({ratio:,.1f} : 1)"
    return f"{out}: {file_bytes:,} bytes for {dense:,} of dense float32 parameters{times}"


def dense_bytes(num_parameters: int) -> int:
    """Return the bytes of a dense network's float32 parameters, the base of all ratios."""
    return num_parameters * torch.float32.itemsize


def compression_ratio(num_parameters: int, file_bytes: int) -> float | None:
    """Dense bytes over bytes of the whole file; None for a network without parameters."""
    return round(dense_bytes(num_parameters) / file_bytes, 4) if num_parameters else None
