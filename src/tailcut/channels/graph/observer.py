"""Observation of one forward: the layers and the operations on channels that ran, and on what they ran.

Two forwards that took the same steps treat channels alike; so training mode needs not be followed a second time where
it does what evaluation mode does.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from tailcut.channels.graph.custom_forwards import is_followed
from tailcut.channels.graph.memory_layout import RESHAPES, RESTRIDING, Layout
from tailcut.channels.graph.shape_only import ToPython, reads_numbers, zeros_for
from tailcut.channels.layer_kinds import is_traced_through, layer_kind, whole_layer
from tailcut.channels.scoring.forward import run
from tailcut.counting import operation_macs
from tailcut.model_inputs import ModelInputs

aten = torch.ops.aten

# Copies and views are alike: which of them torch takes depends on how the batch lies in memory.
_COPIES = {aten.clone, aten.detach}
_NOISE = {aten.empty_like, aten.bernoulli, aten.bernoulli_, aten.rand_like}  # what a dropout's mask is made of
# The shapes of what goes in and comes out tell their numbers: where they split, along which axis, how many groups.
_TOLD_BY_SHAPES = {
    *(aten.split.Tensor, aten.split_with_sizes.default),
    *(aten.convolution.default, aten.native_group_norm.default),
}
_CORNER = 4  # places along each axis of a constant tensor that are looked at
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Modules:
    """The modules of a network by how they are followed. Cutting the network does not change it.

    Attributes:
        named: all modules by name.
        layers: the names of those that are taken as a whole.
        dropouts: the names of dropouts.
        traced_through: the names of layers with custom forwards.
        followed_layers: of these, the convolutions and linear layers.
        in_layers: the layers that are taken as a whole, and what they consist of.
    """

    def __init__(self, model: nn.Module) -> None:
        self.named = dict(model.named_modules())
        self.traced_through = {name for name, module in self.named.items() if is_traced_through(module)}
        self.layers = {
            name
            for name, module in self.named.items()
            if name not in self.traced_through and (layer_kind(module) is not None or whole_layer(module) is not None)
        }
        self.dropouts = {name for name, module in self.named.items() if type(module) in _DROPOUTS}
        self.followed_layers = {name for name in self.traced_through if is_followed(self.named[name])}
        self.in_layers = {part for name in self.layers for part in self.named[name].modules()}
        self._free = [  # told by their sizes before a cut: one that has one number left still is such a tensor
            (module, name, f"{path}.{name}" if path else name)
            for path, module in self.named.items()
            if module not in self.in_layers
            for name, x in (*module._parameters.items(), *module._buffers.items())
            if x is not None and x.numel() > 1
        ]

    def free_tensors(self) -> dict[int, str]:
        """Return the parameters and buffers outside of layers, by identity."""
        return {id(getattr(module, attribute)): name for module, attribute, name in self._free}

    def owned(self) -> dict[int, str]:
        """Return the parameters of layers, by identity."""
        return {
            id(x): f"{path}.{name}"
            for path, module in self.named.items()
            if module in self.in_layers
            for name, x in module._parameters.items()
            if x is not None
        }


class Step(NamedTuple):
    """A layer or an operation of a forward.

    Attributes:
        what: the layer's name, or the operation.
        tokens: which results of earlier steps, or which of the network's tensors went in; None for any other tensor.
        numbers: the axes, sizes and counts among the operation's arguments, sizes of results apart.
        shapes: of the tensors that went in and came out; of other tensors than the network's and those that steps
            made, 1 along axes to which they were expanded.
        num_results: how many came out.
    """

    what: object
    tokens: tuple[object, ...]
    numbers: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    num_results: int

    def is_like(self, other: "Step") -> bool:
        """Return whether the other step is the same, on a batch of the same size or twice as large."""
        return (
            self[:3] == other[:3]
            and len(self.shapes) == len(other.shapes)
            and (self.shapes == other.shapes or all(map(_is_batch_of, self.shapes, other.shapes)))
        )


class Calculation(NamedTuple):
    """Numbers that an operation calculates with, beside the channels.

    Attributes:
        what: the operation.
        place: the module that was running, as far as it was followed.
        values: its arguments that are factors, exponents and the like, and the first entries of constant tensors.
    """

    what: object
    place: str
    values: tuple[float, ...]


def _is_batch_of(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether the shapes are the same, one axis apart that is twice as long in the other one.

    An empty tensor may have any other shape: in evaluation mode batch norm gives no statistics of its own.
    """
    if 0 in shape:
        return True
    differ = [(here, there) for here, there in zip(shape, other, strict=False) if here != there]
    return len(shape) == len(other) and (not differ or (len(differ) == 1 and differ[0][1] == 2 * differ[0][0]))


def layers_of(steps: Sequence[Step]) -> list[str]:
    """Return the names of the layers among steps, in their order."""
    return [step.what for step in steps if isinstance(step.what, str)]


def are_alike(steps: Sequence[Step], others: Sequence[Step]) -> bool:
    """Return whether two forwards took the same steps, the second one on a batch of the same size or twice as large."""
    return len(steps) == len(others) and all(map(Step.is_like, steps, others))


def _goes_with_noise(is_noise: bool, x: Tensor, token: object, ndim: int) -> bool:
    """Return whether an operand may meet noise as in dropout: itself noise, a map, one number in all or per image.

    One of the network's own tensors, or a constant of several numbers, may have a number for each channel; `ndim` are
    the axes of the result.
    """
    is_per_image = token is None and x.ndim == ndim > 1 and x.numel() == x.shape[0]
    return is_noise or isinstance(token, tuple) or x.numel() == 1 or is_per_image


class Observer(TorchDispatchMode):
    """Notes the steps of a forward, dropout and copies apart. Operations within a layer are not looked at.

    Attributes:
        steps: so far.
        calculations: so far, those of dropout among them.
        running: the modules that are running, the innermost last.
        reads_numbers: whether the code has read numbers of tensors.
        macs: multiply-accumulate operations so far.
    """

    def __init__(self, modules: Modules, *, shapes_only: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules = modules
        self.steps: list[Step] = []
        self.calculations: list[Calculation] = []
        self.running: list[str] = []
        self.reads_numbers = False
        self.macs = 0
        self._shapes_only = shapes_only
        self._in_layers = 0
        # By identity: a tensor, its token, its labels.
        self._known: dict[int, tuple[Tensor, object, Tensor | None]] = {}
        self._drawn: dict[int, Tensor] = {}  # by identity: what is made of random numbers alone
        self._free, self._owners = modules.free_tensors(), modules.owned()
        self._num_skipped = 0
        self._layout: Layout | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # there, operations that are made of others come whole
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = self._compute(func, args, kwargs)
        self.reads_numbers |= reads_numbers(func, args)
        self.macs += operation_macs(func, result, args)
        if not self._in_layers:
            inputs = tensors_of((args, kwargs))
            tokens = [self.token(x) for x in inputs]
            if any(token is not None for token in tokens):
                results = tensors_of(result)
                arguments, values = _sorted_arguments(func, args, kwargs)
                self._note_calculation(func, values, inputs, tokens)
                made = self._step(func, arguments, inputs, tokens, results)
                labels = self._labels_of_operation(func, args, kwargs, inputs, results)
                for x, token, own in zip(results, made, labels, strict=True):
                    self._know(x, token, own)
            elif torch.Tag.nondeterministic_seeded in func.tags or any(id(x) in self._drawn for x in inputs):
                self._drawn |= {id(x): x for x in tensors_of(result)}
        return result

    def _note_read(self, x: Tensor) -> None:
        """Note that numbers of a tensor went to Python; those of constants are always the same."""
        self.reads_numbers |= id(x) in self._known

    def _note_calculation(
        self, func: Any, values: list[float], inputs: Sequence[Tensor], tokens: Sequence[object]
    ) -> None:
        for x, token in zip(inputs, tokens, strict=True):
            if token is None and id(x) not in self._drawn:
                values += _corner(x)
        if values:
            self.calculations.append(Calculation(func, self.running[-1] if self.running else "", tuple(values)))

    def _know(self, x: Tensor, token: object, labels: Tensor | None) -> None:
        self._known[id(x)] = x, token, labels

    def _compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        # Before it runs: in place it leaves no trace of how its input lay.
        self._layout = Layout.of(args[0]) if func.overloadpacket in RESTRIDING and not self._in_layers else None
        return zeros_for(func, args, kwargs) if self._shapes_only else func(*args, **kwargs)

    def _labels_of_operation(
        self, func: Any, args: Any, kwargs: dict[str, Any], inputs: list[Tensor], results: list[Tensor]
    ) -> Sequence[Tensor | None]:
        return [None for _ in results]

    def _labels_of_layer(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> Sequence[Tensor | None]:
        return [None for _ in outputs]

    def token(self, x: Tensor) -> object:
        """Return what stands for a tensor: its name if it is the network's, else the step that made it."""
        known = self._known.get(id(x))
        return known[1] if known is not None else self._free.get(id(x)) or self._owners.get(id(x))

    def observe(self, model: nn.Module, inputs: ModelInputs) -> list[Tensor]:
        """Run a forward and return its outputs.

        Raises:
            ArgumentError: it raises any error.
        """
        with self.hooked(), ToPython(self._note_read), self:
            outputs = run(model, inputs)
        self._add("outputs", outputs, [self.token(x) for x in outputs])
        return outputs

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Follow which module runs; take known layers as a whole."""
        with ExitStack() as hooks:
            for name in self._to_hook():
                # The network's own hooks run outside of these two: what they do is followed as the rest is.
                module, leave = self.modules.named[name], partial(self._leave, name)
                hooks.enter_context(module.register_forward_pre_hook(partial(self._enter, name)))
                hooks.enter_context(module.register_forward_hook(leave, with_kwargs=True, prepend=True))
            yield

    def _to_hook(self) -> Iterable[str]:
        return self.modules.layers | self.modules.dropouts

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self.running.append(name)
        self._in_layers += name in self.modules.layers

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.running.pop()
        is_layer = name in self.modules.layers
        self._in_layers -= is_layer
        if is_layer and not self._in_layers:
            self._note_layer(name, tensors_of((args, kwargs)), tensors_of(output))

    def _note_layer(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        made = self._add(name, inputs, [self.token(x) for x in inputs], outputs)
        labels = self._labels_of_layer(name, inputs, outputs)
        for x, token, own in zip(outputs, made, labels, strict=True):
            self._know(x, token, own)

    def _step(
        self, func: Any, arguments: Any, inputs: Sequence[Tensor], tokens: Sequence[object], results: Sequence[Tensor]
    ) -> list[object]:
        """Note an operation. Returns the tokens of its results."""
        kind = func.overloadpacket
        if kind in _NOISE or (kind is aten.new_empty and all(map(_is_mask, results))):
            return ["noise" for _ in results]
        pairs = list(zip(inputs, tokens, strict=True))
        is_noise = [given == "noise" or (given is None and _is_mask(x)) for x, given in pairs]
        is_noisy = any(is_noise) and all(
            _goes_with_noise(noisy, *pair, results[0].ndim) for noisy, pair in zip(is_noise, pairs, strict=True)
        )
        is_dropout = self.running and self.running[-1] in self.modules.dropouts
        is_same = self._layout is not None and self._layout.is_like(Layout.of(results[0]))
        if is_dropout or is_same or kind in _COPIES or (is_noisy and torch.Tag.pointwise in func.tags):
            return [self._token_like(x, inputs, tokens) for x in results]  # what dropout gives is what it got
        return self._add("reshape" if kind in RESHAPES else func, inputs, tokens, results, arguments)

    def _token_like(self, x: Tensor, inputs: Sequence[Tensor], tokens: Sequence[object]) -> object:
        alike = [one for y, one in zip(inputs, tokens, strict=True) if one is not None and y.shape == x.shape]
        if alike:
            return next((one for one in alike if one != "noise"), "noise")
        self._num_skipped += 1
        return "skipped", self._num_skipped

    def _add(
        self,
        what: object,
        inputs: Sequence[Tensor],
        tokens: Sequence[object],
        results: Sequence[Tensor] = (),
        arguments: Sequence[Any] = (),
    ) -> list[object]:
        own = [_own_shape(x) if token is None else tuple(x.shape) for x, token in zip(inputs, tokens, strict=True)]
        shapes = (*own, *(tuple(x.shape) for x in results))
        numbers: list[int] = []
        for given in arguments:
            if type(given) is int and what not in _TOLD_BY_SHAPES:
                numbers.append(given)
            elif isinstance(given, (list, tuple)) and not (results and _are_sizes(given, shapes[len(inputs)], what)):
                numbers += [one for one in given if type(one) is int]
        self.steps.append(Step(what, tuple(tokens), tuple(numbers), shapes, len(results)))
        return [(len(self.steps), place) for place in range(len(results))]


def _own_shape(x: Tensor) -> tuple[int, ...]:
    """Return the shape that a constant had before it was expanded: to how many channels is told by what it meets."""
    if x.layout is not torch.strided:
        return tuple(x.shape)
    return tuple(size if stride else min(1, size) for size, stride in zip(x.shape, x.stride(), strict=True))


def _are_sizes(given: Sequence[Any], shape: Sequence[int], what: object) -> bool:
    """Return whether the numbers are those of a result's shape, as far as they are told. Axes may only look so."""
    if isinstance(what, OpOverload) and any(one.name in ("dim", "dims") for one in what._schema.arguments):
        return False
    if what is aten.native_layer_norm.default:
        shape = shape[-len(given) :]
    pairs = zip(given, shape, strict=False)
    return len(given) == len(shape) and all(type(one) is int and one in (-1, size) for one, size in pairs)


@functools.cache
def _of_layout(func: Any) -> frozenset[int | str]:
    """Return the places and names of an operation's arguments that are axes, sizes or counts, by its schema."""
    return frozenset(
        key
        for place, argument in enumerate(func._schema.arguments)
        if "int" in str(argument.type)
        for key in (place, argument.name)
    )


def _sorted_arguments(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[list[Any], list[float]]:
    """Return the arguments of an operation that are axes, sizes or counts, and the numbers among the others."""
    layout, values, keys = [], [], _of_layout(func)
    for key, given in (*enumerate(args), *kwargs.items()) if kwargs else enumerate(args):
        if key in keys:
            layout.append(given)
        elif type(given) in (int, float):
            values.append(given)
        elif isinstance(given, (list, tuple)):
            values += [one for one in given if type(one) in (int, float)]
    return layout, values


def _corner(x: Tensor) -> list[float]:
    """Return the first entries of a constant: enough to tell one that is made of a width."""
    if x.is_meta or x.is_quantized or x.is_complex() or x.layout is not torch.strided:
        return []
    corner: list[float] = x.detach()[(slice(_CORNER),) * min(x.ndim, 4)].flatten()[: _CORNER**2].tolist()
    return corner


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [x for part in value for x in tensors_of(part)]


def _is_mask(x: Tensor) -> bool:
    """Return whether it has one number for each image, as the masks of drop path do."""
    return x.ndim > 1 and x.numel() == x.shape[0]
