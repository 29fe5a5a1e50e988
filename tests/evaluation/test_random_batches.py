import pytest
import torch

from tailcut.data import open_dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.random_batches import random_batches


def test_batches_are_drawn_without_repetition() -> None:
    dataset = open_dataset("digits", "train")
    batches = list(random_batches(dataset, 100, 3, 0))
    assert [tuple(batch.shape) for batch in batches] == [(100, 1, 28, 28)] * 3
    assert len({tuple(image.flatten().tolist()) for batch in batches for image in batch}) > 295
    again, other = list(random_batches(dataset, 100, 3, 0)), list(random_batches(dataset, 100, 3, 1))
    assert all(torch.equal(own, same) for own, same in zip(batches, again, strict=True))
    assert not torch.equal(batches[0], other[0])
    # Where the data set ends, so do the batches.
    assert [len(batch) for batch in random_batches(dataset.part(0, 25), 10, 9, 0)] == [10, 10, 5]
    with pytest.raises(ArgumentError, match="must be at least 1, got 0 and 3"):
        list(random_batches(dataset, 0, 3, 0))
