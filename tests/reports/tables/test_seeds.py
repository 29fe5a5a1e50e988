import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.format.zoo import zoo_folder
from tailcut.reports.tables.seeds import same_training, seed_means
from tailcut.runs import Result, read_result

RESULT = read_result(zoo_folder() / "lenet5-776.json")


def run(seed: int, accuracy: float = 0.5, **changes: Any) -> Result:
    """A run of that seed; `changes` are of keys in the recipe's section `training`, but for `paper`."""
    recipe = copy.deepcopy(RESULT.recipe)
    recipe["training"] |= {"seed": seed, **{key: value for key, value in changes.items() if key != "paper"}}
    recipe |= {"paper": changes.get("paper", {})}
    return dataclasses.replace(RESULT, seed=seed, recipe=recipe, metrics={"accuracy": accuracy})


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_mean_and_sample_deviation(values: list[float]) -> None:
    (mean,) = seed_means([run(seed, value) for seed, value in enumerate(values)])
    assert mean.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert mean.spread == pytest.approx(np.std(values, ddof=1), abs=1e-7)
    assert mean.seeds == tuple(range(len(values)))


def test_one_seed_has_no_mean() -> None:
    assert seed_means([]) == []
    assert seed_means([run(0)]) == []
    assert seed_means([run(3, 0.5), run(3, 0.6)]) == []


def test_a_seed_counts_once() -> None:
    (mean,) = seed_means([run(0, 0.1), run(1, 0.3), run(0, 0.9)])
    assert mean.mean == pytest.approx(0.2)
    assert mean.seeds == (0, 1)


def test_other_settings_are_not_mixed() -> None:
    quick = [run(seed, 0.1, epochs=1) for seed in (1, 2, 3)]
    means = seed_means([run(0, 0.8), quick[0], run(1, 0.9), *quick[1:]])
    assert [mean.seeds for mean in means] == [(0, 1), (1, 2, 3)]
    assert [mean.mean for mean in means] == pytest.approx([0.85, 0.1])
    part = dataclasses.replace(run(1), split_sizes={"test": 5})
    assert seed_means([run(0), part]) == []


def test_words_are_no_settings() -> None:
    (group,) = same_training([run(0), run(1, paper={"source": "elsewhere"})])
    assert [result.seed for result in group] == [0, 1]


def test_every_metric_has_its_mean() -> None:
    two = [dataclasses.replace(run(seed), metrics={"a": 0.1 * seed, "b": 1.0}) for seed in (1, 3)]
    assert [(mean.metric, mean.mean, mean.spread) for mean in seed_means(two)] == [
        ("a", pytest.approx(0.2), pytest.approx(0.2 / 2**0.5)),
        ("b", 1.0, 0.0),
    ]
