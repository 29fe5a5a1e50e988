"""Channel labels: every channel has a number, and coupled numbers can only be removed together.

Beside each tensor of a traced forward lies a tensor of *labels* of the same shape: for each entry the number of the
channel that it comes from, `FIXED` for none. Labels of maps are the same along most axes; these axes have stride 0, so
that labels take no memory to speak of.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

FIXED = 0


class Coupling:
    """Channels' numbers, and which are coupled (a disjoint-set forest), locked, noted, or rest on an assumption.

    Attributes:
        regrouped: whether an axis of channels was split somewhere: the code may have read the width of another tensor
            for that, so that any group may turn out to be rigid.
    """

    def __init__(self) -> None:
        self.regrouped = False
        self._parents = np.arange(1024, dtype=np.int64)  # of the numbers given away, and of some to come
        self._count = 1
        self._locks, self._assumptions, self._remarks = Notes(), Notes(), Notes()

    def __len__(self) -> int:
        """Return the number of numbers, `FIXED` included."""
        return self._count

    def new(self, count: int) -> Tensor:
        """Numbers of `count` new channels, shape (count,)."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._parents):
            more = np.arange(len(self._parents), 2 * self._count, dtype=np.int64)
            self._parents = np.concatenate([self._parents, more])
        return torch.arange(first, self._count, device="cpu")

    def roots(self, labels: Tensor) -> Tensor:
        """Return, for each label, the representative of its coupled channels. Shape as `labels`."""
        return torch.from_numpy(self._roots(labels.numpy()))

    def tidy(self, labels: Tensor) -> Tensor:
        """Return the roots of labels, with stride 0 along every axis along which they are the same."""
        return torch.from_numpy(self.bare_roots(labels)).expand(labels.shape)

    def bare_roots(self, labels: Tensor) -> np.ndarray:
        """Return the roots of labels, one entry along every axis along which they are the same."""
        bare = self._roots(_bare(labels.numpy()))
        for axis, size in enumerate(bare.shape):
            if size > 1:
                first = bare[(slice(None),) * axis + (slice(0, 1),)]
                if (bare == first).all():
                    bare = first
        return bare

    def varied(self, labels: Tensor) -> tuple[int, ...]:
        """Return the axes along which labels differ."""
        return tuple(axis for axis, size in enumerate(self.bare_roots(labels).shape) if size > 1)

    def couple(self, a: Tensor, b: Tensor, reason: str) -> Tensor:
        """Couple two tensors of labels of one shape, entry by entry; channels that meet `FIXED` are locked.

        Args:
            a: labels.
            b: labels.
            reason: why a channel that meets a fixed entry must stay.

        Returns:
            Labels of what came of both: the channel at each entry, `FIXED` only where both are.
        """
        one, other = a.numpy(), b.numpy()
        if one.shape != other.shape:
            one, other = np.broadcast_arrays(one, other)
        same = (not (here or there) for here, there in zip(one.strides, other.strides, strict=True))
        index = tuple(slice(0, 1) if both else slice(None) for both in same)
        first, second = self._roots(one[index]), self._roots(other[index])
        differ = first != second
        if bool(differ.any()):
            self._couple_pairs(first[differ], second[differ], reason)
        merged = torch.from_numpy(np.asarray(np.where(first == FIXED, second, first)))
        return self.tidy(merged).expand(one.shape)

    def couple_along(self, labels: Tensor, axes: Iterable[int], reason: str) -> Tensor:
        """Couple all labels that differ along some axes only. Returns them tidied: the same along these axes."""
        for axis in axes:
            labels = self.tidy(labels)
            if labels.shape[axis] > 1:
                self.couple(labels.narrow(axis, 1, labels.shape[axis] - 1), labels.narrow(axis, 0, 1), reason)
        return self.tidy(labels)

    def lock(self, labels: Tensor | Iterable[int], reason: str) -> None:
        """Mark these channels as not removable. The first reason given for a channel counts."""
        self._locks.add(_numbers(labels), reason)

    def locked_units(self) -> dict[int, str]:
        """Return why units must stay: root -> the reason of the lowest of its numbers that is locked."""
        return self._locks.by_root(self._roots)

    def assumed_units(self) -> dict[int, str]:
        """Return what was assumed of units, as `locked_units`."""
        return self._assumptions.by_root(self._roots)

    def assume(self, labels: Tensor, what: str) -> None:
        """Note that cutting these channels takes something for granted."""
        self._assumptions.add(_numbers(labels), what)

    def note(self, labels: Tensor | Iterable[int], what: str) -> None:
        """Note what depends on how many these channels are: cutting empty ones changes it too."""
        self._remarks.add(_numbers(labels), what)

    def noted_units(self) -> dict[int, str]:
        """Return what depends on how many units there are, as `locked_units`."""
        return self._remarks.by_root(self._roots)

    def _couple_pairs(self, first: np.ndarray, second: np.ndarray, reason: str) -> None:
        is_fixed = (first == FIXED) | (second == FIXED)
        if is_fixed.any():
            self._locks.add(np.maximum(first, second)[is_fixed], reason)
            first, second = first[~is_fixed], second[~is_fixed]
        while first.size:  # again where a number met several lower ones
            np.minimum.at(self._parents, np.maximum(first, second), np.minimum(first, second))
            first, second = self._roots(first), self._roots(second)
            differ = first != second
            first, second = first[differ], second[differ]

    def _roots(self, labels: np.ndarray) -> np.ndarray:
        found = self._parents[labels]
        while True:
            higher = self._parents[found]
            if (higher == found).all():
                return np.asarray(found)
            self._parents[labels] = found = higher


def fixed(shape: Iterable[int]) -> Tensor:
    """Labels of a tensor that no channel can be taken out of."""
    return torch.zeros((), dtype=torch.int64, device="cpu").expand(tuple(shape))


def along(vector: Tensor, axis: int, shape: Iterable[int]) -> Tensor:
    """Labels of a tensor of `shape` whose channels lie along `axis` with the numbers `vector`."""
    shape = tuple(shape)
    view = [1] * len(shape)
    view[axis] = len(vector)
    return vector.view(view).expand(shape)


def _bare(labels: np.ndarray) -> np.ndarray:
    """Return one entry along each axis of stride 0."""
    return labels[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in labels.strides)]


def _numbers(labels: Tensor | Iterable[int]) -> np.ndarray:
    if isinstance(labels, Tensor):
        return _bare(labels.numpy()).ravel()
    return np.fromiter(labels, dtype=np.int64)


class Notes:
    """A text for numbers: the first that was given for each, none for `FIXED`."""

    def __init__(self) -> None:
        self._texts = [""]
        self._of = np.zeros(1024, dtype=np.int32)  # number -> place of its text, 0 for none

    def add(self, numbers: np.ndarray, text: str) -> None:
        """Note a text for those of the numbers that have none."""
        size = int(numbers.max(initial=0)) + 1
        if size > len(self._of):
            self._of = np.concatenate([self._of, np.zeros(2 * size - len(self._of), dtype=np.int32)])
        new = numbers[(self._of[numbers] == 0) & (numbers != FIXED)]
        if new.size:
            self._of[new] = len(self._texts)
            self._texts.append(text)

    def by_root(self, roots: Callable[[np.ndarray], np.ndarray]) -> dict[int, str]:
        """Return the texts by root: that of its lowest number, in the order of these."""
        numbers = np.flatnonzero(self._of)
        found, first = np.unique(roots(numbers), return_index=True)
        order = np.argsort(first)
        places = self._of[numbers[first[order]]]
        return {root: self._texts[place] for root, place in zip(found[order].tolist(), places.tolist(), strict=True)}
