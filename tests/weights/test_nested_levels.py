import collections
import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import tailcut
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError
from tailcut.weights import truncated_tensors
from tailcut.weights.nested_levels import count_in, parts_of


def network(num_kept: int = 40) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    tailcut.regularize(model, num_kept=num_kept)
    return model


def vectors(model: nn.Module) -> dict[str, nn.Parameter]:
    return {tensor.name: tensor.vector for tensor in truncated_tensors(model)}


def cut(model: nn.Module, parts: int) -> nn.Module:
    """The network with so many of 40 coefficients, made the plain way."""
    smaller = network()
    for name, vector in vectors(model).items():
        vectors(smaller)[name].data.copy_(torch.cat([vector.detach()[:parts], torch.zeros(40 - parts)]))
    return smaller


@pytest.mark.parametrize(("level", "parts"), [(1, 10), (2, 20), (3, 40)])
def test_a_level_is_the_network_with_fewer_coefficients(level: int, parts: int) -> None:
    model, images = network(), torch.rand(4, 1, 8, 8)
    before = {name: vector.detach().clone() for name, vector in vectors(model).items()}
    nested, expected = tailcut.NestedLevels(model, (0.25, 0.5)), cut(model, parts)
    with nested.at(level):
        output = model(images)
        output.square().sum().backward()
    expected(images).square().sum().backward()
    torch.testing.assert_close(output, expected(images))
    for name, vector in vectors(model).items():
        assert torch.equal(vector, before[name])
        wanted = vectors(expected)[name].grad
        assert vector.grad is not None
        assert wanted is not None
        torch.testing.assert_close(vector.grad[:parts], wanted[:parts])
        assert not vector.grad[parts:].any()


def test_gradients_from_before_stay() -> None:
    model, images = network(), torch.rand(4, 1, 8, 8)
    nested = tailcut.NestedLevels(model, (0.5,))
    model(images).sum().backward()
    before = {name: vector.grad.clone() for name, vector in vectors(model).items() if vector.grad is not None}
    with nested.at(1):
        model(images).sum().backward()
    for name, vector in vectors(model).items():
        assert vector.grad is not None
        assert torch.equal(vector.grad[20:], before[name][20:])
        assert not torch.equal(vector.grad[:20], before[name][:20])


def test_gradients_may_be_cleared_within() -> None:
    model, images = network(), torch.rand(4, 1, 8, 8)
    nested, optimizer = tailcut.NestedLevels(model, (0.5,)), torch.optim.SGD(model.parameters(), 0.1)
    for set_to_none in (True, False):
        model(images).sum().backward()
        with nested.at(1):
            optimizer.zero_grad(set_to_none=set_to_none)
            model(images).sum().backward()
        for vector in vectors(model).values():
            assert vector.grad is not None
            assert vector.grad[:20].any()
            assert not vector.grad[20:].any()
    assert all(not vector._backward_hooks for vector in vectors(model).values())


def test_levels_are_drawn_as_often_as_said_and_again_after_a_checkpoint() -> None:
    nested = tailcut.NestedLevels(network(), (0.25, 0.5), whole=0.4, seed=3)

    def draws(count: int) -> list[int]:
        found = []
        for _ in range(count):
            with nested.drawn() as level:
                found.append(level)
        return found

    frequency = collections.Counter(draws(2000))
    assert set(frequency) == {1, 2, 3}
    assert abs(frequency[3] - 800) < 100
    assert abs(frequency[1] - 600) < 100
    state = nested.state_dict()
    later = draws(20)
    nested.load_state_dict(state)
    assert draws(20) == later


def test_an_error_within_leaves_the_network_as_it_was() -> None:
    model = network()
    before = {name: vector.detach().clone() for name, vector in vectors(model).items()}
    with pytest.raises(RuntimeError, match="stop"), tailcut.NestedLevels(model, (0.5,)).at(1):
        raise RuntimeError("stop")
    assert all(torch.equal(vector, before[name]) for name, vector in vectors(model).items())


def test_nested_training_makes_small_levels_useful() -> None:
    """On scikit-learn's digits: trained with all levels, a quarter of the coefficients tells most of them."""
    digits = open_dataset("digits", "train")
    images, labels = digits.batch(range(1000))
    images = torch.nn.functional.interpolate(images, size=(8, 8))
    found = []
    for is_nested in (False, True):
        model = network(400)
        optimizer, nested = torch.optim.Adam(model.parameters(), lr=0.02), tailcut.NestedLevels(model, (0.25, 0.5))
        for _, batch in itertools.product(range(30), torch.arange(1000).split(100)):
            optimizer.zero_grad()
            with nested.drawn() if is_nested else nested.at(3):
                cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad(), nested.at(1):
            found.append(float((model(images).argmax(1) == labels).float().mean()))
    assert found[1] > found[0] + 0.2


def test_counts_are_parts_of_the_level_above() -> None:
    parts = parts_of((0.1, 0.3))
    assert parts == (85, 77)  # a third, and three tenths, of 256
    assert [count_in(level, 40, parts) for level in range(3)] == [5, 13, 40]
    assert [count_in(level, 1, parts) for level in range(3)] == [1, 1, 1]


def test_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match="truncated network"):
        tailcut.NestedLevels(nn.Linear(3, 3), (0.5,))
    with pytest.raises(ArgumentError, match="levels must rise"):
        tailcut.NestedLevels(network(), (0.5, 0.2))
    for one in (0.5, "0.5"):
        with pytest.raises(ArgumentError, match=r"levels must be a list of parts, such as \(0.25, 0.5\); got '?0.5"):
            tailcut.NestedLevels(network(), one)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="whole must be"):
        tailcut.NestedLevels(network(), (0.5,), whole=1.0)
    with pytest.raises(ArgumentError, match="from 1 to 2"), tailcut.NestedLevels(network(), (0.5,)).at(3):
        pass


def test_a_seed_draws_the_same_levels_whatever_the_default_type_is() -> None:
    def drawn() -> list[int]:
        nested, found = tailcut.NestedLevels(network(), (0.25, 0.5), seed=3), []
        for _ in range(20):
            with nested.drawn() as level:
                found.append(level)
        return found

    expected = drawn()
    torch.set_default_dtype(torch.float64)
    try:
        assert drawn() == expected
    finally:
        torch.set_default_dtype(torch.float32)
