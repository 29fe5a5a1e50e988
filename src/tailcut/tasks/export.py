"""Files for other programs: ONNX, C99, a page for browsers, or dense weights."""

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch

from tailcut.execution.onnx.export import export_onnx
from tailcut.export_c import export_c
from tailcut.export_html import export_html
from tailcut.files import check_output_path, write_atomically
from tailcut.format import load, resolve
from tailcut.format.file_bytes import read_contents
from tailcut.printing import Report
from tailcut.structure import as_metadata
from tailcut.weights import to_dense

SUFFIXES = {"safetensors": (".safetensors",), "torch": (".pt", ".pth")}  # of dense weights
DYNAMIC: dict[str, bool | Literal["batch"]] = {"all": True, "batch": "batch", "none": False}


@dataclass
class UnpackReport(Report):
    """Report of `unpack`.

    Attributes:
        source: the .tailcut file, as it was given.
        out: the file that was written.
        num_tensors: how many tensors it holds.
        num_parameters: how many numbers.
        file_bytes: its size.
    """

    source: str
    out: str
    num_tensors: int
    num_parameters: int
    file_bytes: int

    def __str__(self) -> str:
        """Return the report as one line."""
        return (
            f"{self.out}: {self.num_tensors} tensors, {self.num_parameters:,} numbers, {self.file_bytes:,} "
            f"bytes, from {self.source}"
        )


def export_file(
    file: str | Path,
    out: str | Path,
    *,
    to: Literal["onnx", "c", "html", "safetensors", "torch"],
    input: Literal["own", "pixels"] | None = None,
    arithmetic: str | None = None,
    image_size: tuple[int, int] | None = None,
    dynamic: Literal["all", "batch", "none"] | None = None,
    level: int | None = None,
) -> Report:
    """Write a file's network for other programs, whole or not at all.

    Args:
        file: a .tailcut file of a registered model, or `zoo:NAME`.
        out: the file to write; for C the folder.
        to: what to write.
        input: of ONNX and C: "pixels" for RGB images of 0 to 1, which are transformed for a network on frequency
            channels or YCbCr; its own input when None.
        arithmetic: of C, see `tailcut.export_c.export_c`; "float32" when None.
        image_size: height and width of the input, of C and pages.
        dynamic: sizes of the input that may vary in ONNX; all that the network lets vary when None.
        level: of a progressive file, see `tailcut.load`.

    Returns:
        The report of what was written.

    Raises:
        FormatError: the file cannot be loaded.
        ArgumentError: `out` cannot be written, there is no such level, or a size does not fit the network.
        StructureError: the network has no such form; the message names what is in the way.
    """
    if to in ("safetensors", "torch"):
        return unpack(file, out, to=to, level=level)
    model, pixels = load(file, level=level), input == "pixels"
    if to == "onnx":
        return export_onnx(model, out, pixels=pixels, dynamic=DYNAMIC[dynamic or "all"], tell=_tell)
    if to == "c":
        return export_c(model, out, image_size=image_size, pixels=pixels, arithmetic=arithmetic or "float32")
    path = resolve(file)
    title = str(file) if str(file).startswith("zoo:") else path.stem
    return export_html(model, out, image_size=image_size, title=title, file_bytes=_file_bytes(path, level))


def _file_bytes(path: Path, level: int | None) -> int:
    """Return how many bytes of a file a level takes; the whole file without levels."""
    ends = () if level is None else read_contents(path, level).level_ends
    return ends[-1] if ends else path.stat().st_size


def _tell(stage: str) -> None:
    print(f"{stage} ...", file=sys.stderr, flush=True)


def unpack(
    file: str | Path,
    out: str | Path,
    *,
    to: Literal["safetensors", "torch"] = "safetensors",
    level: int | None = None,
) -> UnpackReport:
    """Write the dense weights of a .tailcut file as safetensors or as a state_dict of torch, whole or not at all.

    Class names and image size of the network are in the metadata of safetensors as
    `class_names` and `image_size`, lists in JSON.

    Args:
        file: a .tailcut file of a registered model, or `zoo:NAME`.
        out: the file to write.
        to: "safetensors", or "torch" for a file of `torch.save` (tensors by name, nothing else).
        level: of a progressive file, see `tailcut.load`.

    Raises:
        FormatError: the file cannot be loaded.
        ArgumentError: `out` cannot be written or its name says another kind of file, or there is no such level.
    """
    check_output_path(out, *(SUFFIXES[to] if Path(out).suffix else ()))
    network = load(file, level=level)
    state = to_dense(network).state_dict()
    tensors = {name: value.detach().clone().contiguous() for name, value in state.items()}
    if to == "torch":
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        content = buffer.getvalue()
    else:
        content = safetensors.torch.save(tensors, metadata=as_metadata(network) or None)
    write_atomically(out, content)
    num_parameters = sum(value.numel() for value in tensors.values())
    return UnpackReport(str(file), str(out), len(tensors), num_parameters, len(content))
