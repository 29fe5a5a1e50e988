from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tailcut.runtime.distributed import agree, all_reduce_sum, broadcast_buffers, gather
from tailcut.runtime.share import Share


class Together:
    """Stands for the engine of two processes, of which the other one has fixed values."""

    world_size, global_rank, device = 2, 0, torch.device("cpu")

    def __init__(self, other: Tensor) -> None:
        self.other = other

    def all_reduce(self, value: Tensor, reduce_op: str) -> Tensor:
        total = value + self.other
        return total / 2 if reduce_op == "mean" else total

    def broadcast(self, value: Tensor) -> Tensor:
        return self.other


def together(other: Any) -> Any:
    return cast(Any, Together(torch.as_tensor(other)))


def test_the_loss_is_the_mean_and_one_wish_to_stop_is_enough() -> None:
    assert agree(together([3.0, 0.0]), torch.tensor(1.0), False) == (2.0, False)
    assert agree(together([3.0, 1.0]), torch.tensor(1.0), False) == (2.0, True)


def test_sums_keep_their_type() -> None:
    total = all_reduce_sum(together(torch.tensor([0.25, 3.0], dtype=torch.float64)), torch.ones(2, dtype=torch.float64))
    assert total.dtype == torch.float64
    assert total.tolist() == [1.25, 4.0]


def test_values_are_gathered_in_rows() -> None:
    gathered = gather(together([[0.0, 0.0], [5.0, 6.0]]), torch.tensor([1.0, 2.0]))
    assert gathered.tolist() == [[1.0, 2.0], [5.0, 6.0]]


def test_buffers_become_those_of_the_first_process() -> None:
    norm = nn.BatchNorm1d(1)
    broadcast_buffers(together(7), norm)
    assert norm.running_mean is not None
    assert norm.running_mean.item() == 7


@pytest.mark.parametrize("stop", [False, True])
def test_one_process_agrees_with_itself(stop: bool) -> None:
    alone = together([0.0, 0.0])
    alone.world_size = 1
    assert agree(alone, torch.tensor(1.5), stop) == (1.5, stop)


def test_a_process_alone_has_the_total_already() -> None:
    alone = Share(torch.device("cpu"))
    assert alone.num_processes == 1
    assert alone.rank == 0
    assert torch.equal(alone.total(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0]))


def test_the_total_is_that_of_all_processes() -> None:
    share = Share(torch.device("cpu"), rank=1, num_processes=2, all_reduce_sum=lambda state: 2 * state)
    assert torch.equal(share.total(torch.tensor([3.0])), torch.tensor([6.0]))
