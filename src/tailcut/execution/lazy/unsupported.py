"""Features of torch that the fused program cannot follow: custom backward passes, types, transforms, checkpoints."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tailcut.execution.lazy.context import UnsupportedError, active_context, saving_hooks

_CHECKPOINT = "torch.utils.checkpoint"


def refuse_unsupported() -> None:
    """Raise `UnsupportedError` where the backward pass would miss a map's layers, or would call the code again."""
    reason = unsupported_reason()
    if reason:
        raise UnsupportedError(reason)


def unsupported_reason() -> str:
    """Return the reason why no layer may run in low rank here, since gradients would go other ways; or "".

    Within a `torch.autograd.Function`, which gets its arguments past all hooks and takes maps for tensors without
    gradients, gradients are switched off; nothing else that can be seen from Python tells of it on all versions of
    torch. `torch.utils.checkpoint` calls its part of the network again in the backward pass.
    """
    context = active_context()
    if context is None:
        return ""
    if torch.is_grad_enabled() and not context.is_grad_enabled:
        return "a part of it switches gradients on"
    if not context.differentiates:
        return ""
    if not torch.is_grad_enabled():
        return "a part of it runs without gradients, as all does within a torch.autograd.Function"
    hooks = saving_hooks()
    if hooks is not None and hooks != context.hooks and getattr(hooks[0], "__module__", "") == _CHECKPOINT:
        return f"{_CHECKPOINT} calls a part of the network a second time"
    return ""


def is_transformed() -> bool:
    """Return whether torch.func or forward-mode differentiation is at work, which look into every operation."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def is_traced() -> bool:
    """Return whether `torch.jit.trace` or `torch.export` writes down what is done."""
    return torch._C._get_tracing_state() is not None or torch.compiler.is_exporting()


def is_autocast(kind: str) -> bool:
    """Return whether autocast chooses the types of products on devices of a kind ("cpu", "cuda", "meta")."""
    if not torch._C._is_any_autocast_enabled():
        return False
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def is_plain(tensor: Tensor) -> bool:
    """Return whether it is an ordinary array: neither nested nor sparse."""
    return not tensor.is_nested and tensor.layout is torch.strided
