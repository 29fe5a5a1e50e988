"""Parametrization that computes a weight as the inverse DCT of a vector of its first coefficients."""

import math
import threading
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Self
from weakref import WeakValueDictionary

import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.transform.corner import Stage, plan_stages
from tailcut.transform.dct import without_autocast
from tailcut.transform.order import corner_positions
from tailcut.weights.parametrization.dense_cache import KeptWeight, can_cache, weight_of

_bases_in_use: WeakValueDictionary[tuple[Any, ...], torch.Tensor] = WeakValueDictionary()
PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Truncation(nn.Module):
    """Maps a vector of n coefficients to the tensor whose DCT begins with them (equation 2 of the paper).

    For `torch.nn.utils.parametrize`. In plain words: the forward places the vector into the low-frequency
    corner and expands each axis by a truncated cosine basis; the right inverse projects a tensor on the same
    cosines. Positions and bases are constants, made again where a move would lose them (meta devices,
    `to_empty`), and the bases always float32 (float64 for float64 vectors). Bases are non-persistent buffers;
    positions are a plain attribute, since those who average buffers would round them to wrong ones.

    Coefficients beyond `num_kept` count as zero without the vector changing its length, so that optimisers,
    DDP, compiled graphs and moving averages never see a parameter of another shape; `resize` shortens it.

    Attributes:
        shape: shape of the tensor.
        axes: the transformed axes, sorted.
        order_weights: one positive integer per transformed axis.
        corner_shape: sizes of the corner that holds the vector.
        basis_type: type the transform is computed in: float32, or float64 for float64 vectors.
        precision: "float32", or the type the forward rounds coefficients to (straight-through).
        positions: place of each coefficient in the flattened corner, int64, shape (length,).
        dropped: buffer, shape (length,): 0 for a coefficient that counts, positive for one that is masked. Not
            a number, and not bool: averages of buffers then drop what the model has dropped.
        kept: in evaluation the weight as it was last made, and what it was made of; None in training.
        held: while a forward of a layer that reads the weight several times runs, the thread that runs it and the
            weight that it made; else None. Other threads may run without gradients, and have no use for it.
        attaching: what the right inverse does when it is registered: "project" the weight, leave the vector
            "blank" for a file to fill, or "adopt" the vector of a tied parameter.
    """

    positions: torch.Tensor
    dropped: torch.Tensor
    basis_type: torch.dtype

    def __init__(
        self,
        shape: Sequence[int],
        length: int,
        *,
        axes: Sequence[int],
        order_weights: Sequence[int],
        precision: str = "float32",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ArgumentError(f"expected a precision of {', '.join(PRECISIONS)}, got {precision!r}")
        self.shape = tuple(shape)
        self.axes = tuple(axes)
        self.order_weights = tuple(order_weights)
        self.precision = precision
        self.stages: tuple[Stage, ...] = ()
        self.corner_shape: tuple[int, ...] = ()
        self.held: tuple[int, torch.Tensor] | None = None
        self.kept: KeptWeight | None = None
        self.attaching = "project"
        self.resize(length, device=torch.device(device), dtype=compute_type(dtype))

    @property
    def length(self) -> int:
        """Number of entries of the vector."""
        return self.positions.shape[0]

    @property
    def num_kept(self) -> int:
        """Number of coefficients that count; the rest of the vector is masked."""
        if self.dropped.is_meta:
            return self.length
        return int(torch.searchsorted(self.dropped, 0.0, right=True))  # zeros first: no need to read them all

    def cut(self, num_kept: int) -> None:
        """Mask all but the first `num_kept` coefficients (changes this module; the vector stays as it is)."""
        if not 1 <= num_kept <= self.length:
            raise ArgumentError(f"expected 1 to {self.length} coefficients to keep, got {num_kept}")
        self.kept = None
        self.dropped[:num_kept] = 0
        self.dropped[num_kept:] = 1

    def resize(self, length: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        """Make the constants for vectors of `length` entries, none of them masked (changes this module)."""
        self.kept = None
        device = self.positions.device if device is None else device
        dtype = self.basis_type if dtype is None else dtype
        self.basis_type = dtype
        with torch.inference_mode(False):
            if device.type == "meta":
                self._set_constants(torch.empty(length, dtype=torch.int64, device=device), (), ())
                return
            positions, corner = corner_positions(self.shape, length, axes=self.axes, weights=self.order_weights)
            self._set_constants(torch.from_numpy(positions).to(device), corner, self.planned(corner, device))

    def planned(self, corner: Sequence[int], device: torch.device) -> tuple[Stage, ...]:
        """Return the steps from a corner to the tensor on a device: long axes take an FFT on a CPU alone."""
        return plan_stages(corner, self.shape, self.axes, prefer_matrices=device.type != "cpu")

    def _set_constants(self, positions: torch.Tensor, corner: tuple[int, ...], stages: tuple[Stage, ...]) -> None:
        device = positions.device
        for name in [name for name in self._buffers if name.startswith("basis_")]:
            del self._buffers[name]
        self.corner_shape, self.stages, self.positions = corner, stages, positions
        dropped = torch.zeros(len(positions), dtype=torch.bfloat16, device=device)
        self.register_buffer("dropped", dropped, persistent=False)
        for number, stage in enumerate(stages):
            basis = None if stage.by_fft else _shared_basis(stage, self.basis_type, device)
            self.register_buffer(f"basis_{number}", basis, persistent=False)

    def train(self, mode: bool = True) -> Self:
        """As any module's; in training no weight is kept."""
        self.kept = None
        return super().train(mode)

    def constant_names(self) -> list[str]:
        """Return the names of all possible buffers."""
        return ["dropped", *(f"basis_{number}" for number in range(len(self.shape)))]

    def _bases(self) -> list[torch.Tensor | None]:
        return [getattr(self, f"basis_{number}") for number in range(len(self.stages))]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Conversions must not round the bases, and `to_empty` must not leave them undefined: what `fn` would
        # make of a constant gives only the target device and type.
        self.kept = None
        probe = fn(torch.empty(0, dtype=self.basis_type, device=self.positions.device))
        dtype = compute_type(probe.dtype)
        if probe.device == self.positions.device and dtype == self.basis_type:
            return self
        if self.positions.is_meta or dtype != self.basis_type:
            num_kept = self.num_kept
            self.resize(self.length, device=probe.device, dtype=dtype)
            self.cut(num_kept)
        elif probe.device.type not in (self.positions.device.type, "meta"):
            num_kept, positions = self.num_kept, self.positions.to(probe.device)
            with torch.inference_mode(False):
                self._set_constants(positions, self.corner_shape, self.planned(self.corner_shape, probe.device))
            self.cut(num_kept)
        else:
            self.positions = self.positions.to(probe.device)
            for name, buffer in self._buffers.items():
                self._buffers[name] = None if buffer is None else buffer.to(probe.device)
        return self

    def coefficients(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the vector of the forward: rounded to the precision (straight-through), the tail masked. (length,)."""
        values = vector.to(compute_type(vector.dtype))
        rounded_to = PRECISIONS[self.precision]
        if rounded_to is not None:
            values = values + (values.detach().to(rounded_to).to(values.dtype) - values.detach())
        return values.masked_fill(self.dropped > 0, 0.0)

    def corner(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the low-frequency corner that holds the coefficients; zeros between. Shape `corner_shape`."""
        values = self.coefficients(vector)
        empty = values.new_zeros(math.prod(self.corner_shape))
        return empty.index_copy(0, self.positions, values).reshape(self.corner_shape)

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the dense tensor, shape `shape`, of a vector, shape (length,). Not reduced under autocast."""
        held = self.held
        if held is not None and held[0] == this_thread():
            return held[1]
        if self.training or torch.compiler.is_compiling() or not can_cache(vector, self.dropped):
            return self.expand(vector)
        return weight_of(self, vector)

    def expand(self, vector: torch.Tensor) -> torch.Tensor:
        """`forward`, made anew in any case."""
        if vector.is_meta:
            return vector.new_empty(self.shape)
        with without_autocast(vector.device):
            x = self.corner(vector)
            for stage, basis in zip(self.stages, self._bases(), strict=True):
                x = stage.expand(x, None if basis is None else basis.to(x.dtype))
            return x.to(vector.dtype)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the first coefficients of a dense tensor: shape `shape` to shape (length,)."""
        if self.attaching == "adopt":
            return weight.detach()
        if weight.is_meta or self.attaching == "blank":
            return weight.new_zeros(self.length)
        return self.project(weight).to(weight.dtype)

    def project(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the coefficients of `weight` in the type of the computation, before rounding: (length,)."""
        x = weight.to(compute_type(weight.dtype))
        with without_autocast(weight.device):
            for stage, basis in zip(reversed(self.stages), reversed(self._bases()), strict=True):
                x = stage.project(x, basis)
        for axis, size in enumerate(self.corner_shape):
            x = x if size == x.shape[axis] else x.narrow(axis, 0, size)
        return x.reshape(-1)[self.positions]

    def extra_repr(self) -> str:
        """Shape, axes and count, for `print(model)`."""
        return f"shape={self.shape}, axes={self.axes}, num_kept={self.num_kept}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Truncation":
        # Constants keep their values, so copies share them; only what is dropped may change.
        copied = self.__new__(type(self))
        memo[id(self)] = copied
        own = {name: copy(value) for name, value in self.__dict__.items() if isinstance(value, (dict, set))}
        copied.__dict__ = {**self.__dict__, **own, "held": None, "kept": None}
        with torch.inference_mode(False):
            copied.dropped = self.dropped.clone()
        return copied


def this_thread() -> int:
    """Return the number of the thread; 0 in a compiled program, which cannot ask."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


def compute_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type of the transform's computation: float64 for float64 vectors, float32 for all others.

    Raises:
        ArgumentError: the type is complex.
    """
    if dtype.is_complex:
        raise ArgumentError(
            f"expected a real type for coefficients, got {dtype}: their imaginary part would be lost; convert the "
            "plain network, tailcut.to_dense(model)"
        )
    return torch.float64 if dtype == torch.float64 else torch.float32


def _shared_basis(stage: Stage, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the basis of a stage: one read-only tensor, shared by all truncations in use."""
    key = (stage.kept, stage.sizes, dtype, device)
    basis = _bases_in_use.get(key)
    if basis is None:
        basis = _bases_in_use[key] = stage.basis(dtype).to(device)
    return basis
