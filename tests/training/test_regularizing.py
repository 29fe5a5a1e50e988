import math

import pytest
import torch

from tailcut.errors import RecipeError
from tailcut.structure import create_model
from tailcut.training.recipe import RegularizationSection
from tailcut.training.regularizing import regularized
from tailcut.weights import kept_counts, truncated_tensors


def test_without_a_section_the_network_stays_as_it_is() -> None:
    model = create_model("lenet300")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert regularized(model, None) is model
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_section_says_what_is_kept() -> None:
    model = create_model("lenet300")
    section = RegularizationSection(num_kept={"fc1.weight": 30, "fc2.weight": 20})
    assert regularized(model, section) is model
    assert kept_counts(model) == {"fc1.weight": 30, "fc2.weight": 20}


def test_rescaled_coefficients_have_the_energy_of_the_dense_weights() -> None:
    torch.manual_seed(0)
    model = create_model("lenet300")
    dense = float(model.fc1.weight.detach().square().sum())  # type: ignore[union-attr,operator]
    regularized(model, RegularizationSection(keep_ratio=0.1, initialization="rescaled"))
    (first, *_) = truncated_tensors(model)
    assert first.num_kept == math.prod(first.shape) // 10
    assert float(first.coefficients().detach().square().sum()) == pytest.approx(dense, rel=0.05)


def test_a_section_that_does_not_fit_is_told() -> None:
    with pytest.raises(RecipeError, match=r"regularization: .*fc9"):
        regularized(create_model("lenet300"), RegularizationSection(include=("fc9.*",)))
