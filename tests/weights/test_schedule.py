import copy
import io
import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.optim import Optimizer

from tailcut.errors import ArgumentError, StructureError
from tailcut.execution import fuse
from tailcut.weights import TailTruncation, kept_counts, regularize, steps_to_reach, to_dense, truncated_tensors

INPUTS = torch.randn(16, 12, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(16) % 5
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.01, amsgrad=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, 0.01, momentum=0.5, centered=True),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, 0.05, initial_accumulator_value=0.1),
    "adadelta": lambda parameters: torch.optim.Adadelta(parameters, 0.5),
    "nadam": lambda parameters: torch.optim.NAdam(parameters, 0.01),
    "rprop": lambda parameters: torch.optim.Rprop(parameters, 0.01),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, 0.01),
}


def network(num_kept: int | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 5, bias=False))
    regularize(model, num_kept=num_kept)
    return model


def train(model: nn.Module, optimizer: Optimizer, num_steps: int = 1) -> None:
    inputs = INPUTS.to(next(model.parameters()).dtype)
    for _ in range(num_steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), TARGETS).backward()
        optimizer.step()


def vectors(model: nn.Module) -> dict[str, nn.Parameter]:
    return {tensor.name: tensor.vector for tensor in truncated_tensors(model)}


def single(size: int) -> nn.Module:
    layer = nn.Linear(size, 1, bias=False)
    regularize(layer)
    return layer


@settings(max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 400), st.sampled_from([0.01, 0.1, 0.37, 0.5, 0.9, 1.0]))
def test_paper_spacing_is_the_papers_recurrence(start: int, target: int, gamma: float) -> None:
    target = min(start, target)
    layer = single(start)
    schedule = TailTruncation(layer, num_kept=target, gamma=gamma)
    beta = Fraction(start)
    for step in range(1, 41):
        beta = beta - Fraction(gamma) * (beta - target)
        (count,) = schedule.step().values()
        assert abs(count - beta) <= Fraction(1, 2) + Fraction(1, 10**6)
        assert count == kept_counts(layer)["weight"]
        assert (steps_to_reach(start, target, gamma) <= step) == (count == target)


def test_rate_is_the_papers_by_default() -> None:
    layer = single(1000)
    schedule = TailTruncation(layer, num_kept=100)
    assert schedule.step() == {"weight": 991}
    assert schedule.step() == {"weight": 982}


@settings(max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 30), st.sampled_from(["paper", "geometric"]))
def test_num_steps_reach_the_target_exactly_then(start: int, target: int, num_steps: int, spacing: str) -> None:
    target = min(start, target)
    layer = single(start)
    schedule = TailTruncation(layer, num_kept=target, num_steps=num_steps, spacing=spacing)
    counts = [start]
    for step in range(1, num_steps + 4):
        counts += schedule.step().values()
        assert (counts[-1] == target) or step < num_steps
    assert counts == sorted(counts, reverse=True)
    assert min(counts) == target
    assert schedule.finished


@settings(max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 30))
def test_geometric_spacing_divides_by_the_same_factor(start: int, target: int, num_steps: int) -> None:
    target = min(start, target)
    layer = single(start)
    schedule = TailTruncation(layer, num_kept=target, num_steps=num_steps, spacing="geometric")
    for step in range(1, num_steps + 1):
        exact = start * (target / start) ** (step / num_steps)
        (count,) = schedule.step().values()
        assert abs(count - exact) <= 0.5 + 1e-6


def test_num_steps_are_exact_for_large_tensors_too() -> None:
    for spacing, num_steps in itertools.product(("paper", "geometric"), (1, 2, 7, 100)):
        model = nn.Sequential(nn.Linear(300, 200, bias=False), nn.Linear(50, 3, bias=False))
        regularize(model)
        schedule = TailTruncation(model, num_kept=11, num_steps=num_steps, spacing=spacing)
        for _ in range(num_steps):
            schedule.step()
        assert kept_counts(model) == {"0.weight": 11, "1.weight": 11}


@pytest.mark.parametrize(
    ("start", "target", "gamma", "expected"),
    [(100, 100, 0.01, 0), (5, 9, 0.1, 0), (100, 10, 1, 1), (3, 2, 0.4, 2), (2, 1, 0.5, 2)],
)
def test_steps_to_reach(start: int, target: int, gamma: float, expected: int) -> None:
    assert steps_to_reach(start, target, gamma) == expected


def test_targets_by_number_ratio_and_name() -> None:
    assert TailTruncation(network(), num_kept=60).targets == {"0.weight": 60, "2.weight": 50}
    assert TailTruncation(network(), keep_ratio=0.1).targets == {"0.weight": 12, "2.weight": 5}
    schedule = TailTruncation(network(), num_kept={"2.weight": 7}, gamma=0.5)
    assert schedule.targets == {"0.weight": 120, "2.weight": 7}
    assert schedule.starts == {"0.weight": 120, "2.weight": 50}
    assert schedule.step() == {"0.weight": 120, "2.weight": 29}
    assert schedule.finish() == {"0.weight": 120, "2.weight": 7}


def test_a_ratio_leaves_a_minimum() -> None:
    """As the paper's code protects so many of each tensor: 120 and 50 coefficients, the second cut to 20 before."""
    model = network()
    TailTruncation(model, num_kept={"2.weight": 20}).finish()
    assert TailTruncation(model, keep_ratio=0.1, min_kept=7).targets == {"0.weight": 12, "2.weight": 7}
    assert TailTruncation(model, keep_ratio=0.1, min_kept=31).targets == {"0.weight": 31, "2.weight": 20}
    assert TailTruncation(model, keep_ratio=0.1, min_kept=1000).targets == {"0.weight": 120, "2.weight": 20}


@pytest.mark.parametrize("by_steps", [0, 1, 3])
def test_finish_is_exact(by_steps: int) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = TailTruncation(model, num_kept=13, gamma=0.3, optimizer=optimizer)
    for _ in range(by_steps):
        train(model, optimizer)
        schedule.step()
    assert not schedule.finished
    assert schedule.finish() == schedule.targets == schedule.num_kept == {"0.weight": 13, "2.weight": 13}
    assert schedule.finished
    assert {len(vector) for vector in vectors(model).values()} == {13}
    assert schedule.finish() == schedule.step() == schedule.targets
    train(model, optimizer, 2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_coefficients_have_no_value_no_gradient_and_no_state(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    schedule = TailTruncation(model, num_kept=9, gamma=0.4, optimizer=optimizer)
    for num_steps in (0, 2, 0, 2):  # right after the cut, and after training goes on
        schedule.step()
        train(model, optimizer, num_steps)
        for tensor in truncated_tensors(model):
            kept, vector = tensor.num_kept, tensor.vector
            assert kept < len(vector) == torch.Size(tensor.shape).numel()
            assert vector.grad is not None
            # Rprop never lets a step size fall to zero; without a gradient it is not used.
            state = {key: value for key, value in optimizer.state[vector].items() if key != "step_size"}
            entries = [value for value in state.values() if value.shape == vector.shape]
            assert len(entries) >= {"sgd": 0, "rmsprop": 3, "adam": 3, "adagrad": 1}.get(name, 1)
            for content in (vector.detach(), vector.grad, *entries):
                assert torch.all(content[kept:] == 0)
                assert torch.any(content[:kept] != 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compact_changes_no_output_now_or_later(name: str) -> None:
    # In float64: optimisers that divide by a gradient's size, or take its sign, make rounding errors large.
    model, inputs = network().double(), INPUTS.double()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    schedule = TailTruncation(model, num_kept=9, gamma=0.4, optimizer=optimizer)
    schedule.step()
    train(model, optimizer)
    before = model(inputs)
    other, other_optimizer = copied(model, optimizer, name)
    other_schedule = TailTruncation(other, num_kept=9, gamma=0.4, optimizer=other_optimizer)
    schedule.compact()
    assert torch.allclose(model(inputs), before, rtol=0, atol=1e-12)
    assert {len(vector) for vector in vectors(model).values()} == set(schedule.num_kept.values())
    assert {name: len(vector) for name, vector in vectors(other).items()} == {"0.weight": 120, "2.weight": 50}
    for _ in range(3):
        train(model, optimizer)
        train(other, other_optimizer)
    # Adafactor uses the vector's mean square, which the zeros of the tail make smaller.
    if name != "adafactor":
        assert torch.allclose(model(inputs), other(inputs), rtol=0, atol=1e-6)
    assert schedule.num_kept == other_schedule.num_kept


def copied(model: nn.Module, optimizer: Optimizer, name: str) -> tuple[nn.Module, Optimizer]:
    """A model and an optimiser in the same state, sharing nothing."""
    other = copy.deepcopy(model)
    other_optimizer = OPTIMIZERS[name](other.parameters())
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other, other_optimizer


def test_compact_when_worthwhile() -> None:
    model = network()
    schedule = TailTruncation(model, num_kept=6, num_steps=10, spacing="geometric")
    lengths = []
    for _ in range(10):
        schedule.step()
        shortened = schedule.compact_when_worthwhile()
        lengths.append(len(vectors(model)["0.weight"]))
        assert shortened == (len(lengths) == 1 or lengths[-1] < lengths[-2]) or lengths[-1] == 120
        assert all(tensor.truncation.length < 2 * tensor.num_kept for tensor in truncated_tensors(model))
    assert len(set(lengths)) in (4, 5)
    assert not schedule.compact_when_worthwhile()


@pytest.mark.parametrize("spacing", ["paper", "geometric"])
@pytest.mark.parametrize("name", ["momentum", "adam", "adagrad"])
@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("model_first", [False, True])
def test_resuming_gives_the_same_numbers_bit_for_bit(name: str, spacing: str, compact: bool, model_first: bool) -> None:
    def begin(state: dict[str, Tensor] | None = None) -> tuple[nn.Module, Optimizer, TailTruncation]:
        model = network()
        if state is not None:
            model.load_state_dict(state)
        optimizer = OPTIMIZERS[name](model.parameters())
        return model, optimizer, TailTruncation(model, num_kept=6, num_steps=8, spacing=spacing, optimizer=optimizer)

    def go_on(model: nn.Module, optimizer: Optimizer, schedule: TailTruncation, steps: int) -> None:
        for _ in range(steps):
            train(model, optimizer, 2)
            schedule.step()
            if compact:
                schedule.compact_when_worthwhile()

    run = begin()
    go_on(*run, 3)
    model, _, schedule = run
    file = io.BytesIO()
    checkpoint = {
        "model": model.state_dict(),
        "schedule": schedule.state_dict(),
        "optimizer": schedule.optimizer_state_dict(),
    }
    torch.save(checkpoint, file)
    for tensor in truncated_tensors(model):
        key = f"{tensor.name.removesuffix('.weight')}.parametrizations.weight.original"
        assert len(checkpoint["model"][key]) == tensor.num_kept
    go_on(*run, 5)

    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    resumed = begin(loaded["model"] if model_first else None)
    model, _, schedule = resumed
    model.load_state_dict(loaded["model"])
    schedule.load_state_dict(loaded["schedule"])
    schedule.load_optimizer_state_dict(loaded["optimizer"])
    go_on(*resumed, 5)

    assert schedule.state_dict() == run[2].state_dict()
    expected = run[0].state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key])
    ours, theirs = schedule.optimizer_state_dict(), run[2].optimizer_state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for number, entries in theirs["state"].items():
        for key, value in entries.items():
            assert torch.equal(torch.as_tensor(ours["state"][number][key]), torch.as_tensor(value))


def test_a_checkpoint_of_the_optimizer_holds_no_tail_and_stays_as_it_is() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer)
    schedule = TailTruncation(model, num_kept=6, gamma=0.5, optimizer=optimizer)
    schedule.step()
    state = schedule.optimizer_state_dict()
    lengths = {len(entries["exp_avg"]) for entries in state["state"].values()}
    assert lengths == {63, 28, 10}  # the bias of ten is no vector of coefficients
    saved = copy.deepcopy(state)
    train(model, optimizer, 2)
    for number, entries in saved["state"].items():
        assert all(torch.equal(value, state["state"][number][key]) for key, value in entries.items())
    assert len(optimizer.state[vectors(model)["0.weight"]]["exp_avg"]) == 120


def test_a_shorter_checkpoint_is_loaded_before_the_optimizer() -> None:
    short, long = network(8), network()
    optimizer = torch.optim.Adam(short.parameters(), 0.01)
    train(short, optimizer, 2)
    long_optimizer = torch.optim.Adam(long.parameters(), 0.01)
    long.load_state_dict(short.state_dict())
    long_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(short, optimizer, 2)
    train(long, long_optimizer, 2)
    assert torch.equal(long(INPUTS), short(INPUTS))
    schedule = TailTruncation(long, num_kept=4, gamma=1.0, optimizer=long_optimizer)
    assert schedule.starts == {"0.weight": 8, "2.weight": 8}
    schedule.finish()
    train(long, long_optimizer)


def test_a_longer_checkpoint_undoes_a_cut() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(INPUTS)
    TailTruncation(model, num_kept=6, gamma=1.0).finish()
    model.load_state_dict(before)
    assert kept_counts(model) == {"0.weight": 120, "2.weight": 50}
    assert torch.equal(model(INPUTS), expected)


def test_going_back_to_an_earlier_state_in_the_same_process() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = TailTruncation(model, num_kept=6, num_steps=6, optimizer=optimizer)
    train(model, optimizer)
    schedule.step()
    saved = copy.deepcopy((model.state_dict(), schedule.state_dict(), schedule.optimizer_state_dict()))
    results = []
    for _ in range(2):
        for _ in range(3):
            train(model, optimizer)
            schedule.step()
        schedule.finish()
        results.append(model(INPUTS))
        model.load_state_dict(saved[0])
        schedule.load_state_dict(saved[1])
        schedule.load_optimizer_state_dict(saved[2])
        assert schedule.num_kept == saved[1]["num_kept"]
    assert torch.equal(*results)


def test_state_of_another_model_is_refused() -> None:
    other = nn.Linear(3, 3)
    regularize(other)
    with pytest.raises(StructureError, match=r"the schedule's state is of \['weight'\], the model has \['0\.weight'"):
        TailTruncation(network(), num_kept=3).load_state_dict(TailTruncation(other, num_kept=3).state_dict())


def test_state_is_of_plain_values() -> None:
    schedule = TailTruncation(network(), num_kept=3, gamma=0.5)
    schedule.step()
    assert schedule.state_dict() == {
        "steps_done": 1,
        "starts": {"0.weight": 120, "2.weight": 50},
        "num_kept": {"0.weight": 62, "2.weight": 27},
        "lengths": {"0.weight": 120, "2.weight": 50},
    }


def test_optimizer_state_needs_an_optimizer() -> None:
    schedule = TailTruncation(network(), num_kept=3)
    for call in (schedule.optimizer_state_dict, lambda: schedule.load_optimizer_state_dict({})):
        with pytest.raises(ArgumentError, match=r"this schedule has no optimiser: give it one as TailTruncation\("):
            call()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "give the target as either num_kept or keep_ratio"),
    ({"num_kept": 3, "keep_ratio": 0.5}, "give the target as either"),
    ({"num_kept": {}, "keep_ratio": 0.5}, "give the target as either"),
    ({"num_kept": 0}, "0.weight: num_kept must be a positive integer, got 0"),
    ({"num_kept": 2.5}, "num_kept must be a positive integer, got 2.5"),
    ({"num_kept": True}, "num_kept must be a positive integer, got True"),
    ({"num_kept": {"2.weight": "3"}}, "2.weight: num_kept must be a positive integer, got '3'"),
    ({"num_kept": {"1.weight": 3}}, "num_kept names '1.weight'; regularised are 0.weight, 2.weight"),
    (
        {"num_kept": {"0.weight": 81}},
        "0.weight keeps 80 coefficients, fewer than the target 81; start with more, or cut the others alone",
    ),
    (
        {"num_kept": {"0.weight": 1000}},
        "0.weight keeps 80 coefficients, fewer than the target 1000; start with more, or cut the others alone",
    ),
    ({"num_kept": {}}, "num_kept is an empty dict: expected the count of at least one tensor, by its name"),
    ({"num_kept": {0: 3, "2.weight": 3}}, "num_kept: expected names of tensors as keys ('conv.weight'), got 0"),
    ({"num_kept": 81}, "num_kept 81 cuts nothing: no tensor keeps more than 80; start higher"),
    (
        {"keep_ratio": 0.9},
        "0.weight keeps 80 coefficients, fewer than the target 108; start with more, or cut the others alone",
    ),
    ({"keep_ratio": 0}, "keep_ratio must be above 0 and at most 1, got 0"),
    ({"keep_ratio": 0.1, "min_kept": 0}, "min_kept must be a positive integer, got 0"),
    ({"num_kept": 3, "min_kept": 2}, "min_kept is for keep_ratio: num_kept sets the count itself"),
    ({"num_kept": 3, "gamma": 0}, "gamma must be above 0 and at most 1, got 0"),
    ({"num_kept": 3, "gamma": 1.5}, "gamma must be above 0 and at most 1, got 1.5"),
    ({"num_kept": 3, "gamma": float("nan")}, "gamma must be above 0 and at most 1, got nan"),
    ({"num_kept": 3, "gamma": "fast"}, "gamma must be above 0 and at most 1, got 'fast'"),
    ({"num_kept": 3, "num_steps": 0}, "num_steps must be a positive integer, got 0"),
    ({"num_kept": 3, "num_steps": 2.0}, "num_steps must be a positive integer, got 2.0"),
    ({"num_kept": 3, "spacing": "linear"}, "spacing must be one of paper, geometric, got 'linear'"),
    ({"num_kept": 3, "spacing": "geometric"}, 'spacing "geometric" needs num_steps'),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_settings(arguments: dict[str, Any], message: str) -> None:
    model = network(80)
    with pytest.raises(ArgumentError) as caught:
        TailTruncation(model, **arguments)
    assert message in str(caught.value)
    assert kept_counts(model) == {"0.weight": 80, "2.weight": 50}


def test_a_plain_network_is_refused() -> None:
    with pytest.raises(StructureError, match=r"the model is not regularised: call tailcut\.regularize\(model\) first"):
        TailTruncation(nn.Linear(2, 2), num_kept=3)


def test_a_count_for_all_leaves_smaller_tensors() -> None:
    assert TailTruncation(network(80), num_kept=60).targets == {"0.weight": 60, "2.weight": 50}
    assert TailTruncation(network(80), num_kept=80).targets == {"0.weight": 80, "2.weight": 50}


def truncated_weight(model: nn.ModuleDict, name: str) -> Tensor:
    weight: Any = model[name].weight
    return cast(Tensor, weight)


def test_tied_weights_are_cut_once_for_both() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(6, 6, bias=False), "b": nn.Linear(6, 6, bias=False)})
    model["b"].weight = model["a"].weight
    regularize(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = TailTruncation(model, num_kept=5, gamma=0.5, optimizer=optimizer)
    assert schedule.step() == {"a.weight": 21}
    assert TailTruncation(model, num_kept={"b.weight": 4}).targets == {"a.weight": 4}
    x = torch.ones(2, 6)
    for _ in range(2):
        optimizer.zero_grad()
        (model["a"](x) + 2 * model["b"](x)).square().sum().backward()
        optimizer.step()
        (tensor,) = truncated_tensors(model)
        assert torch.all(tensor.vector[21:] == 0)
        assert torch.equal(truncated_weight(model, "a"), truncated_weight(model, "b"))
    # The gradients of both places add up.
    optimizer.zero_grad()
    model["a"](x).sum().backward()
    first = tensor.vector.grad.clone()  # type: ignore[union-attr]
    (2 * model["b"](x).sum()).backward()
    assert tensor.vector.grad is not None
    torch.testing.assert_close(tensor.vector.grad, 3 * first)
    schedule.finish()
    assert len(tensor.vector) == 5
    assert torch.equal(truncated_weight(model, "a"), truncated_weight(model, "b"))
    dense = to_dense(model)
    assert dense.get_parameter("a.weight") is dense.get_parameter("b.weight")


def test_frozen_vectors_are_cut_too() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = TailTruncation(model, num_kept=7, gamma=0.5, optimizer=optimizer)
    train(model, optimizer)
    schedule.step()
    train(model, optimizer)
    schedule.finish()
    assert not vectors(model)["0.weight"].requires_grad
    assert kept_counts(model) == {"0.weight": 7, "2.weight": 7}


def test_an_optimizer_without_the_vectors_is_left_alone() -> None:
    model = network()
    biases = [model[0].bias]
    optimizer = torch.optim.Adam(biases, 0.01)  # type: ignore[arg-type]
    schedule = TailTruncation(model, num_kept=10, gamma=1.0, optimizer=optimizer)
    train(model, optimizer)
    schedule.finish()
    # The bias has as many entries as the vectors, and keeps its state.
    assert torch.any(optimizer.state[model[0].bias]["exp_avg"][5:] != 0)  # type: ignore[index]
    assert list(schedule.optimizer_state_dict()["state"]) == [0]


def test_an_optimizer_made_before_regularize() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 5, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    regularize(model)
    schedule = TailTruncation(model, num_kept=6, num_steps=3, optimizer=optimizer)
    for _ in range(3):
        train(model, optimizer)
        schedule.step()
    schedule.finish()
    train(model, optimizer)
    assert kept_counts(model) == {"0.weight": 6, "2.weight": 6}


def test_stepping_in_inference_mode_leaves_a_trainable_network() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer)
    schedule = TailTruncation(model, num_kept=6, num_steps=3, optimizer=optimizer)
    with torch.inference_mode():
        schedule.step()
        schedule.compact()
        schedule.step()
    train(model, optimizer, 2)
    with torch.inference_mode():
        schedule.finish()
    train(model, optimizer, 2)


def test_a_cut_removes_just_the_last_coefficients() -> None:
    model = network()
    expected = {name: vector.detach().clone() for name, vector in vectors(model).items()}
    TailTruncation(model, num_kept=6, gamma=0.5).step()
    for tensor in truncated_tensors(model):
        assert torch.equal(tensor.vector[: tensor.num_kept], expected[tensor.name][: tensor.num_kept])
        assert torch.all(tensor.vector[tensor.num_kept :] == 0)


def gradient_norm(value: Tensor | None) -> float:
    return 0.0 if value is None else float(value.norm())


def test_nan_in_a_dropped_coefficient_does_not_survive() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer)
    with torch.no_grad():
        vectors(model)["0.weight"][-1] = torch.nan
    schedule = TailTruncation(model, num_kept=6, gamma=0.5, optimizer=optimizer)
    schedule.step()
    train(model, optimizer)
    assert torch.isfinite(model(INPUTS)).all()
    assert gradient_norm(vectors(model)["0.weight"].grad) > 0


def test_an_optimizer_with_one_history_over_all_parameters_is_refused() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ArgumentError, match="expected an optimiser with a state for each parameter, got LBFGS: its"):
        TailTruncation(model, num_kept=3, optimizer=optimizer)


def train_by_lbfgs(model: nn.Module, optimizer: Optimizer) -> float:
    def closure() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(INPUTS), TARGETS)
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    return closure()


def test_what_the_error_recommends_for_such_an_optimizer_works() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    train_by_lbfgs(model, optimizer)
    schedule = TailTruncation(model, num_kept=9, num_steps=2)
    schedule.step()
    train_by_lbfgs(model, optimizer)
    schedule.finish()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    first = train_by_lbfgs(model, optimizer)
    assert train_by_lbfgs(model, optimizer) < first


@pytest.mark.parametrize("compact", [False, True])
def test_cutting_a_fused_view_cuts_its_network(compact: bool) -> None:
    model = network().double()
    fused = fuse(model)
    optimizer = torch.optim.Adam(fused.parameters(), 0.01)
    schedule = TailTruncation(fused, num_kept={"0.weight": 9, "2.weight": 4}, num_steps=2, optimizer=optimizer)
    for _ in range(2):
        train(fused, optimizer)
        schedule.step()
    if compact:
        assert schedule.finish() == {"0.weight": 9, "2.weight": 4}
    assert kept_counts(model) == {"0.weight": 9, "2.weight": 4}
    torch.testing.assert_close(fused(INPUTS.double()), to_dense(model)(INPUTS.double()))
    train(fused, optimizer)


def test_a_count_by_name_above_an_uncut_tensor_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 6))
    regularize(model)
    with pytest.raises(ArgumentError, match=r"0\.weight keeps 48 coefficients, fewer than the target 1000"):
        TailTruncation(model, num_kept={"0.weight": 1000})
    assert TailTruncation(model, num_kept={"0.weight": 48}).targets == {"0.weight": 48}


def test_numbers_of_numpy_are_as_good_as_plain_ones() -> None:
    plain = TailTruncation(network(), num_kept=40, num_steps=3)
    given = TailTruncation(network(), num_kept=np.int64(40), num_steps=np.int32(3))  # type: ignore[arg-type]
    assert (given.step(), given.step(), given.targets) == (plain.step(), plain.step(), plain.targets)
    named = TailTruncation(network(), num_kept={"2.weight": np.int64(7)}, gamma=np.float32(0.5))  # type: ignore[arg-type,dict-item]
    assert named.step() == {"0.weight": 120, "2.weight": 29}
    ratio = TailTruncation(network(), keep_ratio=np.float32(0.1))  # type: ignore[arg-type]
    assert ratio.targets == {"0.weight": 12, "2.weight": 5}
    for schedule in (given, named, ratio):
        assert {type(count) for count in (*schedule.targets.values(), *schedule.num_kept.values())} == {int}


def test_the_optimizer_of_another_model_is_refused() -> None:
    model, other = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
    regularize(model)
    regularize(other)
    with pytest.raises(ArgumentError, match="trains none of this model's parameters"):
        TailTruncation(model, num_kept=3, optimizer=torch.optim.SGD(other.parameters(), lr=0.1))
    with pytest.raises(ArgumentError, match="expected one optimiser, got list"):
        TailTruncation(model, num_kept=3, optimizer=[torch.optim.SGD(model.parameters())])  # type: ignore[arg-type]


def test_vectors_spread_over_processes_are_refused(tmp_path: Path) -> None:
    """`fully_shard` makes distributed tensors of all parameters, which torch can only partly write to."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    regularize(model, warn=False)
    schedule = TailTruncation(model, keep_ratio=0.1, num_steps=3)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        before = schedule.num_kept
        for cut in (schedule.step, schedule.finish, lambda: TailTruncation(model, keep_ratio=0.1, num_steps=3)):
            with pytest.raises(
                StructureError, match=r"0\.weight: its coefficients are spread .*DTensor.*DistributedData"
            ):
                cut()
        assert schedule.num_kept == before
    finally:
        distributed.destroy_process_group()


def test_states_of_something_else_are_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    regularize(model)
    schedule = TailTruncation(model, num_kept=4)
    with pytest.raises(StructureError, match="got a state without 'lengths'"):
        schedule.load_state_dict({"steps_done": 3})


def test_a_network_copied_under_inference_mode_is_refused_and_no_step_counted() -> None:
    model = nn.Sequential(nn.Linear(12, 5))
    regularize(model, keep_ratio=0.5)
    with torch.inference_mode():
        copied = copy.deepcopy(model)
    with pytest.raises(ArgumentError, match=r"0\.weight: the network was built, copied or loaded under torch\.inf"):
        TailTruncation(copied, keep_ratio=0.1)


def test_a_cut_that_fails_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(12, 5))
    regularize(model, keep_ratio=0.5)
    schedule = TailTruncation(model, keep_ratio=0.1, num_steps=3)
    with monkeypatch.context() as patch:
        patch.setattr(schedule, "_cut_to", None)
        with pytest.raises(TypeError):
            schedule.step()
    expected = TailTruncation(copy.deepcopy(model), keep_ratio=0.1, num_steps=3).step()
    assert schedule.step() == expected


def test_gamma_and_a_number_of_steps_exclude_each_other() -> None:
    with pytest.raises(ArgumentError, match=r"give either gamma .* or num_steps"):
        TailTruncation(network(), num_kept=3, gamma=0.5, num_steps=4)
