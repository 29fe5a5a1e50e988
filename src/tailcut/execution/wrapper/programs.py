"""The narrow and the dense program of a network, and whether it still has the layers that they were made of."""

from operator import itemgetter
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from tailcut.errors import StructureError
from tailcut.execution.layers.fused_layer import DenseTwin, narrow_layer
from tailcut.execution.lazy.context import Context, LayerRecord
from tailcut.execution.wrapper.change_detection import ChangeDetector
from tailcut.execution.wrapper.view import View
from tailcut.weights import TruncatedTensor, truncated_tensors
from tailcut.weights.truncation import Truncation

_children = itemgetter("_modules")
# They have no layers that could be replaced.
_FIXED = (Truncation, torch.jit.ScriptModule)


class NetworkPrograms:
    """What a fused network runs, made for the layers that its source has now.

    Attributes:
        source: the network.
        narrow: the program in which layers run narrowly that can.
        dense: the program in which all regularised layers have dense weights.
        always_dense: those of the narrow program that have no narrow way.
        layer_names: of all regularised layers.
    """

    def __init__(self, source: nn.Module) -> None:
        self.source = source
        self._attributes = [part.__dict__ for part in source.modules() if not isinstance(part, _FIXED)]
        # Copies hold the modules themselves, so that no new one can have the identity of an old one.
        children = list(map(_children, self._attributes))
        self._parents = [part for part, below in zip(self._attributes, children, strict=True) if below]
        self._leaves = [part for part, below in zip(self._attributes, children, strict=True) if not below]
        self._layers = [dict(below) for below in children if below]
        self.layer_names: list[str] = []
        self.always_dense: list[DenseTwin] = []
        self._twins: list[DenseTwin] = []
        tensors = truncated_tensors(source)
        narrow, dense = self._replacements(source, tensors)
        self.narrow, self.dense = View(source, narrow), View(source, dense)
        self._vectors: list[dict[str, Any]] = [tensor.holder._parameters for tensor in tensors]
        self.freshness = ChangeDetector(tensors)

    def is_current(self) -> bool:
        """Whether the network has the layers, and the parametrisations, that it had. Made to be fast."""
        return list(map(_children, self._parents)) == self._layers and not any(map(_children, self._leaves))

    def kept(self) -> int:
        """The length of all vectors of coefficients."""
        return sum([vector["original"].numel() for vector in self._vectors])

    def make_dense(self, context: Context) -> None:
        """Give the dense program its weights, as the coefficients are now."""
        for twin in self._twins:
            twin.refresh(context)

    def records(self, reason: str) -> list[LayerRecord]:
        """Records which say that all layers run densely."""
        return [LayerRecord(name, "dense", [reason]) for name in self.layer_names]

    def _replacements(
        self, source: nn.Module, tensors: list[TruncatedTensor]
    ) -> tuple[dict[int, nn.Module], dict[int, nn.Module]]:
        """What stands for the regularised modules: in the narrow program, and in the dense one."""
        narrow: dict[int, nn.Module] = {}
        dense: dict[int, nn.Module] = {}
        known = {id(tensor.truncation): tensor for tensor in tensors}
        for name, module in source.named_modules():
            found = _regularised(module, known)
            if not found:
                continue
            twin = DenseTwin(module, name, found)
            self._twins.append(twin)
            self.layer_names.append(name)
            dense[id(module)] = twin.module
            layer = narrow_layer(module, name, found["weight"], twin) if "weight" in found else None
            if layer is None:  # not the same twin: its children are narrow in one program, dense in the other
                twin = DenseTwin(module, name, found, like=twin)
                self.always_dense.append(twin)
            narrow[id(module)] = twin.module if layer is None else layer
        return narrow, dense


def _regularised(module: nn.Module, known: dict[int, TruncatedTensor]) -> dict[str, TruncatedTensor]:
    """The regularised parameters of the module itself, by attribute."""
    if not parametrize.is_parametrized(module):
        return {}
    lists = module.parametrizations
    if not isinstance(lists, nn.ModuleDict):
        raise StructureError(f"{type(module).__name__}.parametrizations was changed by hand")
    found = {}
    for attribute, holder in lists.items():
        first = holder[0] if isinstance(holder, parametrize.ParametrizationList) else None
        if isinstance(first, Truncation):
            found[attribute] = known[id(first)]
    return found
