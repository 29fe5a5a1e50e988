"""Inputs of one call: a batch is taken apart and put together, a graph is not."""

from typing import Any

import pytest
import torch
from tests.own_tensors import scan
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, TensorDataset

from tailcut.errors import ArgumentError
from tailcut.model_inputs import ModelInputs, example_inputs, first_inputs, joined, loader_inputs

X = torch.arange(12.0).reshape(6, 2)


def called(*args: Tensor, **kwargs: Tensor) -> tuple[list[list[float]], dict[str, list[float]]]:
    return [x.tolist() for x in args], {name: x.tolist() for name, x in kwargs.items()}


def test_tensors_of_other_classes_become_torchs() -> None:
    found = example_inputs({"image": scan(X), "mask": X})
    assert [type(x) for x in found.tensors] == [Tensor, Tensor]
    assert torch.equal(found.kwargs["image"], X)
    assert [type(batch.args[0]) for batch in loader_inputs([scan(X), (scan(X), scan(X))])] == [Tensor, Tensor]
    with FakeTensorMode() as mode:  # such a class does the work itself
        fake = mode.from_tensor(X)
        assert example_inputs(fake).args[0] is fake


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


def test_every_way_gives_the_inputs() -> None:
    pairs = DataLoader(TensorDataset(X, torch.zeros(6)), batch_size=4)
    every: list[Any] = [X, [X[:4], X[4:]], pairs, [(X[:3],), [X[3:], "more"]], iter([X])]
    for inputs in every:
        whole = joined(list(loader_inputs(inputs)))
        assert torch.equal(whole.args[0], X)
        assert (len(whole.args), whole.kwargs) == (1, {})


def test_several_inputs_are_given_by_place_or_by_name() -> None:
    pairs = [((X[:3], X[:3]), "targets"), ([X[3:], X[3:]],)]
    assert joined(list(loader_inputs(pairs))).run(called) == called(X, X)
    by_name: list[Any] = [{"x": X, "mask": X}, [{"mask": X[:2], "x": X[:2]}, ({"x": X[2:], "mask": X[2:]}, "targets")]]
    for inputs in by_name:
        whole = joined(list(loader_inputs(inputs)))
        assert whole.run(called) == called(x=X, mask=X)
    rows: Any = [{"x": row, "mask": row + 1} for row in X]
    collated: DataLoader[dict[str, Tensor]] = DataLoader(rows, batch_size=4)
    assert [batch.shapes for batch in loader_inputs(collated)] == ["x (4, 2), mask (4, 2)", "x (2, 2), mask (2, 2)"]


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        (["a"], "str"),
        ([()], "tuple"),
        ([(3, X)], "tuple of Tensor, int, which begins with int"),
        ([((), X)], "tuple of Tensor, tuple, which begins with tuple"),
        ([((X, None), X)], "tuple of Tensor, tuple, which begins with tuple of NoneType, Tensor"),
        ([torch.tensor(1.0)], "a tensor without axes"),
        ([{}], "an empty dict"),
        ([{"x": X, "use_cache": False}], "dict, in which 'use_cache' is bool: make it a tensor, or leave it out"),
    ],
)
def test_anything_else_is_an_error(inputs: list[Any], got: str) -> None:
    with pytest.raises(ArgumentError, match=f"the loader must yield tensors or dicts of.*; batch 0 is {got}$"):
        list(loader_inputs(inputs))


@pytest.mark.parametrize(
    ("strange", "message"),
    [
        (
            X.to("meta"),
            r"batch 0 .* has a tensor on the meta device among x \(6, 2\), y \(6, 2\): it has no numbers",
        ),
        (
            X.to_sparse(),
            r"batch 0 .* has a sparse tensor among x \(6, 2\), y \(6, 2\): give it by .to_dense\(\)",
        ),
    ],
)
def test_tensors_without_numbers_in_place_are_an_error(strange: Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        list(loader_inputs([{"x": X, "y": strange}]))


def test_what_gives_no_batches_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="loader must be a tensor or batches of inputs, got int"):
        list(loader_inputs(3))  # type: ignore[arg-type]


def test_the_first_batches_are_taken_no_further_than_needed() -> None:
    batches = iter([X[:2], X[2:4], X[4:]])
    assert [batch.batch_size for batch in first_inputs(batches, 3)] == [2, 2]
    assert torch.equal(next(batches), X[4:])
    assert first_inputs([], 3) == []


def test_a_graph_is_one_input_however_many_nodes_it_has() -> None:
    graphs = [((torch.rand(500, 3), torch.zeros(2, 900, dtype=torch.long)), 0)] * 10
    assert len(first_inputs(graphs, 7)) == 7
    assert len(first_inputs(graphs, 16, whole=8)) == 2
