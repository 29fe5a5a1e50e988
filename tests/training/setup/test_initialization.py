import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import nn

from tailcut.data import open_dataset
from tailcut.errors import RecipeError
from tailcut.format import load
from tailcut.structure import create_model
from tailcut.training.recipe.schema import OverrideSection, Recipe, RegularizationSection
from tailcut.training.recipe.toml_files import load_recipe
from tailcut.training.setup.build import build_model
from tailcut.training.setup.initialization import num_in_use, regularized, standardize_start
from tailcut.weights import kept_counts, to_dense, truncated_tensors


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


def test_normal_coefficients_have_one_deviation_in_every_layer() -> None:
    torch.manual_seed(0)
    model = regularized(create_model("lenet300"), RegularizationSection(num_kept=900, initialization="normal"))
    for tensor in truncated_tensors(model):
        assert float(tensor.vector.detach().std()) == pytest.approx(0.1, rel=0.1)


def test_a_standardized_start_is_measured_on_one_batch(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe("regularization.initialization=lsuv")
    dataset = open_dataset("digits", "train")
    model = build_model(recipe)
    standardize_start(recipe, model, dataset)
    with torch.no_grad():
        outputs = model.eval()(dataset.batch(range(len(dataset)))[0])
    assert float(outputs.var(0).mean()) == pytest.approx(1, rel=0.3)  # the batch was 64 of those images


def test_another_start_is_not_measured(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe()
    model = build_model(recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    standardize_start(recipe, model, open_dataset("digits", "train"))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_section_that_does_not_fit_is_reported() -> None:
    with pytest.raises(RecipeError, match=r"regularization: .*fc9"):
        regularized(create_model("lenet300"), RegularizationSection(include=("fc9.*",)))


def drawn(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return regularized(create_model("lenet300"), RegularizationSection(initialization="he", **settings))


def test_drawn_coefficients_alone_are_trained() -> None:
    section = RegularizationSection(num_drawn={"fc1.weight": 50, "fc2.weight": 40, "fc3.weight": 30})
    model = drawn(num_drawn=section.num_drawn)
    before = [tensor.vector.detach().clone() for tensor in truncated_tensors(model)]
    assert [int(vector.count_nonzero()) for vector in before] == [50, 40, 30]
    assert num_in_use(model, section) == 120
    assert num_in_use(model, RegularizationSection()) == sum(kept_counts(model).values()) == 266200
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.rand(8, 1, 28, 28)).square().sum().backward()
        optimizer.step()
    for old, tensor in zip(before, truncated_tensors(model), strict=True):
        assert torch.equal(old != 0, tensor.vector != 0)
        assert not torch.any((old == tensor.vector) & (old != 0))


def test_drawn_coefficients_are_spread_over_those_kept_with_the_variance_of_all() -> None:
    (first, *_) = truncated_tensors(drawn(num_kept=20000, num_drawn=5000))
    assert 0.22 < float((first.vector[:10000] != 0).float().mean()) < 0.28
    (whole, *_) = truncated_tensors(drawn(num_kept=20000))
    energy, full = (float(tensor.vector.detach().square().sum()) for tensor in (first, whole))
    assert energy == pytest.approx(full, rel=0.1)


def test_another_seed_draws_others() -> None:
    one, again = (truncated_tensors(drawn(num_drawn=10))[0].vector for _ in range(2))
    assert torch.equal(one, again)
    torch.manual_seed(1)
    other = regularized(create_model("lenet300"), RegularizationSection(num_drawn=10))
    assert not torch.equal(truncated_tensors(other)[0].vector != 0, one != 0)


@pytest.mark.parametrize("counts", [{"fc1.weight": 101}, {"fc1.weight": 3, "fc2.weight": 3}])
def test_more_drawn_than_kept_or_a_tensor_left_out_is_reported(counts: Any) -> None:
    with pytest.raises(RecipeError, match=r"num_drawn: expected at most 100 coefficients of fc[13]\.weight"):
        drawn(num_kept=100, num_drawn=counts)


def test_drawn_coefficients_have_no_tail_to_cut() -> None:
    with pytest.raises(RecipeError, match="num_drawn takes no"):
        load_recipe("lenet5-776", ["regularization.num_drawn=50"])


def test_a_truncated_start_goes_on_with_its_coefficients() -> None:
    model = load("zoo:lenet5-776")
    before = [tensor.vector.detach().clone() for tensor in truncated_tensors(model)]
    assert regularized(model, RegularizationSection()) is model
    after = [tensor.vector for tensor in truncated_tensors(model)]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_truncated_start_is_given_other_corners() -> None:
    model = load("zoo:lenet5-776")  # keeps 120 and 220 coefficients of these two
    before, weights = kept_counts(model), dict(to_dense(model).named_parameters())
    counts = {"conv1.weight": 90, "conv2.weight": 300, "fc1.weight": 280, "fc2.weight": 156}
    overrides = {name: OverrideSection(order_weights=(1, 1, 3, 3)) for name in ("conv?.weight", "fc1.weight")}
    moved = regularized(model, RegularizationSection(num_kept=counts, overrides=overrides))
    assert kept_counts(moved) == counts
    assert kept_counts(model) == before
    after = dict(to_dense(moved).named_parameters())
    for name in ("conv2.weight", "fc1.weight", "fc2.weight"):  # what is new is zero
        torch.testing.assert_close(after[name], weights[name])
    old, new = (dctn(of["conv1.weight"].detach().numpy(), norm="ortho") for of in (weights, after))
    kept = np.abs(new) > 1e-5
    assert 60 < kept.sum() <= 90  # some of the 90 are new to it: it had another order
    np.testing.assert_allclose(new[kept], old[kept], atol=1e-5)


def test_a_truncated_start_does_not_become_dense_unnoticed() -> None:
    with pytest.raises(
        RecipeError, match=r"would be left dense in conv2\.weight, fc1\.weight, fc2\.weight; name these"
    ):
        regularized(load("zoo:lenet5-776"), RegularizationSection(num_kept={"conv1.weight": 90}))


def test_the_norms_of_a_recipe_are_spread() -> None:
    def norms(std: float) -> torch.Tensor:
        torch.manual_seed(0)
        model = regularized(create_model("resnet20"), RegularizationSection(num_kept=50, norm_std=std))
        return torch.cat([part.detach() for name, part in model.named_parameters() if "bn" in name and "bias" in name])

    assert not norms(0.0).any()
    assert float(norms(0.5).std()) == pytest.approx(0.5, rel=0.1)
    with pytest.raises(RecipeError, match=r"regularization\.norm_std: expected batch norm"):
        regularized(create_model("lenet300"), RegularizationSection(num_kept=50, norm_std=1.0))


@pytest.mark.parametrize("settings", [{"order_weights": (1, 2)}, {"initialization": "rescaled"}, {"norm_std": 1.0}])
def test_a_truncated_start_does_not_grow_whole_unnoticed(settings: dict[str, Any]) -> None:
    model = regularized(create_model("lenet300"), RegularizationSection(num_kept=50))
    with pytest.raises(RecipeError, match="without keep_ratio or num_kept all of its coefficients would come back"):
        regularized(model, RegularizationSection(**settings))
