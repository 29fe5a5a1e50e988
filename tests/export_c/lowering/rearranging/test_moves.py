from itertools import permutations

import pytest
import torch

from tailcut.errors import StructureError
from tailcut.export_c.lowering.rearranging.moves import Axes, Move, Order, shortest_way


def done(numbers: torch.Tensor, move: Move) -> torch.Tensor:
    """The copy of a move, number by number, as the runtime makes it."""
    out = torch.full((numbers.numel(),), -1)
    grid = numbers.reshape(move.sizes)
    for channel in range(move.sizes[0]):
        for row in range(move.sizes[1]):
            for column in range(move.sizes[2]):
                place = sum(at * stride for at, stride in zip((channel, row, column), move.strides, strict=True))
                out[place] = grid[channel, row, column]
    return out


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_moves_are_the_permutation(order: tuple[int, ...]) -> None:
    sizes = (2, 3, 4, 5)
    way = shortest_way({(0, 1, 2, 3): 0}, [order], dict(enumerate(sizes)), 100)
    numbers = torch.arange(120)
    expected = numbers.reshape(sizes).permute(order).flatten()
    for move in way.moves:
        numbers = done(numbers, move)
    assert torch.equal(numbers, expected)
    assert len(way.moves) <= 2
    assert (way.start, way.goal) == ((0, 1, 2, 3), order)


def test_a_start_that_costs_a_copy_is_taken_where_it_saves_more() -> None:
    sizes = dict(enumerate((2, 3, 4, 5)))
    starts: dict[Order, int] = {(0, 1, 2, 3): 0, (3, 2, 1, 0): 1}
    assert shortest_way(starts, [(3, 2, 1, 0)], sizes, 100).moves == ()
    assert shortest_way(starts, [(1, 0, 2, 3)], sizes, 100).start == (0, 1, 2, 3)
    assert shortest_way({(3, 2, 1, 0): 3}, [(3, 2, 1, 0)], sizes, 100).start == (3, 2, 1, 0)


def test_limits() -> None:
    with pytest.raises(StructureError, match="a permutation of 8 axes; C code knows up to 7"):
        shortest_way({tuple(range(8)): 0}, [tuple(reversed(range(8)))], dict.fromkeys(range(8), 2), 100)
    with pytest.raises(StructureError, match="a map with more than 9 numbers along an axis"):
        shortest_way({(0, 1, 2): 0}, [(2, 1, 0)], {0: 2, 1: 10, 2: 2}, 9)


def test_axes_are_cut_where_a_shape_ends() -> None:
    axes = Axes((6, 1, 20, 3), (2, 3, 0, 1))
    assert (axes.before, axes.after) == ([0, 2, 3], [2, 3, 0])
    assert axes.cut(axes.before, (6, 5, 12))
    assert axes.grouped(axes.before, (6, 5, 12)) == [(0,), (2,), (4, 3)]
    assert axes.after == [2, 4, 3, 0]
    assert not axes.cut(axes.after, (8, 45))
    assert axes.cut(axes.after, (10, 36))
    assert [axes.sizes[axis] for axis in axes.after] == [5, 2, 2, 3, 6]
    assert axes.grouped(axes.after, (10, 36)) == [(2, 4), (5, 3, 0)]
    assert axes.before == [0, 2, 4, 5, 3], "cut in both"
