import torch

from tailcut.runtime.share import ALONE, Share


def test_a_process_alone_has_the_total_already() -> None:
    assert ALONE.num_processes == 1
    assert ALONE.rank == 0
    assert torch.equal(ALONE.total(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0]))


def test_the_total_is_that_of_all_processes() -> None:
    share = Share(torch.device("cpu"), rank=1, num_processes=2, add_up=lambda state: 2 * state)
    assert torch.equal(share.total(torch.tensor([3.0])), torch.tensor([6.0]))
