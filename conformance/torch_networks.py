"""The networks of the corpus as PyTorch modules, from their descriptions in networks.json."""

import itertools
import json
import math
from typing import Any

import torch
from torch import Tensor, nn

from conformance.networks import FOLDER

DESCRIPTIONS: dict[str, Any] = json.loads((FOLDER / "networks.json").read_text(encoding="utf-8"))["descriptions"]


class PadShortcut(nn.Module):
    """A shortcut that pads."""


class Conv1D(nn.Module):
    """The linear layer of GPT-2, under the name that it has in transformers."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.ones(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], self.nf)


def build(name: str) -> nn.Module:
    """Return the network of that name, its tensors as PyTorch makes them."""
    description = DESCRIPTIONS[name]
    root = _build(description)
    for name, first in description.get("tied", {}).items():
        owner, _, own = name.rpartition(".")
        setattr(root.get_submodule(owner), own, root.get_parameter(first))
    for name, first in description.get("shared", {}).items():
        owner, _, own = name.rpartition(".")
        setattr(root.get_submodule(owner), own, root.get_submodule(first))
    return root


def _build(description: dict[str, Any]) -> nn.Module:
    sizes = dict(description.get("sizes", {}))
    kind = Conv1D if description["type"] == "Conv1D" else getattr(nn, description["type"], None)
    if kind is None:
        module: nn.Module = type(description["type"], (nn.Module,), {})()
        for name, size in sizes.items():
            setattr(module, name, size)
    else:
        module = kind(**sizes)
    for name, (shape, type_) in description.get("parameters", {}).items():
        setattr(module, name, nn.Parameter(torch.ones(shape, dtype=getattr(torch, type_))))
    for name, (shape, type_) in description.get("buffers", {}).items():
        module.register_buffer(name, torch.ones(shape, dtype=getattr(torch, type_)))
    for name, child in description.get("children", {}).items():
        module.add_module(name, _build(child))
    return module


class Chain(nn.Module):
    """The registered network "conformance-chain"."""

    def __init__(
        self, *, widths: tuple[int, ...] = (3, 2), bias: bool = True, scale: float = 1.0, label: str = "a"
    ) -> None:
        super().__init__()
        if not 2 <= len(widths) <= 8 or not all(type(width) is int and 1 <= width <= 4096 for width in widths):
            raise ValueError("widths must be 2 to 8 integers from 1 to 4,096")
        if not isinstance(bias, bool) or not isinstance(label, str):
            raise TypeError("bias must be a switch, label a text")
        if not isinstance(scale, float) or not math.isfinite(scale):
            raise ValueError("scale must be a finite number")
        for place, (inner, outer) in enumerate(itertools.pairwise(widths)):
            self.add_module(f"layer{place}", nn.Linear(inner, outer, bias=bias))
        self.norm = nn.BatchNorm1d(widths[-1])


class Image(nn.Module):
    """The registered network "conformance-image"."""

    def __init__(self) -> None:
        super().__init__()
        made = build("image")
        self.__dict__.update(made.__dict__)


REGISTERED: dict[str, type[nn.Module]] = {"conformance-chain": Chain, "conformance-image": Image}
