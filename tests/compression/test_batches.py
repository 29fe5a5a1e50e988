"""Inputs as users have them."""

import logging
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tailcut.compression.batches import input_batches
from tailcut.errors import ArgumentError
from tailcut.model_inputs import joined
from tailcut.printing import logged

X = torch.arange(12.0).reshape(6, 2)


def test_every_way_gives_the_inputs() -> None:
    pairs = DataLoader(TensorDataset(X, torch.zeros(6)), batch_size=4)
    every: list[Any] = [X, [X[:4], X[4:]], pairs, [(X[:3],), [X[3:], "more"]], iter([X])]
    for inputs in every:
        whole = joined(list(input_batches(inputs)))
        assert torch.equal(whole.args[0], X)
        assert (len(whole.args), whole.kwargs) == (1, {})


def called(*args: Tensor, **kwargs: Tensor) -> tuple[list[list[float]], dict[str, list[float]]]:
    return [x.tolist() for x in args], {name: x.tolist() for name, x in kwargs.items()}


def test_several_inputs_are_given_by_place_or_by_name() -> None:
    pairs = [((X[:3], X[:3]), "targets"), ([X[3:], X[3:]],)]
    assert joined(list(input_batches(pairs))).run(called) == called(X, X)
    by_name: list[Any] = [{"x": X, "mask": X}, [{"mask": X[:2], "x": X[:2]}, ({"x": X[2:], "mask": X[2:]}, "targets")]]
    for inputs in by_name:
        whole = joined(list(input_batches(inputs)))
        assert whole.run(called) == called(x=X, mask=X)
    rows: Any = [{"x": row, "mask": row + 1} for row in X]
    collated: DataLoader[dict[str, Tensor]] = DataLoader(rows, batch_size=4)
    assert [batch.shapes for batch in input_batches(collated)] == ["x (4, 2), mask (4, 2)", "x (2, 2), mask (2, 2)"]


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        (["a"], "got str"),
        ([()], "got tuple"),
        ([(3, X)], "got tuple of Tensor, int, which begins with int"),
        ([((), X)], "got tuple of Tensor, tuple, which begins with tuple"),
        ([((X, None), X)], "got tuple of Tensor, tuple, which begins with tuple of NoneType, Tensor"),
        ([torch.tensor(1.0)], "got a tensor without axes"),
        ([{}], "got an empty dict"),
        ([{"x": X, "use_cache": False}], "got dict, in which 'use_cache' is bool: make it a tensor, or leave it out"),
    ],
)
def test_anything_else_is_an_error(inputs: list[Any], got: str) -> None:
    with pytest.raises(ArgumentError, match=f"inputs= must give batches of inputs: a tensor, a dict of.*; {got}$"):
        list(input_batches(inputs))


@pytest.mark.parametrize(
    ("strange", "message"),
    [
        (X.to("meta"), r"a tensor on the meta device among x \(6, 2\), y \(6, 2\): it has no numbers"),
        (X.to_sparse(), r"a sparse tensor among x \(6, 2\), y \(6, 2\): give it by .to_dense\(\)"),
    ],
)
def test_tensors_without_numbers_in_place_are_an_error(strange: Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        list(input_batches([{"x": X, "y": strange}]))


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
