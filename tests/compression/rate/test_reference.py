"""The sensitivity that is followed in training: scaled, kept within what the coder takes, saved and restored."""

import math

import torch

from tailcut.compression.rate.reference import LEAST_STEP, Reference, codable, times
from tailcut.format.encoder.sensitivity import Sensitivity
from tailcut.format.quantized.coder import MAX_MAGNITUDE


def test_a_factor_on_every_curvature() -> None:
    found = times(Sensitivity({"a": 2.0, "b": 3.0}, {"c": 5.0}, transforms={"a": 1}), 4.0)
    assert (found.curvature, found.log_curvature, found.transforms) == ({"a": 8.0, "b": 12.0}, {"c": 20.0}, {"a": 1})


def test_steps_stay_coarse_enough_for_the_coder() -> None:
    values = {"a": torch.full((4,), 3.0), "b": torch.zeros(3), "d": torch.ones(2)}
    found = codable(Sensitivity({"a": 1e30, "b": 1e30, "c": 1e30, "d": 1.0}, {"v": 1e30, "w": 1.0}), values)
    # A transform may gather all of a tensor in one number, its norm; the coder takes magnitudes up to half its largest.
    assert found.curvature["a"] ** -0.5 == LEAST_STEP * 6.0
    assert LEAST_STEP * (MAX_MAGNITUDE // 2) > 1
    assert {name: found.curvature[name] for name in "bcd"} == {"b": 1e30, "c": 1e30, "d": 1.0}
    assert found.log_curvature["w"] == 1.0
    # A logarithm of a float32 variance is at most 128.
    assert 128 / found.log_curvature["v"] ** -0.5 <= MAX_MAGNITUDE // 2


def test_a_restored_reference_is_the_saved_one() -> None:
    first = Reference(Sensitivity({"a": 2.0}, {"v": 3.0}), {"a": 0.5}, torch.tensor([1.0]), torch.tensor([2.0]))
    other = Reference(Sensitivity({"a": 7.0}, {}, transforms={"a": 3}), {"a": 1.0}, torch.zeros(1), torch.zeros(1))
    found = other.restored(first.state_dict())
    assert (found.sensitivity.curvature, found.sensitivity.log_curvature) == ({"a": 2.0}, {"v": 3.0})
    assert found.sensitivity.transforms == {"a": 3}  # follows from the network
    assert (found.usual, found.log_steps.item(), found.log_sizes.item()) == ({"a": 0.5}, 1.0, 2.0)
    assert math.isclose(sum(found.usual.values()), 0.5)
