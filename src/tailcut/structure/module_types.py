"""Types of modules, also those of libraries that are not needed here."""

from torch import nn

TRANSFORMERS_CONV1D = "transformers.pytorch_utils.Conv1D"
"""The linear layer of GPT-2, which holds its weight as (in, out)."""

GEOMETRIC_LINEAR = "torch_geometric.nn.dense.linear.Linear"
"""The linear layer of torch_geometric, which holds its weight as (out, in)."""


def is_of_type(module: nn.Module, kind: type[nn.Module] | str) -> bool:
    """Return whether a module is of a class or of a subclass; by its full name if its library is not needed."""
    if isinstance(kind, str):
        return named_base(module, kind) is not None
    return isinstance(module, kind)


def named_base(module: nn.Module, full_name: str) -> type | None:
    """Return the class of that full name among the module's class and its bases, or None."""
    return next((each for each in type(module).__mro__ if f"{each.__module__}.{each.__qualname__}" == full_name), None)
