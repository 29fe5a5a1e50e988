"""Modules that stand for others: they share all state, but have children or parameters of their own."""

from collections.abc import Mapping
from typing import Any

from torch import nn

# The attributes in which a module keeps its hooks: a dict each.
HOOKS = tuple(name for name, value in vars(nn.Module()).items() if "_hooks" in name and isinstance(value, dict))


def share_hooks(stand_in: nn.Module, module: nn.Module) -> None:
    """Give what stands for a module the hooks of that one, also those that come later (changes the stand-in)."""
    stand_in.__dict__.update({name: module.__dict__[name] for name in HOOKS})


def stand_for(module: nn.Module, kind: type, held: Mapping[str, Any]) -> nn.Module:
    """A module with the attributes of another one: the same dict of them, so that either sees what is written to it.

    What it has for itself are properties of its class, which come before the attributes: its children (in `_modules`,
    where they may be replaced) and what is held for it. What `nn.Module.compile` made of the other one is not its own.

    Args:
        module: the other one.
        kind: what it is an instance of, by a class of its own below that one.
        held: values of further attributes, which may change.
    """
    children = {key: child for key, child in module._modules.items() if key != "parametrizations"}
    names: dict[str, Any] = {name: _item_of(module._parameters, name) for name in module._parameters}
    names |= {name: _item_of(children, name) for name in children} | {name: _item_of(held, name) for name in held}
    names |= {"_modules": property(lambda _: children), "_compiled_call_impl": property(lambda _: None)}
    names |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    own: Any = type(kind)(kind.__name__, (_Unannounced, kind), names)
    made: nn.Module = own.__new__(own)
    object.__setattr__(made, "__dict__", module.__dict__)
    return made


class _Unannounced:
    """Keeps subclasses from those that note them, such as registries of models."""

    __slots__ = ()

    def __init_subclass__(cls, **_: Any) -> None:
        pass


def _item_of(values: Mapping[str, Any], name: str) -> property:
    return property(lambda _: values[name])
