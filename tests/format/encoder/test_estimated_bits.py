"""Estimated bits against the entropy of drawn numbers, and against those of files."""

import numpy as np
import pytest
import torch

from tailcut.format.container.streams import layout_of_other
from tailcut.format.encoder.estimated_bits import coded_bits, expected_bits
from tailcut.format.quantized import encode
from tailcut.format.quantized.values import NONE, coded


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 4.0, 200.0])
def test_expected_bits_are_the_entropy_of_rounded_laplace_numbers(mean: float) -> None:
    numbers = np.round(np.random.default_rng(0).laplace(scale=mean, size=400_000))
    shares = np.unique(numbers, return_counts=True)[1] / len(numbers)
    entropy = -(shares * np.log2(shares)).sum()
    assert expected_bits(mean) == pytest.approx(entropy, rel=0.01, abs=1e-3)
    assert expected_bits(0.0) == 0.0
    assert expected_bits([[0.0, mean]]).shape == (1, 2)


@pytest.mark.parametrize("spread", [0.3, 1.0, 5.0, 60.0])
def test_of_a_matrix_they_are_about_those_of_the_file(spread: float) -> None:
    torch.manual_seed(0)
    layout = layout_of_other("a.weight", (80, 60), is_integer=False)
    multiples = (torch.randn(80, 60, dtype=torch.float64) * spread * torch.linspace(0.3, 2, 60)).round().reshape(-1)
    tensor = coded(multiples, NONE, 0, layout)
    wanted = 8 * len(encode([layout], [tensor]))
    assert coded_bits(tensor, layout) == pytest.approx(wanted, rel=0.25)
