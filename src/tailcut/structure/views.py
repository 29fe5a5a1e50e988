"""Views: wrappers that run another network, or that replace a part of a network and run that part."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tailcut.errors import ArgumentError


class NetworkView(nn.Module):
    """A wrapper that runs another network, its `source`, and shares all state with it; files hold the source."""

    source: nn.Module


def check_module(what: str, model: object) -> None:
    """Raise `ArgumentError`, which begins with `what` was called, unless `model` is a network."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise ArgumentError(f"{what}: expected a network, got its class; make one: {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"{what}: expected a network (a torch.nn.Module), got {type(model).__name__}")


def check_initialized(model: nn.Module) -> None:
    """Raise `ArgumentError` if a layer of the network is lazy, and waits for a first forward to have a shape."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ArgumentError(f"{name} is not initialised yet: run one forward first")


def source_of(model: nn.Module) -> nn.Module:
    """Return the network that a view runs; any other network itself."""
    return model.source if isinstance(model, NetworkView) else model


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside DistributedDataParallel, DataParallel, torch.compile or a fused view. Not changed.

    Raises:
        ArgumentError: it is of TorchScript, whose layers can neither be told from each other nor changed.
    """
    network = unwrap(model)[0]
    if isinstance(network, torch.jit.ScriptModule):
        raise ArgumentError("the network is of TorchScript: give the torch.nn.Module that it was made from")
    return network


def check_is_bare(what: str, model: nn.Module) -> None:
    """Raise `ArgumentError` for a wrapper or a view: what is changed and recorded is the network itself."""
    if unwrapped(model) is not model:
        raise ArgumentError(
            f"{type(model).__name__} is a wrapper: {what} the network itself (its .module, .source or ._orig_mod)"
        )


def unwrap(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the network inside torch's wrappers and views, and the path to it: `.module`, `._orig_mod.module`."""
    path = ""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model, path = model.module, f"{path}.module"
        elif isinstance(model, NetworkView):
            model = model.source
        # By its name: the class of torch.compile comes with half of its compiler.
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model, path = inner, f"{path}._orig_mod"
        else:
            return model, path


def in_evaluation(model: nn.Module) -> nn.Module:
    """Put a network into evaluation mode (changes the model) and return it: its own `eval` may return nothing.

    Classes that freeze parts in `train` often forget to return themselves.
    """
    model.eval()
    return model


def running_eagerly(model: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which parts given to torch.compile run uncompiled, so that hooks see their maps."""
    if any(_is_compiled(part) for part in model.modules()):
        return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]
    return nullcontext()  # the compiler takes seconds to import


def _is_compiled(module: nn.Module) -> bool:
    wrapped = isinstance(getattr(module, "_orig_mod", None), nn.Module)
    return wrapped or getattr(module, "_compiled_call_impl", None) is not None


def view_in(model: nn.Module) -> str | None:
    """Return the path of the first view among a network's modules ("" for the network itself), or None without one."""
    return next((path for path, part in model.named_modules() if isinstance(part, NetworkView)), None)


def without_views(model: nn.Module) -> nn.Module:
    """Return the network with every view replaced by the module that it runs, so that tensors have their own names.

    Changes nothing; it is `model` itself where there is no view. Else modules with a view in them are others, of the
    same class, with the same tensors and attributes.
    """
    known: dict[int, nn.Module] = {}

    def plain(module: nn.Module) -> nn.Module:
        if isinstance(module, NetworkView):
            return plain(module.source)
        if id(module) not in known:
            known[id(module)] = module if view_in(module) is None else with_children(module, plain)
        return known[id(module)]

    return plain(model)


def with_children(module: nn.Module, of_child: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Another module of the same class, with the same tensors and attributes, whose children are `of_child` of each."""
    # Not the class's own `__new__`: that of a torch.fx.GraphModule gives an instance of another class.
    other: nn.Module = object.__new__(type(module))
    children = {key: None if child is None else of_child(child) for key, child in module._modules.items()}
    # A class may do anything in its own `__setattr__`.
    other.__dict__.update(module.__dict__, _modules=children)
    return other
