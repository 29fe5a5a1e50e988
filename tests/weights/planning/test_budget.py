import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from torch import nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.transform import l1_order
from tailcut.weights import TailTruncation, budget, kept_counts, regularize, to_dense, truncation_of


def of_sizes(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(size, 1, bias=False) for size in sizes))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),  # 36
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 8, 3),  # 288
        nn.Flatten(),
        nn.Linear(32, 10),  # 320
    )


NAMES = ["0.weight", "2.weight", "4.weight"]


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=8),
    st.integers(1, 5),
    st.sampled_from(["equal", "proportional", "energy"]),
    st.data(),
)
def test_counts_add_up_and_fit(sizes: list[int], min_kept: int, rule: str, data: st.DataObject) -> None:
    least = sum(min(min_kept, size) for size in sizes)
    total = data.draw(st.integers(least, sum(sizes)))
    model = of_sizes(*sizes)
    counts = budget(model, total, rule=rule, min_kept=min_kept)
    assert list(counts) == [f"{place}.weight" for place in range(len(sizes))]
    assert sum(counts.values()) == total
    assert all(type(count) is int for count in counts.values())
    for size, count in zip(sizes, counts.values(), strict=True):
        assert min(min_kept, size) <= count <= size
    regularize(model, num_kept=counts)
    assert kept_counts(model) == counts


@settings(max_examples=60)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.data())
def test_equal_differs_by_one_at_most_but_for_small_tensors(sizes: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(len(sizes), sum(sizes)))
    counts = list(budget(of_sizes(*sizes), total).values())
    largest = max(counts)
    assert all(count in (largest, largest - 1) or count == size for count, size in zip(counts, sizes, strict=True))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.data())
def test_proportional_cannot_be_improved_by_moving_one(sizes: list[int], data: st.DataObject) -> None:
    """No tensor keeps a larger part than another one would with one coefficient more (d'Hondt's method)."""
    total = data.draw(st.integers(len(sizes), sum(sizes)))
    pairs = list(zip(budget(of_sizes(*sizes), total, rule="proportional").values(), sizes, strict=True))
    for (ours, our_size), (theirs, their_size) in itertools.product(pairs, repeat=2):
        assert ours == 1 or theirs == their_size or ours / our_size <= (theirs + 1) / their_size + 1e-9


def test_published_networks_are_equal_per_layer() -> None:
    assert budget(network(), 99) == dict.fromkeys(NAMES, 33)
    assert budget(network(), 400) == {"0.weight": 36, "2.weight": 182, "4.weight": 182}


def test_proportional() -> None:
    assert budget(network(), 161, rule="proportional") == {"0.weight": 9, "2.weight": 72, "4.weight": 80}


def shares(model: nn.Module, name: str) -> np.ndarray:
    weight = model.get_parameter(name).detach().double().numpy()
    energy = dctn(weight, norm="ortho").reshape(-1)[l1_order(weight.shape).numpy()] ** 2
    return np.asarray(energy / energy.sum())


def test_energy_is_the_best_split_of_falling_spectra() -> None:
    """With coefficients that fall in size, no other split keeps more of the shares of energy."""
    model = of_sizes(6, 9, 12)
    scale = torch.exp(-torch.arange(12.0))
    for place, rate in enumerate((0.3, 0.8, 0.5)):
        layer = model[place]
        regularize(layer, num_kept=layer.in_features)  # type: ignore[arg-type]
        with torch.no_grad():
            truncation_of(layer, "weight").vector.copy_(scale[: layer.in_features] ** rate)
    model = to_dense(model)
    kept = [np.cumsum(shares(model, f"{place}.weight")) for place in range(3)]
    for total in (3, 7, 11, 20):
        counts = list(budget(model, total, rule="energy").values())
        reached = sum(energy[count - 1] for energy, count in zip(kept, counts, strict=True))
        best = max(
            sum(energy[count - 1] for energy, count in zip(kept, split, strict=True))
            for split in itertools.product(range(1, 7), range(1, 10), range(1, 13))
            if sum(split) == total
        )
        assert reached == pytest.approx(best, rel=1e-9)


def test_energy_gives_little_to_a_smooth_tensor() -> None:
    """As in a trained network: one tensor holds low frequencies only, the other is noise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False))
    regularize(model[0], num_kept=15)
    nn.init.ones_(truncation_of(model[0], "weight").vector)
    model = to_dense(model)
    counts = budget(model, 200, rule="energy")
    assert counts["0.weight"] == 15
    assert counts["1.weight"] == 185
    before = copy.deepcopy(model[0].weight)
    regularize(model, num_kept=counts)
    torch.testing.assert_close(model[0].weight, before, rtol=0, atol=1e-5)


def test_energy_looks_past_a_gap() -> None:
    """A large coefficient behind small ones is worth the small ones before it."""
    model = of_sizes(10, 10)
    for layer, large in zip(model, (9, 0), strict=True):
        regularize(layer, num_kept=10)
        vector = truncation_of(layer, "weight").vector
        with torch.no_grad():
            vector.copy_(torch.full((10,), 0.01))
            vector[0] = vector[large] = 1.0
    model = to_dense(model)
    assert budget(model, 11, rule="energy") == {"0.weight": 10, "1.weight": 1}


def test_energy_of_zeros() -> None:
    model = of_sizes(5, 7)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert sum(budget(model, 9, rule="energy").values()) == 9


def test_energy_does_not_depend_on_the_scale() -> None:
    model = network()
    counts = budget(model, 77, rule="energy")
    with torch.no_grad():
        model[0].weight.mul_(1000)  # type: ignore[operator]
    assert budget(model, 77, rule="energy") == counts


def test_patterns_choose_as_in_regularize() -> None:
    model = network()
    assert list(budget(model, 20, include="*.weight")) == NAMES
    assert list(budget(model, 20, include="*", exclude=["2.*", "*.bias"])) == ["0.weight", "4.weight"]
    assert list(budget(model, 10, include=["1.weight", "4.bias"])) == ["1.weight", "4.bias"]
    report = regularize(model, num_kept=budget(model, 20, include="*"))
    assert "1.weight" not in {tensor.name for tensor in report.tensors}
    assert report.num_kept == 20


def test_tied_weights_count_once() -> None:
    model = of_sizes(8, 8, 8)
    model[2].weight = model[0].weight
    assert budget(model, 10) == {"0.weight": 5, "1.weight": 5}


def test_the_model_is_not_changed() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for rule in ("equal", "proportional", "energy"):
        budget(model, 50, rule=rule)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_targets_of_a_schedule() -> None:
    model = network()
    counts = budget(model, 60, rule="proportional")
    regularize(model)
    TailTruncation(model, num_kept=counts, num_steps=3, spacing="geometric").finish()
    assert kept_counts(model) == counts


WRONG: list[tuple[int, dict[str, Any], str]] = [
    (2, {}, "a total from 3 to 644 fits the 3 chosen tensors, got 2"),
    (645, {}, "a total from 3 to 644 fits the 3 chosen tensors, got 645"),
    (100, {"min_kept": 40}, "a total from 116 to 644 fits the 3 chosen tensors, got 100"),
    (0, {}, "total must be a positive integer, got 0"),
    (50, {"rule": "fair"}, "rule must be one of equal, proportional, energy, got 'fair'"),
    (50, {"min_kept": 0}, "min_kept must be a positive integer, got 0"),
    (50, {"include": "conv*"}, "include: 'conv*' matches no parameter"),
    (50, {"exclude": "conv*"}, "exclude: 'conv*' matches no parameter"),
    (50, {"exclude": "*"}, "a total from 0 to 0 fits the 0 chosen tensors"),
    (50, {"include": 3}, "include must be a pattern of names"),
]


@pytest.mark.parametrize(("total", "arguments", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_settings(total: int, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        budget(network(), total, **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("total", [50.0, True, "50", None, math.nan])
def test_totals_that_are_no_integers(total: Any) -> None:
    with pytest.raises(ArgumentError, match="total must be a positive integer"):
        budget(network(), total)


def test_a_regularised_network_is_refused() -> None:
    model = network()
    regularize(model)
    with pytest.raises(StructureError, match="regularised already; split the budget over to_dense"):
        budget(model, 50)


def test_a_table_with_padding_only_by_its_full_name_as_in_regularize() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(9, 5, padding_idx=3), "out": nn.Linear(5, 4)})
    assert budget(model, 9) == {"out.weight": 9}
    assert list(budget(model, 9, include="*")) == ["out.weight", "out.bias"]
    counts = budget(model, 9, include=["table.weight", "out.weight"])
    assert list(counts) == ["table.weight", "out.weight"]
    regularize(model, num_kept=counts)
    assert kept_counts(model) == counts


def test_weights_on_the_meta_device_have_no_energy() -> None:
    model = network().to("meta")
    with pytest.raises(ArgumentError, match=r'rule "energy" needs the values of the weights, and 0\.weight has none'):
        budget(model, 50, rule="energy")
    for rule in ("equal", "proportional"):
        assert budget(model, 50, rule=rule) == budget(network(), 50, rule=rule)


def test_a_total_of_numpy_gives_plain_counts() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    total: Any = np.int64(30)
    least: Any = np.int16(2)
    for rule in ("equal", "proportional", "energy"):
        counts = budget(model, total, rule=rule, min_kept=least)
        assert counts == budget(model, 30, rule=rule, min_kept=2)
        assert {type(count) for count in counts.values()} == {int}
