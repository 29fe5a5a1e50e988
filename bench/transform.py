"""All weights of the paper's UNet from their coefficients: truncated bases against whole FFTs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
import torch_dct

from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import Timing, compare
from tailcut.structure import create_model
from tailcut.transform import l1_order
from tailcut.weights import TruncatedTensor, regularize, truncated_tensors

# What is kept of each weight: a title, and the number as a function of the weight's size.
KEPT: dict[str, Callable[[int], int]] = {
    "33": lambda size: min(33, size),
    "128": lambda size: min(128, size),
    "1 %": lambda size: max(1, size // 100),
}
PEERS = ("torch-dct", "SciPy")


@dataclass(frozen=True)
class Weights:
    """The weights of a network as coefficients, both ways.

    Attributes:
        tensors: the truncated tensors, as Tailcut keeps them.
        padded: their coefficients in tensors of the weights' shapes, zeros behind those kept.
        gradients: a gradient of each weight.
    """

    tensors: Sequence[TruncatedTensor]
    padded: Sequence[torch.Tensor]
    gradients: Sequence[torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """Bytes of the dense weights in float32."""
        return 4 * sum(padded.numel() for padded in self.padded)


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Forward, and forward with backward, for several numbers of kept coefficients."""
    forward, both = [], []
    for title, count in KEPT.items():
        weights = make_weights(scale, count)
        check_agreement(weights)
        forward.append(_row(title, weights, _time_forward(weights, scale), machine, num_passes=1))
        both.append(_row(title, weights, _time_both(weights, scale), machine, num_passes=2))
    size = f"all {len(weights.tensors)} weights of the UNet ({weights.num_bytes / 1e6:.1f} MB) from coefficients"
    notes = (
        "torch-dct and SciPy: inverse DCT by FFT along each of the four axes of the zero-padded coefficients; SciPy "
        "with as many workers as torch has threads.",
        "GB/s: bytes of the dense weights over Tailcut's time (backward: they are read once more); limit: what a copy "
        "reads and writes.",
    )
    columns = {"kept of each": "", "coefficients": ",d", "tailcut ms": ".1f"}
    for peer in PEERS:
        columns |= {f"{peer} ms": ".1f", f"{peer} / tailcut": ".1f"}
    columns |= {"GB/s": ".1f", "of limit %": ".0f", "runs": "d"}
    without_scipy = {key: form for key, form in columns.items() if not key.startswith("SciPy")}
    return [
        Table(f"Forward: {size}", columns, forward, notes),
        Table(f"Forward and backward: {size}", without_scipy, both, ("SciPy has no backward.",)),
    ]


def make_weights(scale: Scale, count: Callable[[int], int]) -> Weights:
    """Return the UNet's weights with random coefficients."""
    torch.manual_seed(0)
    model = create_model("unet", **scale.unet_arguments())
    counts = {name: count(weight.numel()) for name, weight in model.named_parameters() if weight.ndim > 1}
    regularize(model, num_kept=counts)
    tensors = truncated_tensors(model)
    padded = []
    for tensor in tensors:
        whole = torch.zeros(math.prod(tensor.shape))
        whole[l1_order(tensor.shape, tensor.num_kept)] = tensor.vector.detach()
        padded.append(whole.reshape(tensor.shape))
    return Weights(tensors, padded, [torch.randn(tensor.shape) for tensor in tensors])


def expand_by_truncated_bases(weights: Weights) -> list[torch.Tensor]:
    """Tailcut's way."""
    return [tensor.truncation(tensor.vector) for tensor in weights.tensors]


def expand_by_torch_dct(padded: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the published code's way: an FFT along each axis."""
    return [idct_by_torch_dct(tensor) for tensor in padded]


def idct_by_torch_dct(x: torch.Tensor) -> torch.Tensor:
    """Orthonormal inverse DCT along all axes."""
    for axis in range(x.ndim):
        x = torch_dct.idct(x.transpose(axis, -1), norm="ortho").transpose(axis, -1)
    return x


def expand_by_scipy(padded: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """SciPy's way."""
    workers = torch.get_num_threads()
    return [scipy.fft.idctn(tensor.numpy(), norm="ortho", workers=workers) for tensor in padded]


def check_agreement(weights: Weights) -> None:
    """Raise unless all ways give the same weights: a wrong answer has no speed."""
    with torch.no_grad():
        ours, peer = expand_by_truncated_bases(weights), expand_by_torch_dct(weights.padded)
    for own, other, scipys in zip(ours, peer, expand_by_scipy(weights.padded), strict=True):
        torch.testing.assert_close(own, torch.from_numpy(scipys), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def _time_forward(weights: Weights, scale: Scale) -> dict[str, Timing]:
    candidates: dict[str, Callable[[], object]] = {
        "tailcut": lambda: expand_by_truncated_bases(weights),
        "torch-dct": lambda: expand_by_torch_dct(weights.padded),
        "SciPy": lambda: expand_by_scipy(weights.padded),
    }
    with torch.no_grad():
        return compare(candidates, scale)


def _time_both(weights: Weights, scale: Scale) -> dict[str, Timing]:
    vectors = [tensor.vector for tensor in weights.tensors]
    leaves = [padded.clone().requires_grad_() for padded in weights.padded]
    candidates: dict[str, Callable[[], object]] = {
        "tailcut": lambda: torch.autograd.grad(expand_by_truncated_bases(weights), vectors, weights.gradients),
        "torch-dct": lambda: torch.autograd.grad(expand_by_torch_dct(leaves), leaves, weights.gradients),
    }
    return compare(candidates, scale)


def _row(title: str, weights: Weights, timings: dict[str, Timing], machine: Machine, num_passes: int) -> Row:
    own = timings["tailcut"].median_s
    rate = num_passes * weights.num_bytes / own
    row: dict[str, str | int | float | None] = {
        "kept of each": title,
        "coefficients": sum(tensor.num_kept for tensor in weights.tensors),
        "tailcut ms": 1e3 * own,
        "GB/s": rate / 1e9,
        "of limit %": 100 * rate / machine.copy_rate,
        "runs": timings["tailcut"].num_repetitions,
    }
    for peer in PEERS:
        if peer in timings:
            row[f"{peer} ms"] = 1e3 * timings[peer].median_s
            row[f"{peer} / tailcut"] = timings[peer].median_s / own
    return row
