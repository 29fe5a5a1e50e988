"""Tracing: forwards of the unmodified network, with channel labels attached to every tensor.

Layers of `layer_kinds` are taken as a whole (their rules are in layer_rules.py); everything between them is seen as
torch's operations (operations.py). Nothing is compiled or rewritten: any Python in the forward is fine.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._mode_utils import no_dispatch
from torch.utils.weak import WeakTensorKeyDictionary

from tailcut.channels.graph.coupling import Coupling, along, fixed
from tailcut.channels.graph.custom_forwards import WHY, ComputedWeights, own_labels, weight_call
from tailcut.channels.graph.layer_rules import Alignment, TracedLayer, couple_tied, pass_layer, write_norm
from tailcut.channels.graph.observer import Calculation, Modules, Observer, Step, are_alike, tensors_of
from tailcut.channels.graph.operations import OperationCall, bind_arguments, labels_of_results, numbered_channels
from tailcut.channels.layer_kinds import channel_tensors, layer_kind, whole_layer
from tailcut.channels.scoring.feature_maps import num_channels
from tailcut.channels.scoring.forward import for_training, training, undisturbed
from tailcut.errors import ArgumentError
from tailcut.model_inputs import InputTensors, ModelInputs, example_inputs

Flow = tuple[list[Step], dict[object, Tensor | None]]
MAX_FREE_NUMBERS = 1 << 22  # entries of a parameter outside of layers that are followed one by one


@dataclass
class Trace:
    """Trace of one forward.

    Attributes:
        modules: of the network, by how they are followed.
        coupling: the channels' numbers.
        layers: the layers that ran, by name, in the order in which they first did.
        alignments: the shortcuts that pad channels, by name.
        free: name -> labels of the parameters and buffers outside of layers that met channels.
        idle: layers with channels that did not run.
        read_by_code: layers that were not called, but whose numbers the network's code used.
        outputs: what the network gave: shapes of its tensors.
        trains: the network also ran in training mode.
        reads_numbers: its code reads numbers of tensors (`.item()`), so that it must be computed in full.
        macs: multiply-accumulate operations of the forward in evaluation mode, those that compute weights included.
        is_alike: training mode did what evaluation mode does, dropout apart.
        calculations: of evaluation mode.
        flows: the steps of evaluation mode, and the labels of what they gave by its token; where training mode did
            something else, also its.
    """

    modules: Modules
    coupling: Coupling = field(default_factory=Coupling)
    layers: dict[str, TracedLayer] = field(default_factory=dict)
    alignments: dict[str, Alignment] = field(default_factory=dict)
    free: dict[str, Tensor] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    read_by_code: list[str] = field(default_factory=list)
    outputs: list[tuple[int, ...]] = field(default_factory=list)
    trains: bool = False
    reads_numbers: bool = False
    macs: int = 0
    is_alike: bool = False
    calculations: list[Calculation] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)


class StoppedError(ArgumentError):
    """A forward that did not get to its end.

    Attributes:
        layers: the layers that ran before, in their order.
    """

    def __init__(self, message: str, layers: list[str]) -> None:
        super().__init__(message)
        self.layers = layers


def trace(model: nn.Module, inputs: InputTensors) -> Trace:
    """Follow the channels of `model` through two forwards, in evaluation and in training mode. It is not changed.

    Training mode runs layers (auxiliary classifiers) and meets tensors that evaluation leaves out; buffers that it
    changes are put back. A network that does not train on such inputs is followed in evaluation mode alone. Where the
    code reads no numbers it runs for its shapes alone (shape_only.py).

    Args:
        model: any network.
        inputs: what its forward takes.

    Raises:
        ArgumentError: the network does not run on the inputs, or gives no tensors.
    """
    given = example_inputs(inputs)
    with undisturbed(model), torch.no_grad():
        found, tracer, outputs = _follow_whole(model, given)
        found.outputs = [tuple(tensor.shape) for tensor in outputs]
        if not found.outputs:
            raise ArgumentError(f"{type(model).__name__} gives no tensors that its channels could be followed to")
        positions = {name: layer.positions for name, layer in found.layers.items()}
        if not found.reads_numbers:
            found.trains = found.is_alike = _trains_alike(model, given, tracer)
        if not found.is_alike:
            _follow_training(model, given, found)
        found.macs, found.calculations = tracer.macs, tracer.calculations
        for name, layer in found.layers.items():
            layer.positions = positions.get(name, 0)
            for attribute in layer.axes:
                found.free.pop(layer.path(attribute), None)
    found.idle, found.read_by_code = _not_called(found, set(tracer.uses))
    couple_tied(model, found)
    return found


def _follow_whole(model: nn.Module, inputs: ModelInputs) -> tuple[Trace, "_Tracer", list[Tensor]]:
    """Follow a network for its shapes alone, and in full where it fails or its code reads numbers."""
    found = Trace(Modules(model))
    with suppress(StoppedError):  # zeros may be to blame
        tracer, outputs = _follow(model, inputs, found, shapes_only=True)
        if not found.reads_numbers:
            return found, tracer, outputs
    found = Trace(found.modules, reads_numbers=True)
    return found, *_follow(model, inputs, found, shapes_only=False)


def _trains_alike(model: nn.Module, inputs: ModelInputs, tracer: "_Tracer") -> bool:
    """Return whether training mode takes the steps that evaluation mode took."""
    observer = Observer(tracer.modules, shapes_only=True)
    with torch.no_grad(), training(model):
        try:
            observer.observe(model, for_training(inputs))
        except ArgumentError:
            return False
    return not observer.reads_numbers and are_alike(tracer.steps, observer.steps)


def _follow_training(model: nn.Module, inputs: ModelInputs, found: Trace) -> None:
    """Follow it in training mode too (changes `found`)."""
    with torch.no_grad(), training(model), suppress(ArgumentError):
        shapes_only = not found.reads_numbers
        _follow(model, for_training(inputs), found, shapes_only)
        if shapes_only and found.reads_numbers:  # only in training mode, then
            _follow(model, for_training(inputs), found, shapes_only=False)
        found.trains = True


def _follow(model: nn.Module, inputs: ModelInputs, found: Trace, shapes_only: bool) -> tuple["_Tracer", list[Tensor]]:
    """Run one forward. Return what followed it, and its outputs."""
    tracer = _Tracer(found, shapes_only)
    try:
        outputs = tracer.observe(model, inputs)
        tracer.lock_numbered(outputs)
    except ArgumentError as error:
        raise StoppedError(str(error), list(found.layers)) from error
    finally:
        found.reads_numbers |= tracer.reads_numbers
    found.flows.append((tracer.steps, tracer.made))
    for output in outputs:
        found.coupling.lock(tracer.labels(output), "the network's output")
    return tracer, outputs


class _Tracer(Observer):
    """Carries labels from operation to operation."""

    def __init__(self, found: Trace, shapes_only: bool) -> None:
        super().__init__(found.modules, shapes_only=shapes_only)
        self.found = found
        self.coupling = found.coupling
        self.made: dict[object, Tensor | None] = {}  # labels by token
        self._computed = ComputedWeights()
        self.uses: dict[int, list[str]] = {}  # parameter of a layer -> the places outside of it where it is used
        self._normed: set[str] = set()  # norms with custom forwards that are running and were taken for layers
        self._numbered: Any = WeakTensorKeyDictionary()  # places along channels -> the labels of these

    def labels(self, x: Tensor) -> Tensor:
        """Return the labels of a tensor; a parameter outside layers gets new ones on first use."""
        known = self._known.get(id(x))
        if known is not None and known[2] is not None:
            return known[2]
        name = self._free.get(id(x))
        if name is None or x.numel() > MAX_FREE_NUMBERS:
            return fixed(x.shape)
        if name not in self.found.free:
            self.found.free[name] = self.coupling.new(x.numel()).view(x.shape)
        return self.found.free[name]

    def lock_numbered(self, used: Sequence[Tensor]) -> None:
        """Lock channels whose index is used: the index of a class is its name."""
        for x in used if self._numbered else ():
            if x in self._numbered:
                self.coupling.lock(self._numbered[x], f"the index of one of its channels is used, {self.place()}")

    def _note_read(self, x: Tensor) -> None:
        super()._note_read(x)
        with no_dispatch():
            self.lock_numbered([x])

    def place(self) -> str:
        """Return the module path, for messages."""
        return f"in {self.running[-1]}" if self.running and self.running[-1] else "in the network's forward"

    def _know(self, x: Tensor, token: object, labels: Tensor | None) -> None:
        super()._know(x, token, labels)
        if token not in self.made:
            with no_dispatch():  # another view, as `squeeze_` and its like give the labels themselves another shape
                self.made[token] = None if labels is None else labels.detach()

    def _labels_of_operation(
        self, func: Any, args: Any, kwargs: dict[str, Any], inputs: list[Tensor], results: list[Tensor]
    ) -> list[Tensor]:
        self.lock_numbered(inputs)
        for x in inputs:
            if id(x) in self._owners:
                self.uses.setdefault(id(x), []).append(self.place())
        if self._is_own_norm(func, inputs):
            return self._normalised(inputs[0], results)
        if results and not any(x.numel() for x in results):  # which hold no labels
            for x in inputs:
                self.coupling.lock(self.labels(x), f"what is taken of it is empty, {self.place()}")
            return [fixed(x.shape) for x in results]
        arguments = bind_arguments(func, args, kwargs)
        labels = self._multiplied(func, arguments, results)
        if labels is not None:
            return [labels]
        if self.running and self.running[-1] in self.modules.followed_layers:
            self._computed.note(self.modules.named[self.running[-1]], func, arguments, results)
        call = OperationCall(self.coupling, func, arguments, inputs, results, self.labels, self.place(), self._layout)
        found = labels_of_results(call)
        numbered = numbered_channels(call)
        if numbered is not None:
            self._numbered[results[-1]] = numbered
        return found

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Follow which module runs; take known layers as a whole."""
        with super().hooked():
            yield
            self._lock_weights_used_elsewhere()

    def _to_hook(self) -> Iterable[str]:
        return self.modules.named

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        super()._enter(name, module, args)
        if name in self.modules.followed_layers and not self._in_layers:
            with no_dispatch():
                self._begin(name, module)

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        with no_dispatch():  # what is done to labels is no operation of the network
            super()._leave(name, module, args, kwargs, output)
            if self._in_layers or name not in self.modules.traced_through:
                return
            if name in self.modules.followed_layers:
                self._end(name, module)
            elif name in self._normed:
                self._normed.remove(name)
            else:
                self._write_norm(name, module, args, kwargs, output)

    def _labels_of_layer(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
        module = self.modules.named[name]
        self.lock_numbered(inputs)
        why = whole_layer(module) if layer_kind(module) is None else None
        if parametrize.is_parametrized(module):
            why = f"its weight is parametrised ({_parametrization(module)}); prune first, parametrise afterwards"
        elif any(isinstance(vars(module).get(name), Tensor) for name in ("weight", "bias")):
            why = "its weight is computed by a hook (weight_norm, spectral_norm?); remove it first"
        if why is None and len(inputs) == len(outputs) == 1:
            return [pass_layer(self.found, name, module, inputs[0], self.labels(inputs[0]), outputs[0])]
        for x in inputs:
            self.coupling.lock(self.labels(x), f"goes into {name}: {why or 'it has several inputs or outputs'}")
        self.found.layers.setdefault(name, TracedLayer(name, module, why=why or "it has several inputs or outputs"))
        return [fixed(x.shape) for x in outputs]

    def _begin(self, name: str, module: nn.Module) -> None:
        """Couple weight and bias of a layer with a custom forward to its output channels."""
        known = self.found.layers.get(name)
        outer = known.outer if known is not None else None
        if outer is None:
            outer = self.coupling.new(num_channels(module))
        for attribute, labels in own_labels(module, outer).items():
            x = getattr(module, attribute)
            if id(x) in self._free:
                self._known[id(x)] = x, self._free[id(x)], labels

    def _multiplied(self, func: Any, given: dict[str, Any], results: list[Tensor]) -> Tensor | None:
        """Take an operation in the forward of such a layer for the layer, if it is one. Returns its result's labels."""
        name = self.running[-1] if self.running else ""
        if name not in self.modules.followed_layers:
            return None
        module, known = self.modules.named[name], self.found.layers.get(name)
        call = weight_call(func, given, module)
        if call is None or (known is not None and known.why is not None):
            return None
        own = self.labels(call.weight)
        if not call.has_own_channels(self.coupling, own):
            return None
        labels = pass_layer(self.found, name, module, call.x, self.labels(call.x), results[0])
        self._note_computed_weight(name, call.weight)
        outer = self.found.layers[name].outer
        if outer is not None:
            bias = [] if call.bias is None else [(self.labels(call.bias), 0)]
            for vector, axis in [(own, call.axis), *bias]:
                reason = f"meets fixed entries in the forward of {name}"
                self.coupling.couple(along(outer, axis, vector.shape), vector, reason)
        return labels

    def _note_computed_weight(self, name: str, weight: Tensor) -> None:
        """Lock or note the input channels of a layer by what its weight was computed with."""
        inner = self.found.layers[name].inner
        if inner is not None and self._computed.moves(weight):
            self.coupling.lock(inner, f"the forward of {name} moves its weight along its input channels")
        elif inner is not None and self._computed.reduces(weight):
            self.coupling.note(inner, f"{name} computes its weight over all its input channels")

    def _is_own_norm(self, func: Any, inputs: Sequence[Tensor]) -> bool:
        """Return whether an operation is the batch norm of the layer that is running, by its own tensors."""
        name = self.running[-1] if self.running else ""
        if name not in self.modules.traced_through or "batch_norm" not in func.overloadpacket.__name__:
            return False
        own = {id(x) for x in channel_tensors(self.modules.named[name]).values()}
        return len(inputs) > 1 and all(id(x) in own for x in inputs[1:])

    def _normalised(self, x: Tensor, results: Sequence[Tensor]) -> list[Tensor]:
        """Take the batch norm of a layer with a custom forward for the layer."""
        name = self.running[-1]
        self._normed.add(name)
        labels = pass_layer(self.found, name, self.modules.named[name], x, self.labels(x), results[0])
        outer = self.found.layers[name].outer
        statistics = [fixed(one.shape) if outer is None or one.shape != outer.shape else outer for one in results[1:]]
        return [labels, *statistics]

    def _end(self, name: str, module: nn.Module) -> None:
        if name not in self.found.layers:
            for x in channel_tensors(module).values():
                self.coupling.lock(self.labels(x), f"{name}: {WHY}")
            self.found.layers[name] = TracedLayer(name, module, why=WHY)

    def _write_norm(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs = tensors_of((args, kwargs))
        if len(inputs) == 1 and isinstance(output, Tensor):
            own = {key: self.labels(x) for key, x in channel_tensors(module).items()}
            write_norm(self.found, name, module, inputs[0], self.labels(inputs[0]), output, own)
        else:
            self.found.layers.setdefault(name, TracedLayer(name, module, why="it has several inputs or outputs"))

    def _lock_weights_used_elsewhere(self) -> None:
        owned = {id(x): layer for layer in self.found.layers.values() for x in layer.module.parameters(recurse=False)}
        for key, places in self.uses.items():
            for labels in owned[key].labels() if key in owned else ():
                self.coupling.lock(labels, f"the weight of {owned[key].name} is used outside of it, {places[0]}")


def _not_called(found: Trace, used: set[int]) -> tuple[list[str], list[str]]:
    """Return the layers that did nothing, and those whose parameters (by their ids) were used outside of them.

    A layer that shares all its parameters with one that ran is none of them.
    """
    ran = {layer.module for layer in found.layers.values()}
    inside = {part for module in ran for part in module.modules()}
    shared = {id(parameter) for module in inside for parameter in module.parameters(recurse=False)}
    idle, read = list[str](), list[str]()
    for name, module in found.modules.named.items():
        own = {id(parameter) for parameter in module.parameters(recurse=False)}
        if module not in inside and _has_channels(module) and not own <= shared:
            (read if own & used else idle).append(name)
    return idle, read


def _has_channels(module: nn.Module) -> bool:
    """Return whether it is a layer with numbers of its own for channels, which a PReLU of one slope has not."""
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return False
    return layer_kind(module) is not None and any(True for _ in module.parameters())


def _parametrization(module: nn.Module) -> str:
    lists = module.parametrizations
    parts = [part for holder in lists.children() for part in holder.children()]  # type: ignore[union-attr]
    return ", ".join(sorted({type(part).__name__ for part in parts}))
