"""The fused and the dense program of a network: copies of its module tree, made for the layers that it has."""

import threading
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from tailcut.execution.layers.fused_layer import DenseLayer, fused_layer
from tailcut.execution.layers.module_copy import copy_with, reason_to_leave
from tailcut.execution.lazy.context import Context, LayerRecord
from tailcut.execution.wrapper.guard import CoefficientVersions, Copied, Guard
from tailcut.structure import NetworkView
from tailcut.weights import TruncatedTensor, truncated_tensors
from tailcut.weights.parametrization.truncation import Truncation

_PARAMETRIZATIONS = "parametrizations"


class NetworkPrograms:
    """The programs of a fused network, made once for the module tree of its source.

    Attributes:
        source: the network.
        fused: its copy in which layers run fused that can.
        dense: its copy in which all regularised layers have dense weights.
        layer_names: of all regularised layers.
        unsupported: why the network can only run as it is; else empty.
        making: held while dense weights are made; with gradients, these are one forward's until it has ended.
        guard: tells of changes to the network.
        versions: of the coefficients that the dense program's weights were made of.
    """

    def __init__(self, source: nn.Module) -> None:
        self.source = source
        self.making = threading.RLock()
        self.layer_names: list[str] = []
        self.unsupported = ""
        self._left: dict[str, str] = {}
        self._dense_layers: list[DenseLayer] = []
        self._dense_only: list[DenseLayer] = []
        tensors = truncated_tensors(source)
        self._known = {id(tensor.truncation): tensor for tensor in tensors}
        self._visited: set[int] = set()
        self._to_fused: dict[int, nn.Module] = {}
        self._to_dense: dict[int, nn.Module] = {}
        self._visit(source, "", "")
        fused: dict[int, nn.Module] = {}
        dense: dict[int, nn.Module] = {}
        self.fused = copy_with(source, self._to_fused, fused)
        self.dense = copy_with(source, self._to_dense, dense)
        held = {id(layer.module): layer.held for layer in (*self._dense_layers, *self._dense_only)}
        copied = [
            Copied(path, part, (fused[id(part)], dense[id(part)]), held.get(id(dense[id(part)]), frozenset()))
            for path, part in source.named_modules()
            if dense.get(id(part), part) is not part
        ]
        self.guard = Guard(copied, tensors)
        self.versions = CoefficientVersions(tensors, [layer.module for layer in self._dense_layers])
        self._vectors: list[dict[str, Any]] = [tensor.holder._parameters for tensor in tensors]

    def kept(self) -> int:
        """Return the length of all vectors of coefficients."""
        return sum([vector["original"].numel() for vector in self._vectors])

    def make_dense(self, context: Context) -> None:
        """Give the dense program its weights, as the coefficients are now."""
        for layer in self._dense_layers:
            layer.refresh(context)

    def begin(self, context: Context) -> None:
        """Prepare the layers that run densely in the fused program, and record why."""
        for name, reason in self._left.items():
            context.record(name, "dense", reason)
        for layer in self._dense_only:
            context.record(layer.name, "dense", "this kind of layer has no fused form")
            layer.refresh(context)

    def records(self, reason: str) -> list[LayerRecord]:
        """Return records which say that all layers run densely, and why."""
        reasons = {} if self.unsupported else self._left
        return [LayerRecord(name, "dense", [reasons.get(name, reason)]) for name in self.layer_names]

    def _visit(self, module: nn.Module, path: str, left: str) -> None:
        """Find the regularised layers of a module, and the parts that are left as they are."""
        if id(module) in self._visited:
            return
        self._visited.add(id(module))
        place = f"{path!r}" if path else "the network"
        wrapper = _wrapper_of(module)
        if wrapper:
            self.unsupported = self.unsupported or f"{place} {wrapper}"
        reason = reason_to_leave(module)
        left = left or (f"{place} {reason}" if reason else "")
        found = self._regularised(module)
        if found:
            self.layer_names.append(path)
        if found and left:
            self._left[path] = left
        elif found:
            self._replace(module, path, found)
        for name, child in module.named_children():
            if name != _PARAMETRIZATIONS:
                self._visit(child, f"{path}.{name}" if path else name, left)

    def _replace(self, module: nn.Module, path: str, tensors: dict[str, TruncatedTensor]) -> None:
        dense = DenseLayer(module, path, tensors, self.making)
        self._dense_layers.append(dense)
        self._to_dense[id(module)] = dense.module
        layer: nn.Module | None = None
        if "weight" in tensors:
            layer = fused_layer(module, path, tensors["weight"], dense)
        if layer is None:  # not the same copy: its children are fused in one program, dense in the other
            dense = DenseLayer(module, path, tensors, self.making, like=dense)
            self._dense_only.append(dense)
            layer = dense.module
        self._to_fused[id(module)] = layer

    def _regularised(self, module: nn.Module) -> dict[str, TruncatedTensor]:
        """Return the regularised parameters of the module itself, by attribute."""
        lists = getattr(module, _PARAMETRIZATIONS, None)
        if not isinstance(lists, nn.ModuleDict):
            return {}
        found = {}
        for attribute, holder in lists.items():
            first = holder[0] if isinstance(holder, parametrize.ParametrizationList) else None
            if isinstance(first, Truncation):
                found[attribute] = self._known[id(first)]
        return found


def _wrapper_of(module: nn.Module) -> str:
    """Return the reason why lazy maps cannot pass a module that runs by code of its own; empty if they can."""
    if isinstance(module, NetworkView):
        return "is a fused network itself"
    kind = type(module)  # not imported for `isinstance`: torch loads its compiler with it
    is_compiled = kind.__name__ == "OptimizedModule" and kind.__module__ == "torch._dynamo.eval_frame"
    return "is compiled by torch.compile" if is_compiled or module._compiled_call_impl is not None else ""
