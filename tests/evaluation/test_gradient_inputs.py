import pytest
import torch
from torch import nn

from tailcut.data import open_dataset
from tailcut.evaluation import gradient_inputs as module
from tailcut.evaluation.gradient_inputs import gradient_inputs

DIGITS = open_dataset("digits", "train")
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_each_gradient_has_images_of_the_data_set_drawn_once() -> None:
    batches = gradient_inputs(NETWORK, DIGITS, 9, seed=0)
    assert [len(batch) for batch in batches] == [8] * 9
    assert len(torch.cat(batches).unique(dim=0)) == 72
    known = {image.numpy().tobytes() for image in DIGITS.batch(range(len(DIGITS)))[0]}
    assert all(image.numpy().tobytes() in known for image in torch.cat(batches))
    assert not torch.equal(torch.cat(batches), torch.cat(gradient_inputs(NETWORK, DIGITS, 9, seed=1)))


def test_images_take_a_bounded_part_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INPUT_NUMBERS", 20 * 784)
    assert [len(batch) for batch in gradient_inputs(NETWORK, DIGITS, 9, seed=0)] == [8, 8]


def test_networks_that_mix_the_images_of_a_batch_get_them_one_by_one() -> None:
    mixing = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784, track_running_stats=False), nn.Linear(784, 10))
    assert [len(batch) for batch in gradient_inputs(mixing, DIGITS, 9, seed=0)] == [1] * 9
