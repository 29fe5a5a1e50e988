"""Numbers in float64, also those of tensors on devices that do not have it."""

import torch
from torch import nn

from tailcut.errors import ArgumentError

WITHOUT_FLOAT64 = ("mps",)
"""Types of devices that have no float64: Apple's GPUs."""


def has_float64(device: torch.device) -> bool:
    """Return whether tensors on a device may be of float64."""
    return device.type not in WITHOUT_FLOAT64


def where_exact(x: torch.Tensor) -> torch.Tensor:
    """Return `x`, on the CPU if its own device has no float64."""
    return x if has_float64(x.device) else x.cpu()


def exact(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in float64, on its own device, or on the CPU if that has no float64."""
    return where_exact(x).double()


def check_has_float64(what: str, model: nn.Module) -> None:
    """Raise `ArgumentError` if `what` is asked to work on a network on a device without float64."""
    device = next((x.device for x in (*model.parameters(), *model.buffers()) if not has_float64(x.device)), None)
    if device is not None:
        raise ArgumentError(
            f"{what} works in float64, which {device.type} does not have: give it the network on the CPU, model.cpu()"
        )
