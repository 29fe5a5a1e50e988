import numpy as np
import pytest
import torch

from tailcut.execution.cpu import compiled


def test_small_maps_full_corners_and_other_types_are_left_to_tiles() -> None:
    pytest.importorskip("numba")
    like = torch.zeros(1)
    assert compiled.pays(like, 1 << 19, 16)
    assert not compiled.pays(like, (1 << 19) - 1, 1)
    assert not compiled.pays(like, 1 << 30, 17)
    assert not compiled.pays(like.half(), 1 << 19, 16)


@pytest.mark.parametrize("flops", [1.0, 1e3, 1e9])
@pytest.mark.parametrize("positions", [1, 511, 512, 5000])
def test_pieces_cover_all_positions_once(positions: int, flops: float) -> None:
    ranges = compiled.pieces(positions, flops)
    assert [number for begin, end in ranges for number in range(begin, end)] == list(range(positions))
    assert len(ranges) <= max(1, min(2 * torch.get_num_threads(), positions * flops / compiled.FLOPS_PER_PIECE))


def test_padding_adds_zeros_up_to_a_whole_block() -> None:
    tensor = torch.ones(3, 6)
    assert compiled.padded(tensor, 1).tolist() == [[1.0] * 6 + [0.0] * 2] * 3
    assert compiled.padded(tensor[:, :4], 1).tolist() == [[1.0] * 4] * 3


def test_a_part_of_a_row_is_copied_and_no_row_is_zeros() -> None:
    loops = pytest.importorskip("tailcut.execution.cpu.loops")
    source, into = np.arange(20.0).reshape(2, 10), np.full(8, -1.0)
    loops.copy_row(source, 1, 3, into, 2, 4)
    assert into.tolist() == [-1, -1, 13, 14, 15, 16, -1, -1]
    loops.copy_row(source, -1, 3, into, 3, 2)
    assert into.tolist() == [-1, -1, 13, 0, 0, 16, -1, -1]
