"""The benchmark of CUDA graphs, on the CPU: its rows are made, nothing is replayed."""

import json

import pytest
import torch
from bench.scale import TINY

from bench import cuda_graph
from tailcut.training.recipe.toml_files import load_recipe


def test_rows_are_made_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "RECIPES", ("lenet5-776", "no-such-recipe"))
    monkeypatch.setattr(cuda_graph, "SIDES", (1, 28, 28))
    table = cuda_graph.steps_table(TINY, torch.device("cpu"))
    (row,) = table.rows
    launched = row["launched ms"]
    assert isinstance(launched, float)
    assert launched > 0
    assert (row["replayed ms"], row["apart"]) == (None, None)
    assert table.notes[-1].startswith("Left out: no-such-recipe: ")
    assert json.dumps(table.to_dict())


def test_a_step_trains_the_network() -> None:
    steps = cuda_graph.steps_of("lenet5-776", torch.device("cpu"), (1, 28, 28))
    step = steps.stepping(steps.launched)
    before = steps.launched().item()
    for _ in range(20):
        step()
    assert steps.launched().item() < before


def test_recipes_are_shipped_ones_of_images_of_this_size() -> None:
    for name in cuda_graph.RECIPES:
        assert load_recipe(name).data.name == "cifar10"
