"""A network in which some modules are replaced, while all its state is that of the original."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils import parametrize

from tailcut.execution.detours import share_hooks
from tailcut.execution.narrow import NarrowMap, as_tensor
from tailcut.structure import NetworkView, with_children
from tailcut.weights.truncation import Truncation

# Their forward reads nothing but their children, so a view of them need not follow their attributes.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# They keep no maps: constants, and what runs in C++.
_NO_KEEPERS = (Truncation, torch.jit.ScriptModule)
_KEPT = "the network keeps it in an attribute"
_COMPILED = "_compiled_call_impl"


class View:
    """A network in which some modules are replaced; all others share their state with the original.

    Calling it is calling the network. What the network's code writes to attributes is written to the original's.
    """

    def __init__(self, source: nn.Module, replacements: dict[int, nn.Module]) -> None:
        self._replacements = replacements
        self._pairs: list[tuple[nn.Module, nn.Module]] = []
        self._known: dict[int, nn.Module] = {}
        self._root = self._view(source)
        self._followed = [
            (view.__dict__, original.__dict__, view._modules, {"_modules", *_own_names(original)}, _is_torchs(view))
            for original, view in self._pairs
            if type(original) not in _CONTAINERS
        ]
        viewed = {id(original) for original, _ in self._pairs}
        others = [part for part in source.modules() if not (_is_torchs(part) or isinstance(part, _NO_KEEPERS))]
        self._keepers = [part._buffers for part in others]
        self._keepers += [part.__dict__ for part in others if id(part) not in viewed]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the network with the replaced modules gives."""
        written = []
        hooks = torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks
        for followed in self._followed:
            mine, theirs, modules, own_names, is_torchs = followed
            mine.update(theirs)
            mine["_modules"] = modules
            if _COMPILED in mine:  # `nn.Module.compile` was called: it is the original's call
                mine[_COMPILED] = None
            if len(mine) >= len(theirs) + len(own_names):
                _remove(mine, theirs, own_names)
            # Torch's own layers write to no attribute; hooks may.
            if not is_torchs or hooks or mine["_forward_hooks"] or mine["_forward_pre_hooks"] or "forward" in mine:
                written.append((followed, _identities(mine)))
        result = self._root(*args, **kwargs)
        for (mine, theirs, _, own_names, _), identities in written:
            if _identities(mine) != identities:
                _write_back(mine, theirs, own_names)
        return result

    def settle(self) -> None:
        """Put ordinary tensors where a forward left narrow maps: in buffers, and in attributes of other modules."""
        for values in self._keepers:
            if NarrowMap in map(type, values.values()):
                for name, value in values.items():
                    values[name] = as_tensor(value, _KEPT) if type(value) is NarrowMap else value

    def _view(self, module: nn.Module) -> nn.Module:
        inner = _run_by(module)
        if inner is not None:
            return _Unwrapped(module, self._view(inner)) if self._is_changed(inner) else _Apart(module)
        if id(module) not in self._known:
            self._known[id(module)] = self._replacements.get(id(module)) or self._copied(module)
            replaced = self._known[id(module)]
            if id(module) in self._replacements:
                self._known[id(replaced)] = replaced
                for key, child in list(replaced._modules.items()):
                    replaced._modules[key] = None if child is None else self._view(child)
                if type(replaced) is type(module).__bases__[0]:
                    self._pairs.append((module, replaced))
        return self._known[id(module)]

    def _is_changed(self, module: nn.Module) -> bool:
        return any(id(part) in self._replacements or _run_by(part) is not None for part in module.modules())

    def _copied(self, module: nn.Module) -> nn.Module:
        if not self._is_changed(module):
            return module
        view = with_children(module, self._view)
        view.__dict__.pop(_COMPILED, None)
        self._pairs.append((module, view))
        return view


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


def _own_names(original: nn.Module) -> list[str]:
    """The attributes that a view of a regularised module has for itself: its dense weights."""
    return list(getattr(original, "parametrizations", ()))


def _identities(attributes: dict[str, Any]) -> list[int]:
    return list(map(id, attributes.values()))


def _remove(attributes: dict[str, Any], others: dict[str, Any], own_names: set[str]) -> None:
    """Remove what others have not, but for own ones."""
    for name in attributes.keys() - others.keys() - own_names:
        del attributes[name]


def _write_back(mine: dict[str, Any], theirs: dict[str, Any], own_names: set[str]) -> None:
    """Give the module itself what a forward wrote to attributes of its view: counters, auxiliary losses, caches."""
    _remove(theirs, mine, own_names)
    for name, value in mine.items():
        if name not in own_names and name != _COMPILED and theirs.get(name, mine) is not value:
            theirs[name] = as_tensor(value, _KEPT)
