"""Whether a network is still what its record says: `save` asks before it writes a registered name."""

from typing import Any

from torch import nn

from tailcut.errors import StructureError
from tailcut.format.tensors import NetworkTensors

# Settings of layers that change how they train, not what they compute afterwards.
TRAINING_ONLY = frozenset({"momentum", "p", "inplace"})


def check_same_network(
    expected: nn.Module, expected_tensors: NetworkTensors, found: nn.Module, found_tensors: NetworkTensors
) -> None:
    """Compare tensors, layers and settings of layers; numbers are not looked at. Changes neither network.

    Args:
        expected: rebuilt from the record; the meta device will do.
        expected_tensors: its tensors.
        found: the network to be saved.
        found_tensors: its tensors.

    Raises:
        StructureError: with the first difference.
    """
    if expected_tensors.digest() != found_tensors.digest():
        raise StructureError(_first_difference(expected_tensors, found_tensors))
    wanted, there = dict(expected.named_modules()), dict(found.named_modules())
    for path in {**wanted, **there}:
        if path not in wanted or path not in there:
            raise StructureError(f"module {path} is {'new' if path in there else 'missing'}")
        _check_layer(path or "the network", wanted[path], there[path])


def _check_layer(path: str, wanted: nn.Module, there: nn.Module) -> None:
    if type(wanted).__name__ != type(there).__name__:
        raise StructureError(f"{path} is a {type(there).__name__} instead of a {type(wanted).__name__}")
    for name in sorted(set(getattr(wanted, "__constants__", ())) - TRAINING_ONLY):
        before, now = _plain(getattr(wanted, name, None)), _plain(getattr(there, name, None))
        if before != now:
            raise StructureError(f"{path} has {name}={now} instead of {before}")


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, tuple, type(None))) else type(value).__name__


def _first_difference(expected: NetworkTensors, found: NetworkTensors) -> str:
    wanted, there = expected.shapes(), found.shapes()
    for name, shape in wanted.items():
        if name not in there:
            return f"{name} is missing"
        if there[name] != shape:
            return f"{name} has shape {there[name]} instead of {shape}"
    surplus = [name for name in there if name not in wanted]
    return f"{surplus[0]} is new" if surplus else "its tensors are in another order or of another kind"
