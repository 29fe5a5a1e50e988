"""Copies that bring numbers in memory from one order of axes to another; each moves three groups of axes.

The runtime's stage `PERMUTE` reads a map (channels, rows, columns) and writes it with any three strides. So one copy
permutes three groups of neighbouring axes, whatever axes are in a group.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, permutations
from math import prod

from tailcut.errors import StructureError

MAX_AXES = 7
Order = tuple[int, ...]


class Axes:
    """Axes of numbers before and after a permutation, by numbers of their own; those of size 1 are left out.

    Attributes:
        sizes: of each axis, by its number.
        before: the axes as the numbers lie at first, the last one side by side.
        after: the axes as they shall lie.
    """

    def __init__(self, sizes: Sequence[int], order: Sequence[int]) -> None:
        self.sizes = dict(enumerate(sizes))
        self.before = [axis for axis, size in enumerate(sizes) if size > 1]
        self.after = [axis for axis in order if sizes[axis] > 1]

    def cut(self, axes: list[int], shape: Sequence[int]) -> bool:
        """Let `before` or `after` have an axis end where each size of a shape does; return whether they can."""
        behind = 1
        for size in reversed(shape):
            behind *= size
            if not self._cut(axes, behind):
                return False
        return True

    def grouped(self, axes: list[int], shape: Sequence[int]) -> list[Order]:
        """Return which axes each size of a shape is, after `cut`."""
        found, left = [], list(axes)
        for size in shape:
            group: list[int] = []
            while prod(self.sizes[axis] for axis in group) < size:
                group.append(left.pop(0))
            found.append(tuple(group))
        return found

    def _cut(self, axes: list[int], behind: int) -> bool:
        """Let an axis end where so many numbers lie behind; return whether one can."""
        done = 1
        for axis in reversed(axes):
            size = self.sizes[axis]
            if done == behind:
                break
            if done * size > behind:
                inner = behind // done
                if behind % done or size % inner:
                    return False
                self._part(axis, inner)
                return True
            done *= size
        return True

    def _part(self, axis: int, inner: int) -> None:
        """Let an axis be two, the second of this size."""
        new = len(self.sizes)
        self.sizes[axis], self.sizes[new] = self.sizes[axis] // inner, inner
        for axes in (self.before, self.after):
            axes.insert(axes.index(axis) + 1, new)


@dataclass(frozen=True)
class Move:
    """One copy.

    Attributes:
        sizes: of the three groups of axes that it reads, the last one side by side.
        order: for each group that it writes, which of those it is.
    """

    sizes: tuple[int, int, int]
    order: tuple[int, int, int]

    @property
    def strides(self) -> tuple[int, int, int]:
        """From one to the next of each group that is read, where it is written."""
        found, step = [0, 0, 0], 1
        for group in reversed(self.order):
            found[group] = step
            step *= self.sizes[group]
        return found[0], found[1], found[2]

    @property
    def written(self) -> tuple[int, int, int]:
        """Sizes of the groups that it writes."""
        one, two, three = self.order
        return self.sizes[one], self.sizes[two], self.sizes[three]


@dataclass(frozen=True)
class Way:
    """Copies from one order of axes to another.

    Attributes:
        start: the order at first.
        moves: the copies.
        goal: the order in the end.
    """

    start: Order
    moves: tuple[Move, ...]
    goal: Order


def shortest_way(starts: Mapping[Order, int], goals: Collection[Order], sizes: Mapping[int, int], most: int) -> Way:
    """Return the way to a goal with the fewest copies, those before its start among them.

    Args:
        starts: orders that the numbers may have at first, with how many copies each of them costs.
        goals: orders that they may have in the end.
        sizes: of the axes.
        most: numbers of a group at most.

    Raises:
        StructureError: more than 7 axes, or no way keeps the limit.
    """
    num_axes = len(next(iter(starts)))
    if num_axes > MAX_AXES:
        raise StructureError(f"a permutation of {num_axes} axes; C code knows up to {MAX_AXES}")
    known: set[Order] = set()
    reached, cost = [Way(start, (), start) for start, price in starts.items() if price == 0], 0
    while reached or cost <= max(starts.values()):
        found = next((way for way in reached if way.goal in goals), None)
        if found is not None:
            return found
        cost += 1
        known.update(way.goal for way in reached)
        further = [Way(start, (), start) for start, price in starts.items() if price == cost]
        for way in reached:
            for move, order in _moves(way.goal, sizes, most):
                if order not in known:
                    known.add(order)
                    further.append(Way(way.start, (*way.moves, move), order))
        reached = further
    raise StructureError(f"a permutation of a map with more than {most:,} numbers along an axis")


def _moves(order: Order, sizes: Mapping[int, int], most: int) -> Iterator[tuple[Move, Order]]:
    """Yield all moves of an order of axes, and the orders that they make."""
    for first, second in combinations_with_replacement(range(len(order) + 1), 2):
        groups = order[:first], order[first:second], order[second:]
        counts = [prod(sizes[axis] for axis in group) for group in groups]
        if max(counts) > most:
            continue
        for chosen in permutations(range(3)):
            made = tuple(axis for group in chosen for axis in groups[group])
            if made != order:
                yield Move((counts[0], counts[1], counts[2]), (chosen[0], chosen[1], chosen[2])), made
