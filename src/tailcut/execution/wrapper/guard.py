"""Changes to a network after `fuse`: those that are followed, and those that are an error until `refresh`."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from torch import nn
from torch.utils.hooks import RemovableHandle

from tailcut.errors import StructureError
from tailcut.execution.layers.factorization import counts_changes
from tailcut.execution.layers.module_copy import HOOKS
from tailcut.weights import TruncatedTensor

# What every module has from the beginning, but the mode: dicts that torch sets once and changes within.
_CONSTANT = frozenset(nn.Module().__dict__) - {"training"}
# What may change without a refresh: the copies take it over. Batch norm reads its momentum in each call.
_FOLLOWED = frozenset({"training", "momentum"})


class Copied(NamedTuple):
    """A module of the network, its copies in the two programs, and the attributes that only these have."""

    path: str
    source: nn.Module
    copies: tuple[nn.Module, ...]
    held: frozenset[str]


class Guard:
    """Comparison of the copied modules with their state at the copy: dense calls ask it each time.

    After a forward little of what it reads is in a cache: it is fast where it touches few objects.
    """

    def __init__(self, copied: Sequence[Copied], tensors: Sequence[TruncatedTensor]) -> None:
        self._copied = copied
        self._attributes = [one.source.__dict__ for one in copied]
        self._parts = [part for one in copied for part in (one.source, *_holders(one.source))]
        self._children: list[dict[str, Any]] = [part._modules for part in self._parts]
        self._seen_children = list(map(dict, self._children))
        self._hooks = [one.source.__dict__[name] for one in copied for name in HOOKS]
        self._seen_handles = -1
        self._truncations = {tensor.name: tensor.truncation for tensor in tensors}
        self._seen_precisions = {name: truncation.precision for name, truncation in self._truncations.items()}
        precisions = [truncation.__dict__ for truncation in self._truncations.values()]
        self._settings: list[tuple[Callable[[Any], Any], list[dict[str, Any]]]] = _settings_of(self._attributes)
        self._settings.append((itemgetter("precision"), precisions))
        self._own = [(one, copy.__dict__) for one in copied for copy in one.copies]
        self._note()

    def _note(self) -> None:
        self._seen_attributes = list(map(dict, self._attributes))
        self._seen_sizes = list(map(len, self._attributes))
        self._seen_settings = [list(map(get, owners)) for get, owners in self._settings]
        self._seen_own = [dict(own) for _, own in self._own]

    def is_same(self) -> bool:
        """Return whether nothing changed, not even the mode (training or evaluation) of a module."""
        try:
            return (
                list(map(len, self._attributes)) == self._seen_sizes
                and [list(map(get, owners)) for get, owners in self._settings] == self._seen_settings
                and self._children == self._seen_children
                and not self._has_hooks()
            )
        except Exception:  # noqa: BLE001 - attributes may be of any class, which need not know what equality is
            return False

    def _has_hooks(self) -> bool:
        """Return whether a module got hooks. Torch counts the handles of all hooks of a process."""
        if self._seen_handles == RemovableHandle.next_id:
            return False
        self._seen_handles = -1 if any(self._hooks) else RemovableHandle.next_id
        return self._seen_handles < 0

    def check(self) -> None:
        """Give the copies the modes and momenta of their originals.

        Raises:
            StructureError: something else has changed.
        """
        if self.is_same():
            return
        for name, truncation in self._truncations.items():
            if truncation.precision != self._seen_precisions[name]:
                raise _changed(f"the precision of {name} was set to {truncation.precision!r}")
        for part, seen in zip(self._parts, self._seen_children, strict=True):
            if part._modules != seen:
                changed = ", ".join(sorted(_differences(part._modules, seen)))
                raise _changed(f"modules of {self._name(part)} were replaced, added or removed ({changed})")
        for one, seen in zip(self._copied, self._seen_attributes, strict=True):
            if any(one.source.__dict__[name] for name in HOOKS):
                raise _changed(f"hooks were added to {self._name(one.source)}")
            names = _differences(one.source.__dict__, seen)
            if names - _FOLLOWED:
                attributes = ", ".join(sorted(names - _FOLLOWED))
                raise _changed(f"{attributes} of {self._name(one.source)} was set, by you or by its own forward")
            for copy in one.copies:
                copy.__dict__.update({name: one.source.__dict__[name] for name in names if name in one.source.__dict__})
        self._note()

    def set_by_forward(self) -> str:
        """Return the attributes that the network's own code has set in the copies and the network lacks; or ""."""
        for (one, own), seen in zip(self._own, self._seen_own, strict=True):
            names = _differences(own, seen) - {"training", *one.held}
            if names:
                return f"its forward sets {', '.join(sorted(names))} of {self._name(one.source)}"
        return ""

    def _name(self, module: nn.Module) -> str:
        found = [one.path for one in self._copied if module is one.source or module in _holders(one.source)]
        return f"{found[0]!r}" if found and found[0] else "the network"


# What was there of each tensor, and the other parameters.
Versions = tuple[list[tuple[Any, ...]], list[dict[str, Any]]]


class CoefficientVersions:
    """Versions of the coefficients and parameters that dense layers were made of, by torch's count of writes."""

    def __init__(self, tensors: Sequence[TruncatedTensor], layers: Sequence[nn.Module]) -> None:
        self._places = [(tensor.holder._parameters, tensor.truncation._buffers) for tensor in tensors]
        self._parameters: list[dict[str, Any]] = [layer._parameters for layer in layers]
        self._seen: Versions | None = None

    def now(self) -> Versions | None:
        """Return the coefficients as they are now; None where changes cannot be told."""
        seen = []
        for parameters, buffers in self._places:
            vector, dropped = parameters["original"], buffers["dropped"]
            if vector is None or dropped is None or not counts_changes(vector, dropped):
                return None
            written = vector._version, vector.data_ptr()
            # Its mask is replaced only together with the vector.
            seen.append((parameters, vector, *written, dropped, dropped._version))
        return seen, list(map(dict, self._parameters))

    def note(self, seen: Versions | None) -> None:
        """Remember the coefficients that the dense layers were made of, to compare with later.

        To be read by `now` before the layers are made: what is written meanwhile is then seen by the next call, and one
        that does not get to its end leaves nothing noted.
        """
        self._seen = seen

    def forget(self) -> None:
        """Count the coefficients as changed from now on."""
        self._seen = None

    def is_same(self) -> bool:
        """Return whether nothing changed since `note`; False where that cannot be told."""
        noted = self._seen  # read once: another thread may replace it
        if noted is None:
            return False
        seen, seen_parameters = noted
        for parameters, vector, version, pointer, dropped, times in seen:
            if (
                parameters["original"] is not vector
                or vector._version != version
                or vector.data_ptr() != pointer
                or dropped._version != times
            ):
                return False
        try:
            return self._parameters == seen_parameters
        except RuntimeError:  # torch compares the numbers of one that was replaced
            return False


def _settings_of(attributes: Sequence[dict[str, Any]]) -> list[tuple[Callable[[Any], Any], list[dict[str, Any]]]]:
    """Return the dicts of attributes of equal names together, and what reads from one what users may set."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for own in attributes:
        alike.setdefault(tuple(name for name in own if name not in _CONSTANT), []).append(own)
    return [(itemgetter(*names), owners) for names, owners in alike.items()]


def _holders(module: nn.Module) -> list[nn.Module]:
    """Return the modules in which torch keeps the parametrisations of a module."""
    holders = module._modules.get("parametrizations")
    return [] if holders is None else [holders, *holders.children()]


def _differences(now: dict[str, Any], seen: dict[str, Any]) -> set[str]:
    missing = object()
    changed = {name for name in {**seen, **now} if now.get(name, missing) is not seen.get(name, missing)}
    return {name for name in changed if not _is_equal_list(now.get(name, missing), seen.get(name, missing))}


def _is_equal_list(one: Any, other: Any) -> bool:
    """Return whether these are plain lists or tuples of the same plain values: torch.export puts back equal ones."""
    if type(one) is not type(other) or not isinstance(one, (list, tuple)):
        return False
    plain = (str, int, float, bool, type(None))
    return all(type(value) in plain for value in (*one, *other)) and one == other


def _changed(what: str) -> StructureError:
    return StructureError(
        f"the network was changed after fuse: {what}. Call refresh() of the fused network after such a change"
    )
