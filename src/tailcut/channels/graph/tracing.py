"""Tracing: one forward of the unmodified network, with channel labels attached to every tensor.

Layers of `layer_kinds` are taken as a whole (their rules are in layer_rules.py); everything between them is seen as
torch's operations (operations.py). Nothing is compiled or rewritten: any Python in the forward is fine.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from tailcut.channels.graph.coupling import Coupling, along, fixed
from tailcut.channels.graph.custom_forwards import WHY, is_followed, num_outputs, own_labels, weight_call
from tailcut.channels.graph.layer_kinds import channel_tensors, is_traced_through, layer_kind, whole_layer
from tailcut.channels.graph.layer_rules import Alignment, TracedLayer, couple_tied, pass_layer, write_norm
from tailcut.channels.graph.memory_layout import RESTRIDING, Layout
from tailcut.channels.graph.operations import OperationCall, bind_arguments, labels_of_results, numbered_channels
from tailcut.channels.graph.shape_only import READING, zeros_for
from tailcut.channels.scoring.forward import Inputs, for_training, run, training, undisturbed
from tailcut.counting import operation_macs
from tailcut.errors import ArgumentError

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
MAX_FREE_NUMBERS = 1 << 22  # entries of a parameter outside of layers that are followed one by one


@dataclass
class Trace:
    """Trace of one forward.

    Attributes:
        coupling: the channels' numbers.
        layers: the layers that ran, by name, in the order in which they first did.
        alignments: the shortcuts that pad channels, by name.
        free: name -> labels of the parameters and buffers outside of layers that met channels.
        idle: layers with channels that did not run.
        outputs: what the network gave: shapes of its tensors.
        trains: the network also ran in training mode.
        failure: why it did not.
        reads_numbers: its code reads numbers of tensors (`.item()`), so that it must be computed in full.
        macs: multiply-accumulate operations of the forward in evaluation mode, those that compute weights included.
        depthwise: which convolutions take their channels one by one.
        is_alike: training mode did what evaluation mode does, dropout apart.
    """

    coupling: Coupling = field(default_factory=Coupling)
    layers: dict[str, TracedLayer] = field(default_factory=dict)
    alignments: dict[str, Alignment] = field(default_factory=dict)
    free: dict[str, Tensor] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    outputs: list[tuple[int, ...]] = field(default_factory=list)
    trains: bool = False
    failure: str | None = None
    reads_numbers: bool = False
    macs: int = 0
    depthwise: dict[str, bool] = field(default_factory=dict)
    is_alike: bool = False


class StoppedError(ArgumentError):
    """A forward that did not get to its end.

    Attributes:
        layers: the layers that ran before, in their order.
    """

    def __init__(self, message: str, layers: list[str]) -> None:
        super().__init__(message)
        self.layers = layers


def trace(
    model: nn.Module,
    inputs: Inputs,
    like: Trace | None = None,
    go_backward: Callable[[list[Tensor]], object] | None = None,
) -> Trace:
    """Follow the channels of `model` through two forwards, in evaluation and in training mode. It is not changed.

    Training mode runs layers (auxiliary classifiers) and meets tensors that evaluation leaves out; buffers that it
    changes are put back. A network that does not train on such inputs is followed in evaluation mode alone.

    Args:
        model: any network.
        inputs: what its forward takes.
        like: the trace of the same network before a cut, whose reading of reshapes is taken over. Then, as always in
            training mode, it runs for its shapes alone (shape_only.py), if its code reads no numbers. Training mode is
            left out where it did what evaluation mode does.
        go_backward: gets what evaluation mode gave; that forward is then computed in full, and may be followed back.

    Raises:
        ArgumentError: the network does not run on the inputs, or gives no tensors.
    """
    found = Trace() if like is None else Trace(Coupling(like.coupling.views), depthwise=dict(like.depthwise))
    with undisturbed(model):
        shapes_only = like is not None and not like.reads_numbers and go_backward is None
        with torch.set_grad_enabled(go_backward is not None):
            outputs, operations = _follow(model, inputs, found, shapes_only)
        found.outputs = [tuple(tensor.shape) for tensor in outputs]
        if not found.outputs:
            raise ArgumentError(f"{type(model).__name__} gives no tensors that its channels could be followed to")
        if go_backward is not None:
            go_backward(outputs)
        positions, macs = {name: layer.positions for name, layer in found.layers.items()}, found.macs
        if like is not None and like.is_alike:
            found.trains = found.is_alike = True
        else:
            _follow_training(model, inputs, found, like, operations)
        found.macs = macs
        for name, layer in found.layers.items():
            layer.positions = positions.get(name, 0)
            for attribute in layer.axes:
                found.free.pop(layer.path(attribute), None)
    found.idle = _idle(model, found)
    couple_tied(model, found)
    return found


def _follow_training(
    model: nn.Module, inputs: Inputs, found: Trace, like: Trace | None, operations: list[object]
) -> None:
    """Follow it in training mode too (changes `found`); `operations` are those of evaluation mode."""
    with torch.no_grad(), training(model):
        try:
            shapes_only = not (found if like is None else like).reads_numbers
            _, there = _follow(model, for_training(inputs), found, shapes_only)
            if shapes_only and found.reads_numbers and like is None:  # only in training mode, then
                _follow(model, for_training(inputs), found, shapes_only=False)
            found.trains = True
            found.is_alike = there == operations and not found.reads_numbers
        except ArgumentError as error:
            found.failure = str(error)


def _follow(model: nn.Module, inputs: Inputs, found: Trace, shapes_only: bool) -> tuple[list[Tensor], list[object]]:
    """Run one forward. Return its outputs, and the layers and operations that it ran except dropout."""
    tracer = _Tracer(model, found, shapes_only)
    try:
        with tracer.hooked(model), tracer:
            outputs = run(model, inputs)
            tracer.lock_numbered(outputs)
    except ArgumentError as error:
        raise StoppedError(str(error), list(found.layers)) from error
    for output in outputs:
        found.coupling.lock(tracer.labels(output), "the network's output")
    return outputs, tracer.operations


class _Tracer(TorchDispatchMode):
    """Carries labels from operation to operation; operations within a layer are not looked at."""

    def __init__(self, model: nn.Module, found: Trace, shapes_only: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found
        self._run = zeros_for if shapes_only else lambda func, args, kwargs: func(*args, **kwargs)
        self.coupling = found.coupling
        self.running: list[str] = []
        self.operations: list[object] = []  # layers by name, and what ran between them on channels
        self._in_layers = 0
        self._labels: Any = WeakTensorKeyDictionary()
        self._numbered: Any = WeakTensorKeyDictionary()  # places along channels -> the labels of these
        self._free = _free_tensors(model)
        self._owners = _owners(model)
        self._dropouts = {name for name, module in model.named_modules() if type(module) in _DROPOUTS}
        self._own_forwards = {
            name: module for name, module in model.named_modules() if is_traced_through(module) and is_followed(module)
        }

    def labels(self, x: Tensor) -> Tensor:
        """Return the labels of a tensor; a parameter outside layers gets new ones on first use."""
        known: Tensor | None = self._labels.get(x)
        if known is not None:
            return known
        name = self._free.get(id(x))
        if name is None or x.numel() > MAX_FREE_NUMBERS:
            return fixed(x.shape)
        if name not in self.found.free:
            self.found.free[name] = self.coupling.new(x.numel()).view(x.shape)
        return self.found.free[name]

    def set_labels(self, x: Tensor, labels: Tensor) -> None:
        """Write the labels of a tensor."""
        self._labels[x] = labels

    def lock_numbered(self, used: Sequence[Tensor]) -> None:
        """Lock channels whose index is used: the index of a class is its name."""
        for x in used:
            if x in self._numbered:
                self.coupling.lock(self._numbered[x], f"the index of one of its channels is used, {self.place()}")

    def place(self) -> str:
        """Return the module path, for messages."""
        return f"in {self.running[-1]}" if self.running and self.running[-1] else "in the network's forward"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Before it runs: in place it leaves no trace of how its input lay.
        layout = Layout.of(args[0]) if func.overloadpacket in RESTRIDING and not self._in_layers else None
        result = self._run(func, args, kwargs or {})
        self.found.reads_numbers |= func.overloadpacket in READING
        self.found.macs += operation_macs(func, result, args)
        if self._in_layers:
            return result
        inputs = [x for x in pytree.tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        self.lock_numbered(inputs)
        for x in inputs:
            if id(x) in self._owners:
                self._owners[id(x)].append(self.place())
        if any(x in self._labels or id(x) in self._free for x in inputs):
            arguments = bind_arguments(func, args, kwargs or {})
            if self._multiplied(func, arguments, result):
                return result
            results = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
            if not (self._dropouts.intersection(self.running[-1:]) or any(map(_is_mask, (*inputs, *results)))):
                self.operations.append(func)
            call = OperationCall(self.coupling, func, arguments, inputs, results, self.labels, self.place(), layout)
            for x, labels in zip(results, labels_of_results(call), strict=True):
                self.set_labels(x, labels)
            numbered = numbered_channels(call)
            if numbered is not None:
                self._numbered[results[-1]] = numbered
        return result

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Follow which module runs; take known layers as a whole."""
        handles = []
        try:
            for name, module in model.named_modules():
                # The network's own hooks run outside of these two: what they do is followed as the rest is.
                enter, leave = self._hooks(name, _is_layer(module), is_traced_through(module))
                handles.append(module.register_forward_pre_hook(enter))
                handles.append(module.register_forward_hook(leave, with_kwargs=True, prepend=True))
            yield
            self._lock_weights_used_elsewhere()
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, name: str, is_layer: bool, traced_through: bool) -> tuple[Any, Any]:
        def enter(module: nn.Module, args: Any) -> None:
            self.running.append(name)
            if not self._in_layers and name in self._own_forwards:
                with no_dispatch():
                    self._begin(name, module)
            self._in_layers += is_layer

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.running.pop()
            self._in_layers -= is_layer
            if self._in_layers:
                return
            with no_dispatch():  # what is done to labels is no operation of the network
                if is_layer:
                    self._pass(name, module, args, kwargs, output)
                elif name in self._own_forwards:
                    self._end(name, module)
                elif traced_through:
                    self._write_norm(name, module, args, kwargs, output)

        return enter, leave

    def _pass(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        outputs = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
        self.lock_numbered(inputs)
        self.operations.append(name)
        why = whole_layer(module) if layer_kind(module) is None else None
        if parametrize.is_parametrized(module):
            why = f"its weight is parametrised ({_parametrization(module)}); prune first, parametrise afterwards"
        elif not _holds_weights(module):
            why = "its weight is computed by a hook (weight_norm, spectral_norm?); remove it first"
        if why is None and len(inputs) == len(outputs) == 1:
            labels = pass_layer(self.found, name, module, inputs[0], self.labels(inputs[0]), outputs[0])
            self.set_labels(outputs[0], labels)
            return
        for x in inputs:
            self.coupling.lock(self.labels(x), f"goes into {name}: {why or 'it has several inputs or outputs'}")
        for x in outputs:
            self.set_labels(x, fixed(x.shape))
        self.found.layers.setdefault(name, TracedLayer(name, module, why=why or "it has several inputs or outputs"))

    def _begin(self, name: str, module: nn.Module) -> None:
        """Couple weight and bias of a layer with a custom forward to its output channels."""
        known = self.found.layers.get(name)
        outer = known.outer if known is not None else None
        if outer is None:
            outer = self.coupling.new(num_outputs(module))
        for attribute, labels in own_labels(module, outer).items():
            x = getattr(module, attribute)
            if id(x) in self._free:
                self.set_labels(x, labels)

    def _multiplied(self, func: Any, given: dict[str, Any], result: Any) -> bool:
        """Take an operation in the forward of such a layer for the layer. Returns whether it is one."""
        name = self.running[-1] if self.running else ""
        if name not in self._own_forwards:
            return False
        module, known = self._own_forwards[name], self.found.layers.get(name)
        call = weight_call(func, given, module)
        if call is None or (known is not None and known.why is not None):
            return False
        labels = self.labels(call.weight)
        if not call.has_own_channels(self.coupling, labels):
            return False
        self.set_labels(result, pass_layer(self.found, name, module, call.x, self.labels(call.x), result))
        outer = self.found.layers[name].outer
        if outer is not None:
            bias = [] if call.bias is None else [(self.labels(call.bias), 0)]
            for own, axis in [(labels, call.axis), *bias]:
                reason = f"meets fixed entries in the forward of {name}"
                self.coupling.couple(along(outer, axis, own.shape), own, reason)
        return True

    def _end(self, name: str, module: nn.Module) -> None:
        if name not in self.found.layers:
            for x in channel_tensors(module).values():
                self.coupling.lock(self.labels(x), f"{name}: {WHY}")
            self.found.layers[name] = TracedLayer(name, module, why=WHY)

    def _write_norm(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if len(inputs) == 1 and isinstance(output, Tensor):
            own = {key: self.labels(x) for key, x in channel_tensors(module).items()}
            write_norm(self.found, name, module, inputs[0], self.labels(inputs[0]), output, own)
        else:
            self.found.layers.setdefault(name, TracedLayer(name, module, why="it has several inputs or outputs"))

    def _lock_weights_used_elsewhere(self) -> None:
        owned = {id(x): layer for layer in self.found.layers.values() for x in layer.module.parameters(recurse=False)}
        for key, places in self._owners.items():
            if places and key in owned:
                for labels in owned[key].labels():
                    self.coupling.lock(labels, f"the weight of {owned[key].name} is used outside of it, {places[0]}")


def _is_mask(x: Tensor) -> bool:
    """Return whether it has one number for each image, as the masks of drop path do."""
    return x.ndim > 1 and x.numel() == x.shape[0]


def _free_tensors(model: nn.Module) -> dict[int, str]:
    """Parameters and buffers outside of layers, by identity."""
    layers = _layers(model)
    return {
        id(x): f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if module not in layers
        for name, x in (*module._parameters.items(), *module._buffers.items())
        if x is not None and x.numel() > 1
    }


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """For each parameter of a layer the places outside of it where it is used; none so far."""
    return {id(x): [] for module in _layers(model) for x in module.parameters(recurse=False)}


def _is_layer(module: nn.Module) -> bool:
    """Return whether the module is traced as one unit."""
    known = layer_kind(module) is not None or whole_layer(module) is not None
    return known and not is_traced_through(module)


def _layers(model: nn.Module) -> set[nn.Module]:
    found = {module for module in model.modules() if _is_layer(module)}
    return found | {part for module in found for part in module.modules()}


def _idle(model: nn.Module, found: Trace) -> list[str]:
    ran = {layer.module for layer in found.layers.values()}
    inside = {part for module in ran for part in module.modules()}
    return [
        name
        for name, module in model.named_modules()
        if layer_kind(module) is not None and module not in inside and any(True for _ in module.parameters())
    ]


def _holds_weights(module: nn.Module) -> bool:
    """Return whether a weight is a parameter of its module, not an attribute written by a hook."""
    return not any(isinstance(vars(module).get(name), Tensor) for name in ("weight", "bias"))


def _parametrization(module: nn.Module) -> str:
    lists = module.parametrizations
    parts = [part for holder in lists.children() for part in holder.children()]  # type: ignore[union-attr]
    return ", ".join(sorted({type(part).__name__ for part in parts}))
