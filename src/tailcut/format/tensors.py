"""The canonical list of a network's tensors: what is stored, in which order, and its digest."""

import copy
import hashlib
import math
from dataclasses import dataclass

import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.structure import Coefficients, Edit


@dataclass(frozen=True)
class OtherTensor:
    """A tensor of a state_dict that no edit keeps as coefficients: a bias, a running mean, a plain weight."""

    name: str
    tensor: torch.Tensor
    is_parameter: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True)
class NetworkTensors:
    """All tensors of a network that a file holds, in the order of the file."""

    coefficients: list[Coefficients]
    others: list[OtherTensor]

    def digest(self) -> bytes:
        """4 bytes that change when a name, a shape, an axis or an order weight does; see SPEC.md."""
        lines = [
            f"{entry.name} {_ints(entry.shape)} {_ints(entry.axes)} {_ints(entry.order_weights)}\n"
            for entry in self.coefficients
        ]
        lines += [f"{other.name} {_ints(other.shape)} {'pb'[not other.is_parameter]}\n" for other in self.others]
        return hashlib.blake2b("".join(lines).encode(), digest_size=4).digest()

    def num_parameters(self) -> int:
        """How many numbers the dense network's parameters have."""
        return self.dense_of_kept() + sum(math.prod(other.shape) for other in self.others if other.is_parameter)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the dense tensor, in the order of the file."""
        kept = {entry.name: entry.shape for entry in self.coefficients}
        return kept | {other.name: other.shape for other in self.others}

    def dense_of_kept(self) -> int:
        """How many numbers the tensors kept as coefficients have when dense."""
        return sum(math.prod(entry.shape) for entry in self.coefficients)


def network_tensors(model: nn.Module, edits: list[Edit]) -> NetworkTensors:
    """List the tensors of `model`. Does not change it.

    Raises:
        ArgumentError: a module keeps state that is not a tensor.
        StructureError: an edit's tensors are no longer there.
    """
    coefficients = [entry for edit in edits for entry in edit.coefficients(model)]
    seen = {id(entry.parameter) for entry in coefficients}
    # A state_dict holds trimmed copies of masked vectors: parameters are known by name.
    identity = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    others = []
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            raise ArgumentError(f"{name}: only tensors can be stored, found {type(value).__name__}")
        # Tied tensors appear under several names and are stored once.
        if identity.get(name, id(value)) not in seen:
            seen.add(id(value))
            others.append(OtherTensor(name, value, isinstance(value, nn.Parameter)))
    return NetworkTensors(coefficients, others)


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` whose tensors have shapes but no memory; the model is not changed."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        placeholder = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(placeholder, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _ints(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
