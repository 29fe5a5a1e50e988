"""A network in which some modules are replaced, while all its state is that of the original."""

import functools
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils import parametrize

from tailcut.execution.layers.sharing import share_hooks, stand_for
from tailcut.execution.lazy.lazy_map import LazyMap, as_tensor
from tailcut.structure import NetworkView
from tailcut.weights.truncation import Truncation

# They keep no maps: constants, and what runs in C++.
_NO_KEEPERS = (Truncation, torch.jit.ScriptModule)
_KEPT = "the network keeps it in an attribute"


class View:
    """A network in which some modules are replaced; all others share their state with the original.

    Calling it is calling the network. What the network's code writes to attributes is written to the original's.
    """

    def __init__(self, source: nn.Module, replacements: dict[int, nn.Module]) -> None:
        self._replacements = replacements
        self._known: dict[int, nn.Module] = {}
        self.root = self._view(source)
        self._keepers = [part for part in source.modules() if not isinstance(part, _NO_KEEPERS)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the network with the replaced modules gives."""
        return self.root(*args, **kwargs)

    def settle(self) -> None:
        """Put ordinary tensors where a forward left narrow maps: in attributes and buffers."""
        hooks = torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks
        for part in self._keepers:
            # Torch's own layers write to no attribute; hooks may.
            if _is_torchs(part) and not (hooks or part._forward_hooks or part._forward_pre_hooks):
                continue
            for values in (part.__dict__, part._buffers):
                if LazyMap in map(type, values.values()):
                    for name, value in values.items():
                        values[name] = as_tensor(value, _KEPT) if type(value) is LazyMap else value

    def _view(self, module: nn.Module) -> nn.Module:
        inner = _run_by(module)
        if inner is not None:
            return _Unwrapped(module, self._view(inner)) if self._is_changed(inner) else _Apart(module)
        if id(module) not in self._known:
            replaced = self._replacements.get(id(module))
            if replaced is None:
                replaced = stand_for(module, type(module), {}) if self._is_changed(module) else module
            self._known[id(module)] = self._known[id(replaced)] = replaced
            if replaced is not module:
                for key, child in list(replaced._modules.items()):
                    replaced._modules[key] = None if child is None else self._view(child)
        return self._known[id(module)]

    def _is_changed(self, module: nn.Module) -> bool:
        return any(id(part) in self._replacements or _run_by(part) is not None for part in module.modules())


class _Proxy(nn.Module):
    """In place of a module that runs another one in a way of its own; all but the way is that module's.

    Args:
        wrapper: the module.
        runs: what is run in its place.
    """

    def __init__(self, wrapper: nn.Module, runs: nn.Module) -> None:
        super().__init__()
        self.__dict__["wrapper"] = wrapper
        self.runs = runs
        del self.__dict__["training"]

    def __getattr__(self, name: str) -> Any:
        """What it has not itself is asked of what it runs, its mode of the module."""
        if name == "training":
            return self.wrapper.training
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["runs"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Written to what it runs, whose attributes those are."""
        if name == "runs":
            super().__setattr__(name, value)
        else:
            setattr(self.runs, name, value)


class _Unwrapped(_Proxy):
    """Runs a view of what the module runs, with the hooks of both."""

    def __init__(self, wrapper: nn.Module, inner: nn.Module) -> None:
        super().__init__(wrapper, inner)
        share_hooks(self, wrapper)

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__["_is_full_backward_hook"] = self.wrapper._is_full_backward_hook
        return super()._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the inner view gives."""
        return self.runs(*args, **kwargs)


class _Apart(_Proxy):
    """Runs the module itself, on ordinary tensors only."""

    def __init__(self, wrapper: nn.Module) -> None:
        super().__init__(wrapper, wrapper)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        args, kwargs = as_tensor((args, kwargs), "what torch.compile wraps, or runs fused by itself, reads it")
        return self.runs(*args, **kwargs)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module whose code it is that a fused view, or what `torch.compile` makes of a module, runs."""
    inner = _run_by(module)
    return module if inner is None else unwrapped(inner)


def is_code_of(source: nn.Module, value: Any) -> bool:
    """Whether calling it would run the source, or a part of it, as it is."""
    while isinstance(value, functools.partial):
        value = value.func
    return isinstance(value, nn.Module) or getattr(value, "__self__", None) is source


def _run_by(module: nn.Module) -> nn.Module | None:
    """What a fused view, or what `torch.compile` makes of a module, runs: the module itself, and not a view of it."""
    if isinstance(module, NetworkView):
        return module.source
    kind = type(module)  # not imported for `isinstance`: torch loads its compiler with it
    is_compiled = kind.__name__ == "OptimizedModule" and kind.__module__ == "torch._dynamo.eval_frame"
    return module.get_submodule("_orig_mod") if is_compiled else None


def _is_torchs(module: nn.Module) -> bool:
    """Whether it is one of torch's own, whose forwards keep nothing in attributes."""
    kind = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
    return kind.__module__.startswith("torch.nn.")
