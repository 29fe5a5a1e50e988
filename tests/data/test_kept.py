import torch
from torch import Tensor

from tailcut.data.kept import KeptTensors

BYTES = 8


def test_tensors_are_made_once_while_they_fit() -> None:
    kept, made = KeptTensors(), []

    def make(position: int) -> Tensor:
        made.append(position)
        return torch.full((2,), float(position))

    for position in (0, 2, 1, 2, 1, 0):
        assert kept.find(position, make, 2 * BYTES).tolist() == [position, position]
    assert made == [0, 2, 1, 1]
    assert (sorted(kept), kept.num_bytes) == ([0, 2], 2 * BYTES)


def test_positions_are_counted_anew() -> None:
    kept = KeptTensors((position, torch.full((2,), float(position))) for position in (0, 2, 3))
    left = kept.renumbered([1, 2, 3])
    assert {position: tensor[0].item() for position, tensor in left.items()} == {1: 2.0, 2: 3.0}
    assert left.num_bytes == 2 * BYTES
