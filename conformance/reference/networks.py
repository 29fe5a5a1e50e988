"""Networks as data: modules, their sizes, and the tensors that follow from these; read from `networks.json`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
BATCH_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


@dataclass(eq=False)
class Tensor:
    """A parameter or a buffer; tied ones are one object."""

    shape: tuple[int, ...]
    is_parameter: bool = True
    type: str = "float32"
    is_kept: bool = False  # as coefficients


@dataclass(eq=False)
class Module:
    """A module: its type, its attributes, its tensors (parameters before buffers), its children."""

    type: str
    sizes: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, Module] = field(default_factory=dict)

    def walk(self, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        """PyTorch's `named_modules()`: this one, then its children; one that stands twice once."""
        seen = set() if seen is None else seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield name, self
        for child_name, child in self.children.items():
            yield from child.walk(_joined(name, child_name), seen)

    def state(self, name: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yield the entries of `state_dict()`, tied ones under each name."""
        for own, tensor in self.tensors.items():
            yield _joined(name, own), tensor
        for child_name, child in self.children.items():
            yield from child.state(_joined(name, child_name))

    def find(self, name: str) -> Module | None:
        return dict(self.walk()).get(name)

    def parameters(self) -> list[tuple[str, Tensor]]:
        """PyTorch's `named_parameters()`: tied ones once, under their first name."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, module in self.walk():
            for own, tensor in module.tensors.items():
                if tensor.is_parameter:
                    found.setdefault(id(tensor), (_joined(name, own), tensor))
        return list(found.values())

    def has(self, attribute: str) -> bool:
        return attribute in self.sizes or attribute in self.tensors or attribute in self.children


def _joined(*names: str) -> str:
    return ".".join(name for name in names if name)


def shapes_of(kind: str, sizes: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that PyTorch gives the tensors of a layer, by name."""
    if kind in CONVOLUTIONS:
        outer = sizes["out_channels"]
        weight = (outer, sizes["in_channels"] // sizes["groups"], *sizes["kernel_size"])
        return {"weight": weight, **({"bias": (outer,)} if sizes["bias"] else {})}
    if kind in TRANSPOSED:
        outer = sizes["out_channels"]
        weight = (sizes["in_channels"], outer // sizes["groups"], *sizes["kernel_size"])
        return {"weight": weight, **({"bias": (outer,)} if sizes["bias"] else {})}
    if kind == "Linear":
        outer = sizes["out_features"]
        return {"weight": (outer, sizes["in_features"]), **({"bias": (outer,)} if sizes["bias"] else {})}
    if kind == "Conv1D":  # the linear layer of GPT-2
        return {"weight": (sizes["nx"], sizes["nf"]), "bias": (sizes["nf"],)}
    if kind in BATCH_NORMS:
        each = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (sizes["num_features"],))
        return {**each, "num_batches_tracked": ()}
    if kind == "LayerNorm":
        return dict.fromkeys(("weight", "bias"), tuple(sizes["normalized_shape"]))
    if kind == "RMSNorm":
        return {"weight": tuple(sizes["normalized_shape"])}
    if kind == "GroupNorm":
        return dict.fromkeys(("weight", "bias"), (sizes["num_channels"],))
    if kind == "PReLU":
        return {"weight": (sizes["num_parameters"],)}
    if kind == "Embedding":
        return {"weight": (sizes["num_embeddings"], sizes["embedding_dim"])}
    return {}


def layer(kind: str, type_: str = "float32", **sizes: Any) -> Module:
    """Return a layer with its tensors; floating-point ones are of `type_`."""
    module = Module(kind, sizes)
    for name, shape in shapes_of(kind, sizes).items():
        is_parameter = not name.startswith(("running_", "num_batches"))
        module.tensors[name] = Tensor(shape, is_parameter, "int64" if name == "num_batches_tracked" else type_)
    return module


def build(description: dict[str, Any]) -> Module:
    """Return the network of a description; see README.md."""
    root = _build(description)
    for name, first in description.get("tied", {}).items():
        owner, _, own = name.rpartition(".")
        other, _, there = first.rpartition(".")
        modules = dict(root.walk())
        modules[owner].tensors[own] = modules[other].tensors[there]
    for name, first in description.get("shared", {}).items():
        owner, _, own = name.rpartition(".")
        modules = dict(root.walk())
        modules[owner].children[own] = modules[first]
    return root


def _build(description: dict[str, Any]) -> Module:
    module = layer(description["type"], **description.get("sizes", {}))
    for kind in ("parameters", "buffers"):
        for name, (shape, type_) in description.get(kind, {}).items():
            module.tensors[name] = Tensor(tuple(shape), kind == "parameters", type_)
    for name, child in description.get("children", {}).items():
        module.children[name] = _build(child)
    return module


def chain(arguments: dict[str, Any]) -> Module | None:
    """Return the registered network "conformance-chain"; None if it does not take these arguments."""
    widths, bias = arguments["widths"], arguments["bias"]
    scale, label = arguments["scale"], arguments["label"]
    if not isinstance(widths, list) or not isinstance(bias, bool) or not isinstance(label, str):
        return None
    if not 2 <= len(widths) <= 8 or not all(type(width) is int and 1 <= width <= 4096 for width in widths):
        return None
    if not isinstance(scale, float) or not math.isfinite(scale):
        return None
    root = Module("Chain")
    for place in range(len(widths) - 1):
        sizes = {"in_features": widths[place], "out_features": widths[place + 1], "bias": bias}
        root.children[f"layer{place}"] = layer("Linear", **sizes)
    root.children["norm"] = layer("BatchNorm1d", num_features=widths[-1])
    return root
