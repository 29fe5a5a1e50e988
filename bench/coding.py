"""Bytes of a quantised file at the error of its peers, and how fast numbers are coded."""

import importlib
import io
import lzma
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.ao.quantization import PerChannelMinMaxObserver

from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare
from tailcut.compiling import is_installed
from tailcut.errors import ArgumentError
from tailcut.format import load
from tailcut.format.quantized import Coded, Layout, decode, encode
from tailcut.format.save import encode_network
from tailcut.structure import create_model

NETWORKS = ("lenet5-ref", "lenet300-ref")
NNCODEC_QPS = (-32, -24, -20)
FINEST, COARSEST = -120, 16  # steps that are tried, in eighths of an octave
LARGEST_INT8 = 127
PLAIN_NUMBERS = 1 << 13  # fewer than are worth the compiled loops
SPREAD = 3.0  # of the Laplace distribution, in steps


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return a table of bytes at equal error, and one of speed."""
    if scale.is_tiny:
        torch.manual_seed(0)
        networks = {"unet": create_model("unet", **scale.unet_arguments())}
    else:
        networks = {name: load(f"zoo:{name}") for name in NETWORKS}
    return [_sizes([row for name, model in networks.items() for row in _size_rows(name, model)]), _speed(scale)]


def _sizes(rows: list[Row]) -> Table:
    columns = {
        "network": "",
        "peer": "",
        "error": ".2e",
        "peer, bytes": ",d",
        "tailcut, bytes": ",d",
        "bytes / tailcut": ",.3f",
        "at just that error": ",.3f",
    }
    notes = [
        "error: root of the mean squared error of all weights, over that of the weights. tailcut: the whole file, "
        "quantised without data, at the coarsest step whose error is no larger (none: no step of a "
        "file is so fine); of the peers the numbers alone.",
        "at just that error: the same, our bytes on a line between that step and the next coarser one, through the "
        "logarithms of bytes and errors.",
        "int8: torch's observers, a scale for each output channel; its scales and all vectors in float32.",
    ]
    if shutil.which("zstd") is None:
        notes.append("zstd: the program is not installed.")
    if _nncodec() is None:
        notes.append("NNCodec: nncodec is not installed.")
    return Table("Bytes at equal error", columns, rows, notes)


def _size_rows(name: str, model: nn.Module) -> list[Row]:
    state = {key: value.detach() for key, value in model.state_dict().items() if value.is_floating_point()}
    rows: list[Row] = []
    known: dict[int, tuple[int, float]] = {}
    for peer, (num_bytes, restored) in _peers(state).items():
        error = _error(state, restored)
        own, just = _own_bytes(model, state, error, known)
        rows.append(
            {
                "network": name,
                "peer": peer,
                "error": error,
                "peer, bytes": num_bytes,
                "tailcut, bytes": own,
                "bytes / tailcut": None if own is None else num_bytes / own,
                "at just that error": None if just is None else num_bytes / just,
            }
        )
    return rows


def _peers(state: dict[str, Tensor]) -> dict[str, tuple[int, dict[str, Tensor]]]:
    """Return the bytes of each peer, and the tensors that it gives back."""
    halves = {key: value.half() for key, value in state.items()}
    integers = {key: _int8(value) if value.ndim > 1 else (value, value) for key, value in state.items()}
    contents = {
        "float16": (_bytes(list(halves.values())), {key: value.float() for key, value in halves.items()}),
        "int8": (
            _bytes([stored for stored, _ in integers.values()]),
            {key: value for key, (_, value) in integers.items()},
        ),
    }
    found = {}
    for title, (content, restored) in contents.items():
        found[f"{title}, xz"] = (len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)), restored)
        if shutil.which("zstd") is not None:
            done = subprocess.run(
                ["zstd", "--ultra", "-22", "-c", "-q"], input=content, capture_output=True, check=True
            )
            found[f"{title}, zstd"] = (len(done.stdout), restored)
    codec = _nncodec()
    if codec is not None:
        for qp in NNCODEC_QPS:
            found[f"NNCodec, qp {qp}"] = _by_nncodec(codec, state, qp)
    return found


def _int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the integers, with the scales behind them, and the weight that they give: as torch's observer says."""
    observer = PerChannelMinMaxObserver(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    observer(weight)
    scales, _ = observer.calculate_qparams()
    scale = scales.reshape(-1, *[1] * (weight.ndim - 1))
    integers = torch.round(weight / scale).clamp(-LARGEST_INT8 - 1, LARGEST_INT8)
    stored = torch.cat([integers.to(torch.int8).flatten(), scales.float().view(torch.int8)])
    return stored, integers * scale


def _nncodec() -> Any:
    """Return the module of NNCodec, or None where it is not installed."""
    try:
        return importlib.import_module("nncodec.nn")
    except (ImportError, RuntimeError):  # the latter is torchvision's, beside torch's CPU build
        return None


def _by_nncodec(codec: Any, state: dict[str, Tensor], qp: int) -> tuple[int, dict[str, Tensor]]:
    numbers = {key: value.numpy().astype(np.float32) for key, value in state.items()}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        content = codec.encode(numbers, args={"qp": qp, "verbose": False, "results": folder})
        restored = codec.decode(content)
    return len(content), {key: torch.as_tensor(restored[key]).reshape(state[key].shape) for key in state}


def _bytes(tensors: list[Tensor]) -> bytes:
    return b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)


def _error(state: dict[str, Tensor], restored: dict[str, Tensor]) -> float:
    weights = [key for key, value in state.items() if value.ndim > 1]
    squares = sum(float((restored[key].double() - state[key]).square().sum()) for key in weights)
    return math.sqrt(squares / sum(float(state[key].double().square().sum()) for key in weights))


def _own_bytes(
    model: nn.Module, state: dict[str, Tensor], error: float, known: dict[int, tuple[int, float]]
) -> tuple[int | None, float | None]:
    """Return the bytes of the file with the coarsest step whose error is at most that, and those at just that error.

    The latter are estimated between two steps. None: no step is so fine. `known` has bytes and errors of steps that
    were tried, and is added to.
    """
    low, high = FINEST, COARSEST
    while low < high:
        middle = (low + high + 1) // 2
        try:
            if middle not in known:
                known[middle] = _bytes_and_error(model, state, middle)
        except ArgumentError:  # too fine for the largest numbers
            low = middle
            continue
        low, high = (middle, high) if known[middle][1] <= error else (low, middle - 1)
    if low not in known:
        return None, None
    (fine, least), (coarse, most) = known[low], known.get(low + 1) or _bytes_and_error(model, state, low + 1)
    part = math.log(error / least) / math.log(most / least)
    return fine, fine * (coarse / fine) ** part


def _bytes_and_error(model: nn.Module, state: dict[str, Tensor], step: int) -> tuple[int, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tailcut"
        path.write_bytes(encode_network(model, dtype="quantized", step=2.0 ** (step / 8))[0])
        return path.stat().st_size, _error(state, dict(load(path).state_dict()))


def _speed(scale: Scale) -> Table:
    plain, compiled = _numbers(PLAIN_NUMBERS), _numbers(4 * scale.numbers)
    cases = {"plain Python": plain}
    if is_installed():
        cases["compiled by numba"] = compiled
    rows: list[Row] = []
    for title, numbers in cases.items():
        layout = Layout("weight", (len(numbers),), len(numbers))
        payload = encode([layout], [Coded(numbers)])
        ways: dict[str, Callable[[], object]] = {
            "encode": lambda layout=layout, numbers=numbers: encode([layout], [Coded(numbers)]),  # type: ignore[misc]
            "decode": lambda layout=layout, payload=payload: decode(payload, [layout]),  # type: ignore[misc]
        }
        timings = compare(ways, scale)
        rows += [
            {
                "loops": title,
                "direction": way,
                "numbers": len(numbers),
                "bits each": 8 * len(payload) / len(numbers),
                "ms": 1e3 * timing.median_s,
                "numbers/s": len(numbers) / timing.median_s,
                "runs": timing.num_repetitions,
            }
            for way, timing in timings.items()
        ]
    columns = {
        "loops": "",
        "direction": "",
        "numbers": ",d",
        "bits each": ".2f",
        "ms": ",.1f",
        "numbers/s": ",.0f",
        "runs": "d",
    }
    notes = [
        f"Numbers of a Laplace distribution whose mean magnitude is {SPREAD:g} steps, in one tensor; on one thread."
    ]
    return Table("Speed of the coder of quantised numbers", columns, rows, notes)


def _numbers(count: int) -> np.ndarray:
    return np.rint(np.random.default_rng(0).laplace(scale=SPREAD, size=count)).astype(np.int64)
