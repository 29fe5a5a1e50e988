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
from tailcut.model_inputs import ModelInputs, joined
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


def test_parts_of_a_batch() -> None:
    batch = ModelInputs((X,), {"mask": X + 1})
    parts = list(batch.split(4))
    assert [part.batch_size for part in parts] == [4, 2]
    assert joined(parts).run(called) == batch.run(called)
    assert batch.first(1).run(called) == called(X[:1], mask=X[:1] + 1)
    assert parts[0].is_like(parts[1])
    for other in (ModelInputs((X,)), ModelInputs((X[:, :1],), {"mask": X}), ModelInputs((X,), {"masks": X})):
        assert not batch.is_like(other)


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        (["a"], "got str"),
        ([()], "got tuple"),
        ([(3, X)], "got tuple of Tensor, int"),
        ([((), X)], "got tuple of Tensor, tuple"),
        ([((X, None), X)], "got tuple of Tensor, tuple"),
        ([torch.tensor(1.0)], "got a tensor without axes"),
        ([{}], "got an empty dict"),
        ([{"x": X, "use_cache": False}], "got dict, in which 'use_cache' is bool"),
    ],
)
def test_anything_else_is_an_error(inputs: list[Any], got: str) -> None:
    with pytest.raises(ArgumentError, match=f"inputs= must give batches of inputs: a tensor, a dict of.*; {got}$"):
        list(input_batches(inputs))


def test_tensors_of_one_batch_have_one_length() -> None:
    with pytest.raises(ArgumentError, match=r"tensors of x \(6, 2\), y \(3, 2\) as one batch: all must have the batch"):
        list(input_batches([{"x": X, "y": X[:3]}]))


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
