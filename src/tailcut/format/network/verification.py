"""Check before saving that a network matches its record."""

import logging
from typing import Any

import torch
from torch import nn

from tailcut.errors import StructureError
from tailcut.format.network.tensors import NetworkTensors
from tailcut.structure import record_of
from tailcut.structure.views import unwrap
from tailcut.weights import truncated_tensors

_log = logging.getLogger(__name__)

# Settings of layers that change how they train, not what they compute afterwards.
TRAINING_ONLY = frozenset({"momentum", "p", "inplace"})


def check_not_wrapped(model: nn.Module, *, registered: bool) -> None:
    """Refuse what only runs another network, whose record its file would lose. Does not change the model.

    Args:
        model: to be saved.
        registered: whether its registered name shall be written.

    Raises:
        StructureError: it is a DataParallel, a DistributedDataParallel or of torch.compile, and the network inside was
            edited or is a registered one; or it is of TorchScript, whose parameters torch does not tell from buffers.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise StructureError("a TorchScript network cannot be saved: save the torch.nn.Module that it was made from")
    inner, path = unwrap(model)
    record = record_of(inner)
    if inner is model:
        return
    if record.edits:
        raise StructureError(
            f"{type(model).__name__} is a wrapper: save the network that the edit {record.edits[0].kind!r} was made "
            f"on, its {path}"
        )
    # A wrapper with edits must be saved itself: only its own record holds them.
    if registered and record.base is not None and not record_of(model).edits:
        raise StructureError(
            f"{type(model).__name__} is a wrapper: save the registered network {record.base.name!r} in it, its {path}; "
            "or the wrapper as a class of your own, with registered=False"
        )


def warn_of_wrapper(model: nn.Module, *, registered: bool) -> None:
    """Warn, once for each file, where names are stored that only a wrapper like this one has.

    Args:
        model: that `check_not_wrapped` lets pass.
        registered: see there; False says that it is meant.
    """
    inner, path = unwrap(model)
    if registered and inner is not model:
        _log.warning(
            "%s is a wrapper: in the file names have its prefix, so that it loads into such a wrapper only; save the "
            "network in it, its %s, or say registered=False if that is meant",
            type(model).__name__,
            path,
        )


def check_covered(model: nn.Module, tensors: NetworkTensors, *, rebuilt: bool) -> None:
    """Refuse a network with an edited part: the edit is in the part's record, so the file would lack it.

    Args:
        model: to be saved; it is not changed.
        tensors: its tensors.
        rebuilt: whether the file names a registered network, so that `check_same_network` compares the parts, and those
            that the registered class edits itself are no loss; or the caller said that it shall name none, and will
            load it into a class that is so already.

    Raises:
        StructureError: a part was edited, but not by a call on this model.
    """
    known = {id(entry.parameter) for entry in tensors.coefficients}
    lost = next((tensor.name for tensor in truncated_tensors(model) if id(tensor.vector) not in known), None)
    if lost is not None:
        raise StructureError(
            f"{lost} is regularised, but not by a call on this model: save the network that regularize was called "
            "on (of a wrapper its .module), or regularise the whole one, with include= for the part"
        )
    parts = [] if rebuilt else [(path, part) for path, part in model.named_modules() if part is not model]
    for path, part in parts:
        # An edit that keeps coefficients and no longer has any (`to_dense` of the whole) is no loss.
        edit = next((edit for edit in record_of(part).edits if not edit.coefficient_layouts()), None)
        if edit is not None:
            raise StructureError(
                f"{path} was changed by the edit {edit.kind!r}, but not by a call on this model: save the network that "
                "the edit was made on (of a wrapper its .module), or edit the whole one; a class that edits its part "
                "itself, as it is made, can be saved once it is registered (tailcut.register_model), or with "
                "registered=False, to be loaded into such a class"
            )


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
