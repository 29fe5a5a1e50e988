"""Inputs as users have them."""

import logging
from itertools import count
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tailcut.compression.batches import input_batches
from tailcut.errors import ArgumentError
from tailcut.printing import logged

X = torch.arange(12.0).reshape(6, 2)


def test_every_way_gives_the_inputs() -> None:
    pairs = DataLoader(TensorDataset(X, torch.zeros(6)), batch_size=4)
    every: list[Any] = [X, [X[:4], X[4:]], pairs, [(X[:3],), [X[3:], "more"]], iter([X])]
    for inputs in every:
        assert torch.equal(torch.cat(list(input_batches(inputs))), X)


@pytest.mark.parametrize("inputs", [["a"], [{"x": X}], [()], [(3, X)], [torch.tensor(1.0)]])
def test_anything_else_is_an_error(inputs: list[object]) -> None:
    with pytest.raises(ArgumentError, match="inputs= must give batches of inputs as tensors"):
        list(input_batches(inputs))  # type: ignore[arg-type]


def test_what_gives_no_batches_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="inputs= must be a tensor or batches of inputs, got int"):
        list(input_batches(3))  # type: ignore[arg-type]


def test_long_work_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(
        "tailcut.printing.time.monotonic", count(step=4).__next__
    )  # so many seconds each time it is asked
    with caplog.at_level(logging.INFO, logger="tailcut"):
        assert list(logged(range(5), "things", 5)) == [0, 1, 2, 3, 4]
    assert caplog.messages == ["2 of 5 things"]
