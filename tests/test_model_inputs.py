"""Inputs of one call: a batch is taken apart and put together, a graph is not."""

import pytest
import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.model_inputs import ModelInputs, example_inputs, joined

X = torch.arange(12.0).reshape(6, 2)


def called(*args: Tensor, **kwargs: Tensor) -> tuple[list[list[float]], dict[str, list[float]]]:
    return [x.tolist() for x in args], {name: x.tolist() for name, x in kwargs.items()}


def test_parts_of_a_batch() -> None:
    assert ModelInputs((X,), {"mask": X + 1}).is_batch
    batch = ModelInputs((X,), {"mask": X + 1})
    parts = list(batch.split(4))
    assert [part.batch_size for part in parts] == [4, 2]
    assert joined(parts).run(called) == batch.run(called)
    assert batch.first(1).run(called) == called(X[:1], mask=X[:1] + 1)
    assert parts[0].is_like(parts[1])
    for other in (ModelInputs((X,)), ModelInputs((X[:, :1],), {"mask": X}), ModelInputs((X,), {"masks": X})):
        assert not batch.is_like(other)


@pytest.mark.parametrize("other", [torch.zeros(2, 9), torch.tensor(1.0)])
def test_what_is_no_batch_stays_whole(other: Tensor) -> None:
    """Nodes and edges of a graph; a number for all inputs."""
    for given in (ModelInputs((X, other)), ModelInputs((), {"x": X, "other": other})):
        assert not given.is_batch
        assert not given.is_like(given)
        assert given.batch_size == 6
        for same in (given.first(2), *given.split(4), joined([given])):
            assert same.run(called) == given.run(called)


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (3, "int"),
        ({}, "an empty dict"),
        ((X, None), "tuple of NoneType, Tensor"),
        ({"x": X, "texts": ["a"]}, "dict, in which 'texts' is list: make it a tensor, or leave it out"),
    ],
)
def test_what_are_no_inputs_is_said(given: object, got: str) -> None:
    with pytest.raises(ArgumentError, match=f"by the names of the network's arguments; got {got}$"):
        example_inputs(given)
