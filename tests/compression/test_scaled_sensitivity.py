"""Sensitivities in other units, and with steps in the place of blocks."""

import numpy as np
import pytest
import torch
from torch import nn

from tailcut.compression.lattices import trained_tensors
from tailcut.compression.scaled_sensitivity import LEAST_STEP, codable, fitted, times
from tailcut.format.network.tensors import network_tensors
from tailcut.format.row_steps import row_steps
from tailcut.format.sensitivity import Sensitivity, block_of


def test_a_factor_is_on_all_curvatures() -> None:
    found = times(Sensitivity({"a": 2.0}, {"b": 3.0}), 4.0)
    assert (found.curvature, found.log_curvature) == ({"a": 8.0}, {"b": 12.0})


def test_no_step_is_too_fine_for_the_numbers() -> None:
    values = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2)}
    found = codable(Sensitivity({"a": 1e30, "b": 1e30, "c": 1e30}, {"a": 1e30}), values)
    assert found.curvature["a"] ** -0.5 == pytest.approx(5 * LEAST_STEP)
    assert (found.curvature["b"], found.curvature["c"]) == (1e30, 1e30)
    assert found.log_curvature["a"] ** -0.5 == pytest.approx(128 * LEAST_STEP)


def test_blocks_give_way_to_the_steps_that_compress_takes() -> None:
    """Of plain weights that are trained; others keep their step, and none keeps a block."""
    model = nn.Sequential(nn.Linear(8, 60), nn.Linear(60, 4))
    model[1].weight.requires_grad_(False)
    trained = trained_tensors(network_tensors(model, []))
    blocks = tuple(
        block_of((name,), torch.diag(torch.exp2(torch.linspace(-4, 4, size, dtype=torch.float64))))
        for name, size in (("0.weight", 8), ("1.weight", 60))
    )
    curvature = {"0.weight": 0.25, "0.bias": 1.0, "1.weight": 4.0}
    found = fitted(Sensitivity(curvature, {}, blocks), trained)
    assert found.blocks == ()
    assert found.shifts.keys() == {"0.weight"}
    wanted = row_steps(blocks[0], (60, 8), 2.0)
    assert np.array_equal(found.shifts["0.weight"][1], wanted.shifts[1])
    assert round(8 * np.log2(found.curvature["0.weight"] ** -0.5)) == wanted.step
    assert {name: found.curvature[name] for name in ("0.bias", "1.weight")} == {"0.bias": 1.0, "1.weight": 4.0}
