"""Record of a network: its base and the ordered list of its edits, stored on the network itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Self, TypeVar

import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.structure.attributes import set_attribute
from tailcut.structure.wire import Reader, Value, Writer

_ATTRIBUTE = "_tailcut_record"
_edit_kinds: dict[int, type["Edit"]] = {}


@dataclass(frozen=True)
class Base:
    """The network before any edit: a registered name and those arguments that differ from the defaults."""

    name: str
    arguments: dict[str, Value]


@dataclass(frozen=True)
class Coefficients:
    """A tensor that an edit keeps as the first coefficients of its DCT.

    Attributes:
        name: its plain name, for example `conv.weight`.
        shape: shape of the dense tensor.
        axes: the transformed axes.
        order_weights: one positive integer per transformed axis.
        num_kept: how many coefficients count.
        parameter: the trained vector; its first `num_kept` entries count.
        values: the coefficients as the forward uses them, shape (num_kept,).
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    order_weights: tuple[int, ...]
    num_kept: int
    parameter: nn.Parameter
    values: torch.Tensor


class CoefficientLayout(NamedTuple):
    """A file's description of a tensor kept as coefficients; see `Coefficients`."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    order_weights: tuple[int, ...]
    num_kept: int


class Edit(ABC):
    """One recorded change of a network's structure. Each paper registers its own.

    The laws, for every edit e and model m that e was recorded on:

    - `decode(encode(e)) == e`;
    - `check` on the unedited network accepts e, takes no memory that grows with the network, and never
      changes it; on a network that e does not fit it raises an error of ours;
    - `apply` changes the structure only (on a meta network too): the numbers are filled in afterwards;
    - `current(m)` is e as it stands now, after trainings and cuts.
    """

    number: ClassVar[int]
    kind: ClassVar[str]

    @abstractmethod
    def apply(self, model: nn.Module) -> None:
        """Change the structure of `model`; new numbers are left to be filled in."""

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Raise `StructureError` unless the edit fits `model`, which is not changed."""

    @abstractmethod
    def current(self, model: nn.Module) -> Self:
        """Return the edit in its current state on `model`."""

    @abstractmethod
    def encode(self, writer: Writer, model: nn.Module | None) -> None:
        """Append the edit to `writer`.

        `model` is the network before the edit (a meta copy will do): names and shapes that follow from it are not
        written. None for a user's own class: then the edit writes what it needs to be read without the class.
        """

    @classmethod
    @abstractmethod
    def decode(cls, reader: Reader, model: nn.Module | None) -> Self:
        """Read what `encode` wrote, with the same `model`. Errors are those of `tailcut.errors.FormatError`."""

    def coefficients(self, model: nn.Module) -> list[Coefficients]:
        """Return the tensors of `model` that this edit keeps as coefficients. None by default."""
        return []

    def coefficient_layouts(self) -> list[CoefficientLayout]:
        """Return the tensors that this edit keeps as coefficients, known from the edit alone. None by default."""
        return []

    def with_counts(self, change: Callable[[int], int]) -> Self:
        """Return the edit with `change` of the number of coefficients of each tensor. The same by default."""
        return self

    def example_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of an example input (batch first) after this edit, from that before it. The same by default."""
        return shape


@dataclass
class Record:
    """The base (None for a user's own class) and the edits, in the order they were made."""

    base: Base | None
    edits: list[Edit] = field(default_factory=list)


Kind = TypeVar("Kind", bound=type[Edit])


def register_edit(kind: Kind) -> Kind:
    """Class decorator: make a kind of edit known by its number, so that files can restore it."""
    if kind.number in _edit_kinds:
        raise ArgumentError(f"edit number {kind.number} is taken by {_edit_kinds[kind.number].kind!r}")
    _edit_kinds[kind.number] = kind
    return kind


def edit_kind(number: int) -> type[Edit] | None:
    """Return the edit class registered under `number`, or None if there is none."""
    return _edit_kinds.get(number)


def record_of(model: nn.Module) -> Record:
    """Return the record of `model`; an empty one without base if nothing was recorded."""
    record = model.__dict__.get(_ATTRIBUTE)
    return record if isinstance(record, Record) else Record(None, [])


def set_record(model: nn.Module, record: Record) -> None:
    """Write `record` on `model` (changes the module's record only). A deepcopy of the model keeps its own copy.

    An empty record is not written: such a module is as if Tailcut had never seen it.
    """
    is_empty = record.base is None and not record.edits
    set_attribute(model, _ATTRIBUTE, None if is_empty else record)


def add_edit(model: nn.Module, edit: Edit) -> None:
    """Append `edit` to the record of `model` (changes the module's record only)."""
    record = record_of(model)
    set_record(model, Record(record.base, [*record.edits, edit]))


def base_of(model: nn.Module) -> Base | None:
    """Return the registered name and arguments `model` was created from, None for a user's own class."""
    return record_of(model).base
