"""Resolution of the arguments of `regularize` to one setting per tensor: patterns, overrides, counts by name."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tailcut.errors import ArgumentError
from tailcut.transform.order import check_order_weights, normalize_axes
from tailcut.weights.layers import Candidate, candidates
from tailcut.weights.parametrization.truncation import PRECISIONS
from tailcut.weights.planning.counts import count_kept, count_of

EXCLUDED, NOT_INCLUDED = "excluded", "not included"
_LISTS = ("axes", "order_weights")
OVERRIDE_KEYS = ("keep_ratio", "num_kept", "axes", "order_weights", "min_kept", "precision")


@dataclass(frozen=True)
class Setting:
    """User settings for one tensor or for all."""

    keep_ratio: float | None = None
    num_kept: int | None = None
    axes: str | Sequence[int] = "all"
    order_weights: Sequence[int] | None = None
    min_kept: int = 1
    precision: str = "float32"


@dataclass(frozen=True)
class TensorPlan:
    """Resolved settings of one tensor: axes, order weights and count."""

    candidate: Candidate
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    order_weights: tuple[int, ...]
    num_kept: int
    precision: str


def plan_tensors(
    chosen: Sequence[Candidate],
    setting: Setting,
    counts: Mapping[str, int] | None,
    overrides: Mapping[str, Any],
) -> list[TensorPlan]:
    """Return one plan per chosen tensor; later overrides win. Raises `ArgumentError` that names the tensor."""
    if not isinstance(overrides, Mapping):
        raise ArgumentError(f"overrides must be a dict of dicts by pattern, got {overrides!r}")
    for pattern, override in overrides.items():
        _check_override(pattern, override, chosen)
    setting = replace(setting, **_listed({key: getattr(setting, key) for key in _LISTS}))
    overrides = {pattern: _listed(override) for pattern, override in overrides.items()}
    return [_plan_one(candidate, setting, counts, overrides) for candidate in chosen]


def _listed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings whose lists are lists: a generator would serve the first tensor alone, arrays compare apart."""
    return {
        key: list(value) if key in _LISTS and isinstance(value, Iterable) and not isinstance(value, str) else value
        for key, value in settings.items()
    }


def _plan_one(
    candidate: Candidate, setting: Setting, counts: Mapping[str, int] | None, overrides: Mapping[str, Any]
) -> TensorPlan:
    if counts is not None:
        named = count_of(candidate.names, counts)
        setting = replace(setting, num_kept=named, keep_ratio=None)
    for pattern, override in overrides.items():
        if matches(candidate.names, [pattern]):
            if "keep_ratio" in override or "num_kept" in override:
                setting = replace(setting, keep_ratio=None, num_kept=None)
            setting = replace(setting, **override)
    name, shape = candidate.names[0], tuple(candidate.parameter.shape)
    if setting.precision not in PRECISIONS:
        raise ArgumentError(f"{name}: precision must be one of {', '.join(PRECISIONS)}, got {setting.precision!r}")
    try:
        axes = normalize_axes(None if setting.axes == "all" else _as_axes(setting.axes), len(shape))
        weights = check_order_weights(_fitting_weights(setting.order_weights, len(axes)), len(axes))
    except ArgumentError as error:
        raise ArgumentError(f"{name} of shape {shape}: {error}") from error
    num_kept = count_kept(
        shape,
        axes,
        keep_ratio=setting.keep_ratio,
        num_kept=setting.num_kept,
        min_kept=setting.min_kept,
        name=name,
    )
    return TensorPlan(candidate, shape, axes, weights, num_kept, setting.precision)


def _as_axes(axes: str | Sequence[int]) -> Sequence[int]:
    if isinstance(axes, str):
        raise ArgumentError(f'axes must be "all" or a list of integers, got {axes!r}')
    return axes


def _fitting_weights(weights: Sequence[int] | None, num_axes: int) -> Sequence[int] | None:
    """Weights for the axes of this tensor: those given for 4-D kernels serve matrices by their first two."""
    if isinstance(weights, Sequence) and len(weights) > num_axes:
        return list(weights)[:num_axes]
    return weights


def reasons_to_leave(
    model: nn.Module,
    include: str | Sequence[str] | None,
    exclude: str | Sequence[str],
    counts: Mapping[str, int] | None = None,
) -> list[tuple[Candidate, str | None]]:
    """Return all parameters of a plain network, each with why `regularize` leaves it; None for what it takes.

    Include, exclude and counts (`num_kept` by name) are as there, and so are the errors about them.
    """
    included = None if include is None else to_pattern_list("include", include)
    excluded = to_pattern_list("exclude", exclude)
    found = candidates(model)
    names = [name for candidate in found for name in candidate.names]
    if counts is not None:
        known = set(names)
        check_patterns("num_kept", [name for name in counts if name not in known], names)
        included = Patterns(counts) if included is None else included
    check_patterns("include", included or (), names)
    check_patterns("exclude", excluded, names)
    return [(candidate, _reason_to_leave(candidate, included, excluded, counts)) for candidate in found]


def _reason_to_leave(
    candidate: Candidate,
    include: "Patterns | None",
    exclude: "Patterns",
    counts: Mapping[str, int] | None,
) -> str | None:
    named = include is not None and any(name in include.exact for name in candidate.names)
    if exclude.match(candidate.names):
        return EXCLUDED
    if include is None and not candidate.is_weight:
        return candidate.obstacle or candidate.reservation or "not a layer weight; name it in include"
    if include is not None and not include.match(candidate.names):
        return NOT_INCLUDED
    if candidate.reservation is not None and not named:
        return candidate.obstacle or f"{candidate.reservation}; include it by its full name"
    if counts is not None and not any(name in counts for name in candidate.names):
        return "no count given"
    return candidate.obstacle


class Patterns:
    """Shell-style patterns of names. A name may be one, since names may have brackets.

    Attributes:
        exact: the patterns as they are.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._listed = tuple(patterns)
        self.exact = frozenset(self._listed)
        # Those without wildcards match themselves alone: thousands of names are looked up, not compared.
        self._wild = tuple(pattern for pattern in self._listed if any(sign in pattern for sign in "*?["))

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def match(self, names: Iterable[str]) -> bool:
        """Return whether any of the names is, or matches, any of the patterns."""
        return any(name in self.exact or any(fnmatchcase(name, one) for one in self._wild) for name in names)


def matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Return whether any of the names is, or matches, any of the shell-style patterns."""
    return Patterns(patterns).match(names)


def to_pattern_list(what: str, patterns: str | Iterable[str]) -> "Patterns":
    """Return one or several patterns as a list. Raises `ArgumentError` for anything but strings."""
    listed = [patterns] if isinstance(patterns, str) else list(patterns) if isinstance(patterns, Iterable) else None
    if listed is None or not all(isinstance(pattern, str) for pattern in listed):
        raise ArgumentError(f"{what} must be a pattern of names or a list of patterns, got {patterns!r}")
    return Patterns(listed)


def check_patterns(what: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Raise `ArgumentError` for a pattern that matches no name: a slip of the pen would go unseen else."""
    known = set(names)
    for pattern in patterns:
        if pattern not in known and not matches(names, [pattern]):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or list(names[:3])
            raise ArgumentError(f"{what}: {pattern!r} matches no parameter; for example there are {', '.join(near)}")


def _check_override(pattern: str, override: Mapping[str, Any], chosen: Sequence[Candidate]) -> None:
    if not isinstance(pattern, str) or not isinstance(override, Mapping):
        raise ArgumentError(f"overrides must be a dict of dicts by pattern, got {pattern!r}: {override!r}")
    unknown = [key for key in override if key not in OVERRIDE_KEYS]
    if unknown:
        raise ArgumentError(f"overrides[{pattern!r}]: unknown key {unknown[0]!r}; known: {', '.join(OVERRIDE_KEYS)}")
    if "keep_ratio" in override and "num_kept" in override:
        raise ArgumentError(f"overrides[{pattern!r}]: give either keep_ratio or num_kept")
    check_patterns("overrides", [pattern], [name for candidate in chosen for name in candidate.names])
