"""Types of modules, also those of libraries that are not needed here."""

from torch import nn

TRANSFORMERS_CONV1D = "transformers.pytorch_utils.Conv1D"
"""The linear layer of GPT-2, which holds its weight as (in, out)."""

GEOMETRIC_LINEAR = "torch_geometric.nn.dense.linear.Linear"
"""The linear layer of torch_geometric, which holds its weight as (out, in)."""

LINEAR_LAYERS: tuple[type[nn.Module] | str, ...] = (nn.Linear, TRANSFORMERS_CONV1D, GEOMETRIC_LINEAR)
"""Layers that multiply the last axis of their input with a matrix, and add a bias if they have one."""


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer, of torch or of a library that is known here."""
    return any(is_of_type(module, kind) for kind in LINEAR_LAYERS)


def is_of_type(module: nn.Module, kind: type[nn.Module] | str) -> bool:
    """Return whether a module is of a class or of a subclass; by its full name if its library is not needed."""
    if isinstance(kind, str):
        return named_base(module, kind) is not None
    return isinstance(module, kind)


def named_base(module: nn.Module, full_name: str) -> type | None:
    """Return the class of that full name among the module's class and its bases, or None."""
    return next((each for each in type(module).__mro__ if f"{each.__module__}.{each.__qualname__}" == full_name), None)


def keeps_forward(module: nn.Module, kind: type[nn.Module] | str) -> bool:
    """Return whether a module is of a class, given as in `is_of_type`, and computes what that class does."""
    base = named_base(module, kind) if isinstance(kind, str) else kind
    own = getattr(type(module), "forward", None)
    return base is not None and isinstance(module, base) and own is getattr(base, "forward", None)
