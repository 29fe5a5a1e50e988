"""Canonical list of a network's tensors: names, shapes and order of what is stored, and its digest."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.format.container.contents import DIGEST_BYTES, StoredOther
from tailcut.format.container.streams import Kept
from tailcut.structure import Coefficients, Edit, check_initialized, computed_attributes, deepcopied, record_of


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
        """Return the digest of the canonical list, see `list_digest`."""
        return list_digest(self.coefficients, self.stored_others)

    @property
    def stored_others(self) -> tuple[StoredOther, ...]:
        """The other tensors as a file describes them."""
        return tuple(StoredOther(other.name, other.shape, other.is_parameter) for other in self.others)

    def named(self) -> list[tuple[str, torch.Tensor]]:
        """Name and memory of each: of a tensor kept as coefficients these."""
        kept = [(entry.name, entry.parameter) for entry in self.coefficients]
        return [*kept, *((other.name, other.tensor) for other in self.others)]

    def check_numbers(self) -> None:
        """Raise `ArgumentError` for a tensor on the meta device, which has none."""
        on_meta = next((name for name, tensor in self.named() if tensor.is_meta), None)
        if on_meta is not None:
            raise ArgumentError(f"{on_meta} lies on the meta device and has no numbers: load or initialise it first")

    def in_order(self, names: Sequence[str]) -> "NetworkTensors":
        """Return the same with the other tensors in the order of `names`, if these are theirs; else as they are.

        A layer's parameters change their order when one is taken away and set again, as by `remove_weight_norm`.
        """
        places = {name: place for place, name in enumerate(names)}
        if places.keys() != {other.name for other in self.others}:
            return self
        return NetworkTensors(self.coefficients, sorted(self.others, key=lambda other: places[other.name]))

    def num_parameters(self) -> int:
        """Return the number of parameters of the dense network."""
        return self.num_dense_of_kept() + sum(math.prod(other.shape) for other in self.others if other.is_parameter)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the dense tensor, in the order of the file."""
        kept = {entry.name: entry.shape for entry in self.coefficients}
        return kept | {other.name: other.shape for other in self.others}

    def num_dense_of_kept(self) -> int:
        """Return the number of parameters, when dense, in the tensors kept as coefficients."""
        return sum(math.prod(entry.shape) for entry in self.coefficients)


def list_digest(kept: Iterable[Kept], others: Iterable[StoredOther]) -> bytes:
    """4 bytes that change when a name, a shape, an axis or an order weight does; SPEC.md gives the exact text."""
    lines = [f"{entry.name} {_ints(entry.shape)} {_ints(entry.axes)} {_ints(entry.order_weights)}\n" for entry in kept]
    lines += [f"{other.name} {_ints(other.shape)} {'p' if other.is_parameter else 'b'}\n" for other in others]
    return hashlib.blake2b("".join(lines).encode(), digest_size=DIGEST_BYTES).digest()


def current_tensors(model: nn.Module) -> NetworkTensors:
    """List the tensors of `model` as its edits are now; see `network_tensors`."""
    return network_tensors(model, [edit.current(model) for edit in record_of(model).edits])


def network_tensors(model: nn.Module, edits: list[Edit]) -> NetworkTensors:
    """List the tensors of `model`. Does not change it.

    Raises:
        ArgumentError: a module keeps state that is neither a parameter nor a buffer, is sparse or is not initialised.
        StructureError: an edit's tensors are no longer there.
    """
    coefficients = [entry for edit in edits for entry in edit.coefficients(model)]
    seen = {id(entry.parameter) for entry in coefficients}
    parameters: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors = parameters | dict(model.named_buffers(remove_duplicate=False))
    others = []
    check_initialized(model)
    for name in model.state_dict(keep_vars=True):
        # Only tensors that the model holds itself can be filled in again: a state_dict may have more.
        if name not in tensors:
            raise ArgumentError(
                f"{name}: the state_dict holds it, but it is neither a parameter nor a buffer of that name "
                "(an extra state, or a renaming hook); make it a buffer"
            )
        tensor = tensors[name]
        if tensor.layout != torch.strided:
            raise ArgumentError(f"{name}: sparse tensors cannot be stored; make it dense first")
        # Tied tensors appear under several names and are stored once.
        if id(tensor) not in seen:
            seen.add(id(tensor))
            # Those of a part in TorchScript are plain tensors once it is copied.
            others.append(OtherTensor(name, tensor, isinstance(tensor, nn.Parameter) or name in parameters))
    return NetworkTensors(coefficients, others)


def meta_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` whose tensors have shapes but no memory; the model is not changed.

    Raises:
        ArgumentError: a module of it cannot be copied, or is not initialised.
    """
    check_initialized(model)
    memo: dict[int, object] = {
        id(tensor): torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for tensor in computed_attributes(model)
    }
    for tensor in (*model.parameters(), *model.buffers()):
        bare = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(bare, requires_grad=tensor.requires_grad) if is_parameter else bare
    return deepcopied(model, memo, so_that=", so the file cannot be tried on it")


def _ints(values: Iterable[int]) -> str:
    return ",".join(map(str, values))


def fingerprint(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of the names, types, shapes and values of a network's tensors.

    Names of classes, and other metadata of a file, are no part of it. The model is not changed.
    """
    check_initialized(model)
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue  # a module's own extra state
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
