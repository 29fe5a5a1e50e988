"""A stand-in for a device without float64, as Apple's GPUs are: its tensors lie on the CPU, and refuse that type.

Forwards run on it; torch's engine for gradients does not know it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NAME = "standin"  # one word: a name of torch
_known: list[bool] = []


class OnStandIn(Tensor):
    """A tensor of the device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, **_: Any) -> "OnStandIn":
        if held.dtype == torch.float64:
            raise TypeError("this device has no float64")
        made: OnStandIn = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return on_stand_in(func, args, kwargs or {})


class StandInDevice(TorchDispatchMode):
    """Within the block, tensors may be made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return on_stand_in(func, args, kwargs or {})

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if not _known:
            backend_registration._setup_privateuseone_for_python_backend(NAME)
            _known.append(True)


def on_stand_in(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU; what it gives is of the device if one of its tensors is, or it is asked for."""
    found: list[Tensor] = []

    def held(x: Any) -> Any:
        if isinstance(x, OnStandIn):
            found.append(x)
            return x.held
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x

    asked = kwargs.get("device")
    leaves = bool(found) if asked is None else torch.device(asked).type == NAME
    result = func(*tree_map(held, args), **tree_map(held, kwargs))
    leaves = bool(found) if asked is None else leaves
    if func is torch.ops.aten.copy_.default:  # which gives its first argument
        return args[0]
    return tree_map(lambda x: OnStandIn(x) if leaves and type(x) is Tensor else x, result)


def moved(model: nn.Module) -> nn.Module:
    """The network with its parameters and buffers on the device (changes the module)."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnStandIn(parameter.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnStandIn(buffer)
    return model
