"""The three factors of a truncated layer: cosines of the input, a small core, cosines of the output."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tailcut.execution.lazy.context import Context
from tailcut.execution.lazy.unsupported import is_traced, is_transformed
from tailcut.transform.dct import expand_axis
from tailcut.weights import TruncatedTensor
from tailcut.weights.layers import find_layer


@dataclass(frozen=True)
class Factorization:
    """weight[out, in, kernel] = sum of outward[out, o] core[o, i, kernel] inward[i, in].

    Attributes:
        core: (num_out, num_in, *kernel); for transposed convolutions too.
        inward: (num_in, in channels of a group), None where that axis is whole.
        outward: (out channels, num_out), None where that axis is whole.
    """

    core: Tensor
    inward: Tensor | None
    outward: Tensor | None


Bases = tuple[Tensor | None, ...]
Kept = TypeVar("Kept", Factorization, Tensor, Bases)


def counts_changes(vector: Tensor, dropped: Tensor) -> bool:
    """Return whether torch tells that a vector or its mask was written to."""
    # Tensors made in inference mode do not count their changes; those of torch.func do not last.
    return not (vector.is_inference() or dropped.is_inference() or is_transformed())


class TruncatedWeight:
    """The weight of one regularised layer, as factors or dense, recomputed only when it changed."""

    def __init__(self, tensor: TruncatedTensor, module: nn.Module) -> None:
        layer = find_layer(module)
        roles = layer.weights.get("weight", ()) if layer is not None else ()
        self.tensor = tensor
        self.swapped = roles[:1] == ("input",)
        self._parameters, self._truncation = tensor.holder._parameters, tensor.truncation
        self._buffers = tensor.truncation._buffers
        self._kept: tuple[object, Any] | None = None
        self._derived: dict[str, Tensor] = {}
        self._bases: tuple[object, Bases] | None = None

    @property
    def vector(self) -> Tensor:
        """The coefficients; no parameter within `torch.func.functional_call`."""
        values: dict[str, Any] = self._parameters
        vector: Tensor = values["original"]
        return vector

    @property
    def num_in(self) -> int:
        """Cosines along the input axis; its size where it is whole."""
        return self._sizes()[0 if self.swapped else 1]

    @property
    def num_out(self) -> int:
        """Cosines along the output axis; its size where it is whole."""
        return self._sizes()[1 if self.swapped else 0]

    @property
    def is_blank(self) -> bool:
        """True for a weight on the meta device, whose corner is not known."""
        return not self.tensor.truncation.corner_shape

    def _sizes(self) -> tuple[int, ...]:
        return self.tensor.truncation.corner_shape or self.tensor.shape

    def factors(self, context: Context) -> Factorization:
        """Return the factors, differentiable where gradients are on."""
        return self._value("factors", self._factors, context)

    def derived(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """Return make(), kept as long as the factors are, of which it is made; `key` tells what it is."""
        if self._is_differentiated():
            return make()
        if key not in self._derived:
            self._derived[key] = self._lasting(make)
        return self._derived[key]

    def dense(self, context: Context) -> Tensor:
        """Return the dense weight, differentiable where gradients are on."""
        return self._value("dense", self._dense, context)

    def _lasting(self, make: Callable[[], Kept]) -> Kept:
        """Call `make` for ordinary tensors: those of inference mode could not be used with gradients later."""
        if not torch.is_inference_mode_enabled():
            return make()
        with torch.inference_mode(mode=False), torch.no_grad():
            return make()

    def _dense(self) -> Tensor:
        # The stride of an axis of size one may be any number, by which torch may take a weight for channels-last and
        # choose slower kernels.
        weight: Tensor = self.tensor.truncation(self.vector).contiguous().flatten().view(self.tensor.shape)
        return weight

    def _factors(self) -> Factorization:
        corner = self.tensor.corner()
        outward, inward, *kernel = self._lasting_bases()
        for axis, basis in enumerate(kernel, 2):
            if basis is not None:
                corner = expand_axis(corner, axis, basis)
        if self.swapped:
            corner = corner.transpose(0, 1)
        return Factorization(corner.contiguous().to(self.tensor.vector.dtype), inward, outward)

    def _lasting_bases(self) -> Bases:
        """Return `_make_bases()`, kept until the corner changes: in training, where each step makes the factors anew.

        Those of wide linear layers are a good part of its work.
        """
        if is_transformed() or is_traced() or torch.compiler.is_compiling():
            return self._make_bases()
        truncation, vector = self.tensor.truncation, self.tensor.vector
        key = id(vector), truncation.corner_shape, truncation.basis_type, vector.dtype, vector.device
        if self._bases is None or self._bases[0] != key:
            self._bases = key, self._lasting(self._make_bases)
        return self._bases[1]

    def _make_bases(self) -> Bases:
        """Return the cosines (out channels, num_out), (num_in, in channels), and those of each kernel axis."""
        first, second, *kernel = self.tensor.bases()
        if self.swapped:
            first, second = second, first
        dtype = self.tensor.vector.dtype
        outward = None if first is None else first.T.contiguous().to(dtype)
        inward = None if second is None else second.to(dtype)
        return outward, inward, *kernel

    def state(self) -> tuple[object, ...] | None:
        """Return a value that changes whenever torch counts a write to a coefficient; None where it does not count."""
        vector, dropped = self._parameters["original"], self._buffers["dropped"]
        if vector is None or dropped is None or not counts_changes(vector, dropped):
            return None
        written = vector._version, vector.data_ptr(), dropped._version
        return id(vector), *written, vector.dtype, id(self._truncation.positions), self._truncation.precision

    def _is_differentiated(self) -> bool:
        return torch.is_grad_enabled() and self.vector.requires_grad

    def _value(self, name: str, make: Callable[[], Kept], context: Context) -> Kept:
        """Return make(): made once per forward where it has gradients, else once until the coefficients change."""
        value: Kept
        if self._is_differentiated():
            key = id(self), name
            if key not in context.memo:
                context.memo[key] = make()
            value = context.memo[key]
            return value
        state = self.state()
        if self._kept is None or state is None or self._kept[0] != (name, state):
            self._kept = (name, state), self._lasting(make)
            self._derived.clear()
        value = self._kept[1]
        return value


def block_diagonal(matrix: Tensor, groups: int) -> Tensor:
    """Repeat the matrix once per group along the diagonal."""
    return matrix if groups == 1 else torch.block_diag(*([matrix] * groups))


def grouped_outward(outward: Tensor | None, num_channels: int, groups: int, like: Tensor) -> Tensor:
    """Return (out channels, groups * num_out), which makes each group's channels of that group's low-rank ones."""
    whole = torch.eye(num_channels, dtype=like.dtype, device=like.device) if outward is None else outward
    return whole if groups == 1 else torch.block_diag(*whole.split(num_channels // groups))
