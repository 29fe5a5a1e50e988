"""The call that a network is exported with: its tensors by name, its other arguments fixed, its outputs by name."""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tailcut.errors import ArgumentError, StructureError
from tailcut.inputs.transform.input_transform import input_transform_of

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of terminals, in the exporter's messages
# Types of arguments that are constants of the exported network.
_FIXED = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.memory_format)


class Call:
    """Arguments of a network, the tensors among them apart.

    Attributes:
        names: of the tensors: the argument, or the argument and the place in it, as in `past_0_key`.
        tensors: in the order of the arguments.
    """

    def __init__(
        self, network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, pixels: bool = False
    ) -> None:
        """Take the arguments of one call apart.

        Args:
            network: what is called.
            args: by place.
            kwargs: by name.
            pixels: the first tensor is RGB images, which the network's own transform makes its input.

        Raises:
            ArgumentError: `network.forward` has no such arguments, or one is neither a tensor nor made of tensors,
                numbers, strings and None.
        """
        self._leaves, self._spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        words = _argument_names(network, args, kwargs)
        paths = [path for path, _ in pytree.tree_flatten_with_path((tuple(args), dict(kwargs)))[0]]
        names = ["_".join([words[_key(path[1])], *map(_key, path[2:])]) for path in paths]
        for name, leaf in zip(names, self._leaves, strict=True):
            if not isinstance(leaf, (Tensor, *_FIXED)):
                raise ArgumentError(
                    f"the example's {name} is a {type(leaf).__name__}; give tensors, numbers, strings, None, or lists, "
                    "tuples and dicts of them"
                )
        self._places = [place for place, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        stored = network.state_dict()
        used = [names[place] for place in self._places]
        self.names = _distinct([f"{name}_input" if name in stored else name for name in used])
        self._pixels = pixels and input_transform_of(network) is not None
        if self._pixels:
            self.names = ("pixels", *self.names[1:])
        self.tensors = tuple(self._leaves[place] for place in self._places)
        if not self.tensors:
            raise ArgumentError("the example holds no tensor: example_input gives the tensors of a call")

    def run(self, network: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Run the network on such tensors, all else as in the example."""
        leaves = list(self._leaves)
        transform = input_transform_of(network) if self._pixels else None
        if transform is not None:
            tensors = (transform(tensors[0]), *tensors[1:])
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return network(*args, **kwargs)

    def problem(self, network: nn.Module, tensors: Sequence[Tensor]) -> str | None:
        """Return the error of the network on such tensors; None if it takes them."""
        try:
            with torch.no_grad():
                self.run(network, tensors)
        except Exception as error:  # noqa: BLE001 -- any error of the user's code
            return first_line(error)
        return None

    def outputs(self, network: nn.Module) -> tuple[str, ...]:
        """Return the names of what the network returns for the example.

        Raises:
            ArgumentError: it does not take the example.
            StructureError: it returns what is no tensor.
        """
        try:
            with torch.no_grad():
                result = self.run(network, self.tensors)
        except Exception as error:
            sizes = ", ".join(str(tuple(value.shape)) for value in self.tensors)
            raise ArgumentError(
                f"the network does not take an example of shape {sizes}: {first_line(error)}"
            ) from error
        found = list(named_tensors(result, type(network).__name__))
        taken = {*self.names, *network.state_dict()}
        return _distinct([f"{name}_out" if name in taken else name for name, _ in found])


class Flat(nn.Module):
    """A network that takes the tensors of a call, and returns tensors, each in a tuple."""

    def __init__(self, network: nn.Module, call: Call) -> None:
        super().__init__()
        self.network = network
        self._call = call

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the network, each a tensor of its own."""
        result = self._call.run(self.network, tensors)
        outputs: list[Tensor] = []
        for _, value in named_tensors(result, type(self.network).__name__):
            # An ONNX graph returns no input, and nothing twice.
            is_known = any(value is other for other in (*tensors, *outputs))
            outputs.append(value.clone() if is_known else value)
        return tuple(outputs)


def named_tensors(result: Any, network: str) -> Iterator[tuple[str, Tensor]]:
    """Each tensor that a network returned, with its name: of a dict the keys; "output" or "output0" and so on else.

    Args:
        result: a tensor, or tensors in dicts, tuples, lists, dataclasses and what is registered with torch's pytree.
            None is left out.
        network: the name of its class, for errors.

    Raises:
        StructureError: it holds something else, or nothing.
    """
    num = 0
    for path, value in _walk(result, ()):
        if not isinstance(value, Tensor):
            where = f" as {'_'.join(path)!r}" if path else ""
            raise StructureError(
                f"{network} cannot be exported: it returns a {type(value).__name__}{where}, and an ONNX file returns "
                "tensors only; let the network return tensors in tuples and dicts, or ask it by an argument to leave "
                "this out (example_input={**inputs, 'use_cache': False} for caches of transformers)"
            )
        num += 1
        yield _output_name(path), value
    if num == 0:
        raise StructureError(f"{network} cannot be exported: it returns no tensor")


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = _children(value)
    if children is not None:
        for key, child in children:
            yield from _walk(child, (*path, str(key)))
    elif value is not None:
        yield path, value


def _children(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return the parts of a container with their keys; None for what is no container."""
    if isinstance(value, (Tensor, type)):
        return None
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (tuple, list)):
        return zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if type(value) in pytree.SUPPORTED_NODES:
        leaves = pytree.tree_flatten_with_path(value)[0]
        return [("_".join(map(_key, path)), leaf) for path, leaf in leaves]
    return None


def _output_name(path: tuple[str, ...]) -> str:
    if not path:
        return "output"
    name = "_".join(path)
    return f"output{name}" if path[0].isdigit() else name


def _key(part: Any) -> str:
    """Return a step of a path as text."""
    for attribute in ("key", "idx", "name"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)


def _argument_names(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of each argument, by its place or keyword."""
    signature = inspect.signature(network.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(
            f"the example does not fit {type(network).__name__}.forward{signature}: {error}; example_input is a "
            "tensor, a tuple of arguments or a dict of them by name"
        ) from error
    words = {name: name for name in kwargs}
    parameters = [each for each in signature.parameters.values() if each.kind != each.KEYWORD_ONLY]
    for place in range(len(args)):
        parameter = parameters[min(place, len(parameters) - 1)]
        if parameter.kind == parameter.VAR_KEYWORD:
            parameter = parameters[-2]
        is_one = parameter.kind != parameter.VAR_POSITIONAL
        words[str(place)] = parameter.name if is_one else f"{parameter.name}_{place - parameters.index(parameter)}"
    return words


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, repeated ones with a number."""
    found: dict[str, None] = {}
    for name in names:
        unique, number = name, 1
        while unique in found:
            unique, number = f"{name}_{number}", number + 1
        found[unique] = None
    return tuple(found)


def first_line(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
