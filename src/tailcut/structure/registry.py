"""Registry of network families, so that a file can name one and rebuild it from a few typed arguments."""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from torch import nn

from tailcut.errors import ArgumentError, did_you_mean
from tailcut.structure.record import Base, Record, record_of, set_record
from tailcut.structure.wire import MAX_LIST_DEPTH, MAX_LIST_LENGTH, Value

Shape = tuple[int, ...]
MAX_INTEGER_ARGUMENT = 1 << 24
MAX_NAME_LENGTH = 64
IMAGE_AXES = 3  # channels, height, width
_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}")

# The command line says what to do there in its place.
UNKNOWN_ADVICE = "for one of your own import the module that registers it (tailcut.register_model) first"

Built = TypeVar("Built", bound=Callable[..., nn.Module])

_families: dict[str, "ModelFamily"] = {}


@dataclass(frozen=True)
class ModelFamily:
    """A registered network: its name, its class and its typed arguments.

    Attributes:
        name: the name that `create_model` and files use.
        build: the `nn.Module` subclass (or function that returns a module), called with keywords only.
        defaults: every argument and its default, in the order of the signature. The order is part of the
            file format: arguments may be appended, never moved or removed.
    """

    name: str
    build: Callable[..., nn.Module]
    defaults: Mapping[str, Value]
    types: Mapping[str, Any]
    shape: Shape | Callable[..., Shape]

    def example_shape(self, **arguments: Value) -> Shape:
        """Shape of an example input (batch first) for these arguments."""
        if callable(self.shape):
            return self.shape(**{**self.defaults, **arguments})
        return self.shape

    def check(self, arguments: Mapping[str, Value]) -> None:
        """Raise `ArgumentError` unless every argument is known and of its declared type."""
        for key, value in arguments.items():
            if key not in self.defaults:
                known = ", ".join(self.defaults) or "none"
                raise ArgumentError(f"model {self.name!r} has no argument {key!r}; its arguments: {known}")
            if not _fits(value, self.types[key]):
                raise ArgumentError(
                    f"model {self.name!r}: argument {key!r} must be {_type_name(self.types[key])}, got {value!r}"
                )


def register_model(name: str, *, example_shape: Shape | Callable[..., Shape]) -> Callable[[Built], Built]:
    """Class decorator: make an `nn.Module` known by name, so that files can rebuild it.

    The order and the defaults of the arguments are part of the file format: append, never move or change them.

    The `__init__` takes keyword-only arguments with defaults, each annotated as `bool`, `int`, `float`,
    `str` or `tuple[...]` of these.

    Args:
        name: lower-case name, unique.
        example_shape: shape of an example input, batch first, or a function of the arguments.

    Raises:
        ArgumentError: the name is taken or not in lower case, or the signature or the shape does not fit.
    """

    def register(build: Built) -> Built:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ArgumentError(
                f"expected a model name of lower-case letters, digits and ._- (at most {MAX_NAME_LENGTH}), got {name!r}"
            )
        if not callable(example_shape):
            _check_shape(name, example_shape)
        if name in _families:
            raise ArgumentError(f"a model named {name!r} is registered already; choose another name")
        defaults, hints = _signature(name, build)
        _families[name] = ModelFamily(name, build, defaults, hints, example_shape)
        return build

    return register


def create_model(name: str, /, **arguments: Value) -> nn.Module:
    """Build a registered network; its name and arguments are recorded on it, for `save`.

    Args:
        name: one of `model_names()`.
        arguments: typed arguments of the family; those left out keep their defaults.

    Returns:
        A new network with freshly initialised parameters.

    Raises:
        ArgumentError: unknown name, unknown argument, or a value of the wrong type.
    """
    chosen = family(name)
    arguments = {key: _plain(value) for key, value in arguments.items()}
    chosen.check(arguments)
    model = chosen.build(**arguments)
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model {name!r}: what is registered returned {type(model).__name__}, not a module")
    changed = {
        key: arguments[key] for key in chosen.defaults if key in arguments and arguments[key] != chosen.defaults[key]
    }
    set_record(model, Record(Base(name, changed), []))
    return model


def family(name: str) -> ModelFamily:
    """Return the registered family of that name; `ArgumentError` lists the known ones."""
    if not isinstance(name, str):
        raise ArgumentError(f"the name of a model must be a text, got {name!r:.200}")
    if name not in _families:
        hint = did_you_mean(name, model_names())
        hint += " " if hint else ""
        raise ArgumentError(f"unknown model {name!r}; {hint}registered: {', '.join(model_names())}; {UNKNOWN_ADVICE}")
    return _families[name]


def example_shape(model: nn.Module) -> Shape | None:
    """Shape of an example input (batch first) of a registered network with its edits; None for a user's own class."""
    record = record_of(model)
    if record.base is None:
        return None
    shape = family(record.base.name).example_shape(**record.base.arguments)
    for edit in record.edits:
        shape = edit.example_shape(shape)
    return shape


def batch_advice(shape: Shape) -> str:
    """Return what to say of an example input that a network does not take, if it looks like that of one image."""
    if len(shape) != IMAGE_AXES:
        return ""
    return f" (example_shape of tailcut.register_model begins with the batch: is {(1, *shape)} meant?)"


def model_names() -> list[str]:
    """Return the names of all registered networks, sorted."""
    return sorted(_families)


def _check_shape(name: str, shape: Shape) -> None:
    is_shape = isinstance(shape, (tuple, list)) and len(shape) > 0
    if not is_shape or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape):
        raise ArgumentError(
            f"model {name!r}: example_shape must be the sizes of an input, batch first, such as (1, 3, 32, 32), or a "
            f"function of the arguments; got {shape!r}"
        )


def _signature(name: str, build: Callable[..., nn.Module]) -> tuple[dict[str, Value], dict[str, Any]]:
    if isinstance(build, nn.Module):
        raise ArgumentError(f"model {name!r}: register a class or a function, not a network ({type(build).__name__})")
    function: Any = build.__init__ if isinstance(build, type) else build  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, SyntaxError) as error:
        raise ArgumentError(
            f"model {name!r}: an annotation cannot be read: {error}; register a class or a function"
        ) from error
    defaults: dict[str, Value] = {}
    for parameter in inspect.signature(build).parameters.values():
        fits = parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is not inspect.Parameter.empty
        if not fits or parameter.name not in hints:
            raise ArgumentError(
                f"model {name!r}: argument {parameter.name!r} must be keyword-only, annotated, with a default"
            )
        hint = hints[parameter.name]
        if not _is_supported(hint):
            raise ArgumentError(
                f"model {name!r}: argument {parameter.name!r} must be a bool, int, float, str or tuple[..., ...] of "
                f"these, it is declared {_type_name(hint)}"
            )
        if not _fits(parameter.default, hint):
            raise ArgumentError(
                f"model {name!r}: the default of {parameter.name!r} must be {_type_name(hint)}, "
                f"it is {parameter.default!r}"
            )
        defaults[parameter.name] = parameter.default
    return defaults, {key: hints[key] for key in defaults}


def _is_supported(hint: Any, *, depth: int = 0) -> bool:
    """Return whether a file can hold values of this type."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(_is_supported(option, depth=depth) for option in options)
    if typing.get_origin(hint) is tuple:
        any_length = len(options) == 2 and options[1] is Ellipsis
        return any_length and depth < MAX_LIST_DEPTH and _is_supported(options[0], depth=depth + 1)
    return hint in (bool, int, float, str)


def _plain(value: Any) -> Any:
    """Return a tuple of a list, and Python's numbers of NumPy's."""
    if isinstance(value, (list, tuple)):
        return tuple(item.item() if isinstance(item, np.generic) else item for item in value)
    return value.item() if isinstance(value, np.generic) else value


def _fits(value: object, hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        is_short = isinstance(value, tuple) and len(value) <= MAX_LIST_LENGTH
        return is_short and all(_fits(item, typing.get_args(hint)[0]) for item in typing.cast(Shape, value))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER_ARGUMENT
    if hint is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and math.isfinite(typing.cast(float, value))
    return isinstance(hint, type) and type(value) is hint


def _type_name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
