"""Fingerprint of a network's numbers: equal for two files of the same network, whatever their metadata."""

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of the names, types, shapes and values of a network's tensors.

    Names of classes, and other metadata of a file, are no part of it. The model is not changed.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue  # a module's own extra state
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
