"""The parametrisation: a weight tensor that is the inverse DCT of a vector of its first coefficients."""

import math
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.transform.corner import Stage, plan_stages
from tailcut.transform.order import flat_positions, l1_order_index

PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Truncation(nn.Module):
    """Maps a vector of n coefficients to the tensor whose DCT begins with them (equation 2 of the paper).

    For `torch.nn.utils.parametrize`. In plain words: the forward places the vector into the low-frequency
    corner and expands each axis by a truncated cosine basis; the right inverse projects a tensor on the same
    cosines. Positions and bases are constants: non-persistent buffers, made again where a move would lose them
    (meta devices, `to_empty`), and always float32 (float64 for float64 vectors).

    Coefficients beyond `num_kept` count as zero without the vector changing its length, so that optimisers,
    DDP, compiled graphs and moving averages never see a parameter of another shape; `resize` shortens it.

    Attributes:
        shape: shape of the tensor.
        axes: the transformed axes, sorted.
        order_weights: one positive integer per transformed axis.
        corner_shape: sizes of the corner that holds the vector.
        basis_type: type the transform is computed in: float32, or float64 for float64 vectors.
        precision: "float32", or the type the forward rounds coefficients to (straight-through).
        masked: whether the forward masks the tail; fixed while a graph runs.
        held: the weight while one forward of a layer that reads it several times runs, else None.
        attaching: what the right inverse does when it is registered: "project" the weight, leave the vector
            "blank" for a file to fill, or "adopt" the vector of a tied parameter.
    """

    positions: torch.Tensor
    kept: torch.Tensor
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
        self.masked = False
        self.stages: tuple[Stage, ...] = ()
        self.corner_shape: tuple[int, ...] = ()
        self.held: torch.Tensor | None = None
        self.attaching = "project"
        self.resize(length, device=torch.device(device), dtype=_compute_type(dtype))

    @property
    def length(self) -> int:
        """How many entries the vector has."""
        return self.positions.shape[0]

    @property
    def num_kept(self) -> int:
        """How many coefficients count; the rest of the vector is masked."""
        if not self.masked or self.kept.is_meta:
            return self.length
        return int(self.kept)

    def cut(self, num_kept: int) -> None:
        """Mask all but the first `num_kept` coefficients (changes this module; the vector stays as it is)."""
        if not 1 <= num_kept <= self.length:
            raise ArgumentError(f"expected 1 to {self.length} coefficients to keep, got {num_kept}")
        self.masked = True
        self.kept.fill_(num_kept)

    def resize(self, length: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        """Make the constants for vectors of `length` entries, none of them masked (changes this module)."""
        device = self.positions.device if device is None else device
        dtype = self.basis_type if dtype is None else dtype
        self.basis_type = dtype
        with torch.inference_mode(False):
            if device.type == "meta":
                self._set_constants(torch.empty(length, dtype=torch.int64, device=device), (), ())
                return
            index = l1_order_index(self.shape, length, axes=self.axes, weights=self.order_weights)
            corner = _corner_shape(index, self.shape, self.axes)
            positions = torch.from_numpy(flat_positions(index, corner))
            stages = plan_stages(corner, self.shape, self.axes)
            self._set_constants(positions.to(device), corner, stages)

    def _set_constants(self, positions: torch.Tensor, corner: tuple[int, ...], stages: tuple[Stage, ...]) -> None:
        device = positions.device
        for name in [name for name in self._buffers if name.startswith("basis_")]:
            del self._buffers[name]
        self.corner_shape, self.stages = corner, stages
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("kept", torch.full((), len(positions), device=device), persistent=False)
        for number, stage in enumerate(stages):
            basis = None if stage.by_fft else stage.basis(self.basis_type).to(device)
            self.register_buffer(f"basis_{number}", basis, persistent=False)

    def _bases(self) -> list[torch.Tensor | None]:
        return [getattr(self, f"basis_{number}") for number in range(len(self.stages))]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # Conversions must not round the bases, and `to_empty` must not leave them undefined: what `fn` would
        # make of a constant tells only the device and the type to go to.
        constants = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        probe = fn(torch.empty(0, dtype=self.basis_type, device=self.positions.device))
        dtype = _compute_type(probe.dtype)
        if probe.device == self.positions.device and dtype == self.basis_type:
            return self
        if self.positions.is_meta or dtype != self.basis_type:
            num_kept = self.num_kept
            self.resize(self.length, device=probe.device, dtype=dtype)
            if num_kept < self.length:
                self.kept.fill_(num_kept)
        else:
            for name, buffer in constants.items():
                self._buffers[name] = buffer.to(probe.device)
        return self

    def coefficients(self, vector: torch.Tensor) -> torch.Tensor:
        """The vector as it counts: rounded to the precision (straight-through), the tail masked. (length,)."""
        values = vector.to(_compute_type(vector.dtype))
        rounded_to = PRECISIONS[self.precision]
        if rounded_to is not None:
            values = values + (values.detach().to(rounded_to).to(values.dtype) - values.detach())
        if self.masked:
            places = torch.arange(self.length, device=vector.device)
            values = torch.where(places < self.kept, values, torch.zeros_like(values))
        return values

    def corner(self, vector: torch.Tensor) -> torch.Tensor:
        """The low-frequency corner that holds the coefficients; zeros between. Shape `corner_shape`."""
        values = self.coefficients(vector)
        empty = values.new_zeros(math.prod(self.corner_shape))
        return empty.index_copy(0, self.positions, values).reshape(self.corner_shape)

    def forward(self, vector: torch.Tensor) -> torch.Tensor:
        """The dense tensor, shape `shape`, of a vector, shape (length,). Not reduced under autocast."""
        if self.held is not None:
            return self.held
        if torch.is_autocast_enabled(vector.device.type):
            with torch.autocast(vector.device.type, enabled=False):
                return self._expand(vector)
        return self._expand(vector)

    def _expand(self, vector: torch.Tensor) -> torch.Tensor:
        if vector.is_meta:
            return vector.new_empty(self.shape)
        x = self.corner(vector)
        for stage, basis in zip(self.stages, self._bases(), strict=True):
            x = stage.expand(x, basis)
        return x.to(vector.dtype)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The first coefficients of a dense tensor: shape `shape` to shape (length,)."""
        if self.attaching == "adopt":
            return weight.detach()
        if weight.is_meta or self.attaching == "blank":
            return weight.new_zeros(self.length)
        x = weight.to(_compute_type(weight.dtype))
        for stage, basis in zip(reversed(self.stages), reversed(self._bases()), strict=True):
            x = stage.project(x, basis)
        corner = x[tuple(slice(size) for size in self.corner_shape)]
        return corner.reshape(-1)[self.positions].to(weight.dtype)

    def extra_repr(self) -> str:
        """Shape, axes and count, for `print(model)`."""
        return f"shape={self.shape}, axes={self.axes}, num_kept={self.num_kept}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Truncation":
        # Constants are never written to, so copies share them; only the count may change.
        copied = self.__new__(type(self))
        memo[id(self)] = copied
        own = {name: copy(value) for name, value in self.__dict__.items() if isinstance(value, (dict, set))}
        copied.__dict__ = {**self.__dict__, **own, "held": None}
        copied.kept = self.kept.clone()
        return copied


def _compute_type(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _corner_shape(index: np.ndarray, shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    largest = index.max(axis=0) if len(index) else np.zeros(len(shape), dtype=np.int64)
    return tuple(int(largest[axis]) + 1 if axis in axes else size for axis, size in enumerate(shape))
