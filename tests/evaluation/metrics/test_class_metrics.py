import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.functional import sigmoid

from tailcut.errors import ArgumentError
from tailcut.evaluation.metrics.class_metrics import (
    ClassCounts,
    StreamingMean,
    accuracy,
    dice,
    foreground,
    metrics_for,
    top5_accuracy,
)
from tailcut.evaluation.metrics.elbo import negative_elbo


def test_top5_accuracy_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, actual = torch.randn(200, 12, generator=generator), torch.arange(200) % 12
    expected = top_k_accuracy_score(actual, outputs, k=5, labels=range(12))
    assert 0.2 < expected < 0.8
    assert top5_accuracy(outputs, actual).mean().item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ArgumentError, match=r"5 classes or more.*\(200, 4\)"):
        top5_accuracy(outputs[:, :4], actual)


def test_many_classes_have_a_second_figure() -> None:
    assert list(metrics_for("classification", 10)) == ["accuracy"]
    assert list(metrics_for("classification", 1000)) == ["accuracy", "top5_accuracy"]
    assert list(metrics_for("segmentation", 1000)) == ["dice"]


def masks_as_outputs(masks: torch.Tensor) -> torch.Tensor:
    """Logits (batch, 2, height, width) whose argmax is the mask."""
    return torch.stack([1.0 - masks, masks.float()], dim=1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50))
def test_accuracy_agrees_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    predicted, actual = (torch.tensor(column) for column in zip(*pairs, strict=True))
    outputs = torch.nn.functional.one_hot(predicted, 5).float()
    assert accuracy(outputs, actual).mean().item() == pytest.approx(accuracy_score(actual, predicted), abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_dice_is_scikit_learns_f1_of_the_pixels(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 2, (2, 3, 5, 7), generator=random)
    figures = dice(masks_as_outputs(masks[0]), masks[1])
    expected = [f1_score(b.flatten(), a.flatten(), zero_division=1.0) for a, b in zip(*masks, strict=True)]
    assert figures.tolist() == pytest.approx(expected, abs=1e-12)


def test_dice_by_hand() -> None:
    predicted = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]], [[0, 0, 0, 0]]])
    actual = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]], [[1, 0, 0, 0]]])
    assert dice(masks_as_outputs(predicted), actual).tolist() == [0.5, 1.0, 0.0, 0.0]


def test_one_output_per_pixel_is_a_logit() -> None:
    outputs = torch.tensor([-1.0, 0.0, 0.1, 5.0]).reshape(1, 1, 1, 4)
    assert foreground(outputs).tolist() == [[[False, False, True, True]]]


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 4, 4), (2, 10)])
def test_masks_need_one_or_two_outputs(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="a mask needs outputs"):
        foreground(torch.zeros(shape))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ArgumentError, match="accuracy needs"):
        accuracy(torch.zeros(4, 10), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="Dice needs masks"):
        dice(torch.zeros(4, 2, 8, 8), torch.zeros(4, 8, 9, dtype=torch.int64))


@given(st.lists(st.integers(0, 1), min_size=1, max_size=60), st.integers(1, 60))
def test_a_streamed_accuracy_does_not_depend_on_the_batches(figures: list[int], size: int) -> None:
    mean = StreamingMean()
    for batch in torch.tensor(figures, dtype=torch.float64).split(size):
        mean.update(batch)
    assert mean.value() == sum(figures) / len(figures)


def test_states_of_several_processes_add_up() -> None:
    one, other = StreamingMean(), StreamingMean()
    one.update(torch.tensor([1.0, 0.0]))
    other.update(torch.tensor([1.0]))
    one.state = one.state + other.state
    assert one.value() == pytest.approx(2 / 3)


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ArgumentError, match="mean of no figures"):
        StreamingMean().value()


def test_one_class_for_images_of_several_is_noticed() -> None:
    outputs = torch.tensor([[0.1, 2.0, 0.3], [0.0, 0.5, 0.4]])
    counts = ClassCounts(3)
    counts.update(outputs, torch.tensor([1, 1]))
    assert counts.only_class() is None  # there is one class only
    counts.update(outputs, torch.tensor([0, 2]))
    assert counts.state.tolist() == [[0, 4, 0], [1, 2, 1]]
    assert counts.only_class() == 1
    counts.update(torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([0]))
    assert counts.only_class() is None


def test_the_bound_of_a_vae_is_that_of_the_distributions() -> None:
    images = torch.rand(5, 1, 4, 6).round()
    logits, mean, log_variance = 2 * torch.randn(5, 1, 4, 6), torch.randn(5, 3), torch.randn(5, 3)
    likelihood = Bernoulli(logits=logits).log_prob(images).sum(dim=(1, 2, 3))
    divergence = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0, 1)).sum(dim=1)
    torch.testing.assert_close(negative_elbo((logits, mean, log_variance), images), divergence - likelihood)


def test_a_grey_pixel_is_best_met_by_its_own_value() -> None:
    images, code = torch.full((1, 1, 1, 1), 0.3), torch.zeros(1, 2)
    logits = torch.linspace(-3, 3, 601)
    losses = [negative_elbo((logit.view(1, 1, 1, 1), code, code), images).item() for logit in logits]
    assert sigmoid(logits[torch.tensor(losses).argmin()]).item() == pytest.approx(0.3, abs=0.003)


def test_outputs_that_are_no_numbers_are_wrong() -> None:
    outputs = torch.eye(6)
    outputs[0, 3] = float("nan")
    outputs[1, 4] = float("inf")
    assert accuracy(outputs, torch.tensor([3, 4, 2, 3, 4, 5])).tolist() == [0, 1, 1, 1, 1, 1]
    assert top5_accuracy(outputs, torch.tensor([3, 4, 2, 3, 4, 5])).tolist() == [0, 1, 1, 1, 1, 1]
    masks = torch.full((2, 1, 4, 4), -1.0)
    masks[1, 0, 0, 0] = float("nan")
    assert dice(masks, torch.zeros(2, 4, 4)).tolist() == [1, 0]
