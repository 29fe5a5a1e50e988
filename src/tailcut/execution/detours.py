"""What a forward may do that the narrow program cannot follow: its own backward passes, types, transforms, hooks."""

import sys
from types import FrameType

import torch
from torch import nn
from torch.autograd import forward_ad

from tailcut.execution.run import NotNarrowError, run_under_way, saving_hooks

_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
_CHECKPOINT = "torch.utils.checkpoint"
# The attributes in which a module keeps its hooks: a dict each.
HOOKS = tuple(name for name, value in vars(nn.Module()).items() if "_hooks" in name and isinstance(value, dict))


def share_hooks(stand_in: nn.Module, module: nn.Module) -> None:
    """Give what stands for a module the hooks of that one, also those that come later (changes the stand-in)."""
    stand_in.__dict__.update({name: module.__dict__[name] for name in HOOKS})


def refuse_detours() -> None:
    """Raise `NotNarrowError` where the backward pass would not reach what made a map, or would call the code again.

    That is within a `torch.autograd.Function`, which gets its arguments past all hooks and takes maps for tensors
    without gradients, and within `torch.utils.checkpoint`.
    """
    run = run_under_way()
    if run is None or not run.differentiates:
        return
    if torch.is_grad_enabled():
        hooks = saving_hooks()
        if hooks is not None and hooks != run.hooks and getattr(hooks[0], "__module__", "") == _CHECKPOINT:
            raise NotNarrowError(f"{_CHECKPOINT} calls a part of the network a second time")
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _APPLY:
            raise NotNarrowError("a torch.autograd.Function takes a map and has a backward pass of its own")
        frame = frame.f_back


def is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, which look into every operation."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def is_traced() -> bool:
    """Whether `torch.jit.trace` writes down what is done."""
    return torch._C._get_tracing_state() is not None


def is_autocast(kind: str) -> bool:
    """Whether autocast chooses the types of products on devices of a kind ("cpu", "cuda", "meta")."""
    if not torch._C._is_any_autocast_enabled():
        return False
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
