"""Channel labels: every channel has a number, and coupled numbers can only be removed together.

Beside each tensor of a traced forward lies a tensor of *labels* of the same shape: for each entry the number of the
channel that it comes from, `FIXED` for none. Labels of maps are the same along most axes; these axes have stride 0, so
that labels take no memory to speak of.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

FIXED = 0


class Coupling:
    """Channels' numbers, and which of them are coupled (a disjoint-set forest), locked, or rest on an assumption.

    Attributes:
        locks: number -> why the channel must stay.
        assumptions: number -> what was taken for granted about the network's code, to be tried out.
        regrouped: whether an axis of channels was split somewhere: the code may have read the width of another tensor
            for that, so that any group may turn out to be rigid.
        views: for each reshape in its order the axis that the channels were taken to lie along afterwards, where their
            axis became several; else None.
    """

    def __init__(self, views: Sequence[int | None] = ()) -> None:
        """Take the axes from `views`, those of a trace of the same code at other widths, as far as they are known."""
        self.views: list[int | None] = []
        self._known_views = tuple(views)
        self._parents = np.zeros(1, dtype=np.int64)
        self._is_flat = True  # each parent is a root
        self.locks: dict[int, str] = {}
        self.assumptions: dict[int, str] = {}
        self.regrouped = False

    def __len__(self) -> int:
        """How many numbers there are, `FIXED` included."""
        return len(self._parents)

    def new(self, count: int) -> Tensor:
        """Numbers of `count` new channels, shape (count,)."""
        first = len(self._parents)
        numbers = np.arange(first, first + count, dtype=np.int64)
        self._parents = np.concatenate([self._parents, numbers])
        return torch.from_numpy(numbers.copy())

    def roots(self, labels: Tensor) -> Tensor:
        """Return, for each label, the representative of its coupled channels. Shape as `labels`."""
        return torch.from_numpy(self._roots(labels.numpy()))

    def tidy(self, labels: Tensor) -> Tensor:
        """Return the roots of labels, with stride 0 along every axis along which they are the same."""
        return torch.from_numpy(self._tidy(labels.numpy())).expand(labels.shape)

    def varied(self, labels: Tensor) -> tuple[int, ...]:
        """Return the axes along which labels differ."""
        return tuple(axis for axis, size in enumerate(self._tidy(labels.numpy()).shape) if size > 1)

    def couple(self, a: Tensor, b: Tensor, reason: str) -> Tensor:
        """Couple two tensors of labels of one shape, entry by entry; channels that meet `FIXED` are locked.

        Args:
            a: labels.
            b: labels.
            reason: why a channel that meets a fixed entry must stay.

        Returns:
            Labels of what came of both: the channel at each entry, `FIXED` only where both are.
        """
        one, other = np.broadcast_arrays(a.numpy(), b.numpy())
        same = (not (here or there) for here, there in zip(one.strides, other.strides, strict=True))
        index = tuple(slice(0, 1) if both else slice(None) for both in same)
        first, second = self._roots(one[index]), self._roots(other[index])
        differ = first != second
        if bool(differ.any()):
            self._couple_pairs(first[differ], second[differ], reason)
        merged = np.asarray(np.where(first == FIXED, second, first))
        return torch.from_numpy(self._tidy(merged)).expand(one.shape)

    def couple_along(self, labels: Tensor, axes: Iterable[int], reason: str) -> Tensor:
        """Couple all labels that differ along some axes only. Returns them tidied: the same along these axes."""
        for axis in axes:
            labels = self.tidy(labels)
            if labels.shape[axis] > 1:
                self.couple(labels.narrow(axis, 1, labels.shape[axis] - 1), labels.narrow(axis, 0, 1), reason)
        return self.tidy(labels)

    def lock(self, labels: Tensor | Iterable[int], reason: str) -> None:
        """Mark these channels as not removable. The first reason given for a channel counts."""
        for number in _numbers(labels):
            self.locks.setdefault(number, reason)

    def choose_view(self, candidates: Sequence[int], sizes: Sequence[int]) -> int | None:
        """Note a reshape; the axis that channels lie along where theirs became several (`candidates`), else None.

        It is the widest one, of equally wide ones the last: code writes (groups, width of a group).
        """
        place = len(self.views)
        known = self._known_views[place] if place < len(self._known_views) else None
        widest = max(reversed(candidates), key=lambda axis: sizes[axis], default=None)
        self.views.append(known if known in candidates else widest)
        return self.views[-1]

    def assume(self, labels: Tensor, what: str) -> None:
        """Note that cutting these channels takes something for granted."""
        for number in _numbers(labels):
            self.assumptions.setdefault(number, what)

    def _couple_pairs(self, first: np.ndarray, second: np.ndarray, reason: str) -> None:
        """Couple roots that differ, pair by pair."""
        pairs = np.stack([np.minimum(first, second), np.maximum(first, second)])
        if len(np.unique(pairs)) == pairs.size and not (pairs == FIXED).any():  # each channel meets one other
            self._parents[pairs[1]] = pairs[0]
            self._is_flat = False
            return
        count = len(self._parents)
        for pair in np.unique(first * count + second).tolist():  # each pair once, in order
            one, other = divmod(pair, count)
            if one == FIXED or other == FIXED:
                self.lock([one, other], reason)
            else:
                self._join(one, other)

    def _join(self, one: int, other: int) -> None:
        first, second = sorted((self._find(one), self._find(other)))
        self._parents[second] = first
        self._is_flat = False

    def _find(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = number = int(self._parents[self._parents[number]])
        return number

    def _roots(self, labels: np.ndarray) -> np.ndarray:
        while not self._is_flat:
            higher = self._parents[self._parents]
            self._is_flat = np.array_equal(higher, self._parents)
            self._parents = higher
        return np.asarray(self._parents[labels])

    def _tidy(self, labels: np.ndarray) -> np.ndarray:
        """Return the roots of labels, one entry along every axis along which they are the same."""
        bare = self._roots(_bare(labels))
        for axis, size in enumerate(bare.shape):
            if size > 1:
                first = bare[(slice(None),) * axis + (slice(0, 1),)]
                if (bare == first).all():
                    bare = first
        return bare


def fixed(shape: Iterable[int]) -> Tensor:
    """Labels of a tensor that no channel can be taken out of."""
    return torch.zeros((), dtype=torch.int64).expand(tuple(shape))


def along(vector: Tensor, axis: int, shape: Iterable[int]) -> Tensor:
    """Labels of a tensor of `shape` whose channels lie along `axis` with the numbers `vector`."""
    shape = tuple(shape)
    view = [1] * len(shape)
    view[axis] = len(vector)
    return vector.view(view).expand(shape)


def _bare(labels: np.ndarray) -> np.ndarray:
    """Return one entry along each axis of stride 0."""
    return labels[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in labels.strides)]


def _numbers(labels: Tensor | Iterable[int]) -> list[int]:
    numbers = np.unique(_bare(labels.numpy())).tolist() if isinstance(labels, Tensor) else set(labels)
    return [number for number in numbers if number != FIXED]
