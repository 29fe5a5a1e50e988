"""Shallow copies of modules: other children and another class, the same parameters, buffers and hooks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from tailcut.weights.parametrization.attach import is_own_hook
from tailcut.weights.parametrization.truncation import Truncation

# The attributes in which a module keeps what is called around its forward: a dict each.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# The same for all modules of a process.
GLOBAL_HOOKS: tuple[dict[int, Any], ...] = tuple(getattr(torch.nn.modules.module, f"_global{name}") for name in HOOKS)


def shallow_copy(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Return a module of class `kind` with the other's present attributes, and the same tensors and hooks.

    Parameters, buffers and hooks lie in the very dicts of the original, so that both see all changes to them. Other
    attributes that are bound later are each one's own. Parametrisations are left out where `kind` is another class.
    """
    # Not `kind.__new__`: that of a torch.fx.GraphModule gives an instance of another class, without the forward.
    made: nn.Module = object.__new__(kind)
    keeps_all = kind is type(module)
    children = {name: child for name, child in module._modules.items() if keeps_all or name != "parametrizations"}
    made.__dict__.update(module.__dict__, _modules=children)
    return made


def copy_with(module: nn.Module, replacements: Mapping[int, nn.Module], copies: dict[int, nn.Module]) -> nn.Module:
    """Return a copy of the module with some parts replaced; the module itself where it has none of those.

    Args:
        module: it is not changed.
        replacements: by identity of the original.
        copies: by identity of the original, what was made so far (changed).
    """
    if id(module) not in copies:
        made = replacements.get(id(module), module)
        below = {} if reason_to_leave(module) else dict(made._modules)
        children = {
            name: None if child is None else copy_with(child, replacements, copies) for name, child in below.items()
        }
        if any(child is not below[name] for name, child in children.items()):
            made = shallow_copy(module, type(module)) if made is module else made
            made._modules.update(children)
            # In `__dict__`, where Python finds it at once; torch looks for children only after all else.
            made.__dict__.update({name: child for name, child in children.items() if not hasattr(type(made), name)})
        copies[id(module)] = made
    return copies[id(module)]


def reason_to_leave(module: nn.Module) -> str:
    """Return the reason why a module cannot be copied and runs as it is; empty if it can be."""
    if isinstance(module, torch.jit.ScriptModule):
        return "is a TorchScript module"
    hooks = [hook for name in HOOKS for hook in module.__dict__[name].values()]
    if hooks:
        is_ours = all(map(is_own_hook, hooks))
        return "reads its weights several times in a forward" if is_ours else "has hooks"
    if "forward" in module.__dict__:
        return "has a forward that was set by hand"
    others = module._modules.get("parametrizations")
    if isinstance(others, nn.ModuleDict) and any(map(_is_foreign, others.values())):
        return "has another parametrisation"
    return ""


def _is_foreign(holder: nn.Module) -> bool:
    return not (isinstance(holder, parametrize.ParametrizationList) and isinstance(holder[0], Truncation))
