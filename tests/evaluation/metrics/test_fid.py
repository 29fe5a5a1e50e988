from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch.nn.functional import interpolate, max_pool2d, relu

from tailcut.data import open_dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.metrics.fid import FEATURE_NETWORK, FeatureNetwork, FeatureStatistics, frechet_distance
from tailcut.format import load
from tailcut.transform.resizing import resized
from tailcut.weights import to_dense


def random_features(num: int, width: int, seed: int) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=noise, dtype=torch.float64)
    return torch.randn(num, width, generator=noise, dtype=torch.float64) @ mix + torch.randn(width, generator=noise)


def moments_of(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    return statistics.moments()


def test_moments_are_those_of_numpy_whatever_the_batches() -> None:
    features = random_features(103, 7, seed=0)
    statistics, parts = FeatureStatistics(7), [FeatureStatistics(7), FeatureStatistics(7)]
    for number, batch in enumerate(features.split(10)):
        statistics.update(batch)
        parts[number % 2].update(batch)
    mean, covariance = statistics.moments()
    np.testing.assert_allclose(mean.numpy(), features.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance.numpy(), np.cov(features.numpy().T), rtol=1e-10, atol=1e-12)
    parts[0].state += parts[1].state  # two processes
    torch.testing.assert_close(parts[0].moments(), (mean, covariance))


def test_one_image_has_no_covariance() -> None:
    statistics = FeatureStatistics(3)
    statistics.update(torch.ones(1, 3))
    with pytest.raises(ArgumentError, match="at least 2 images, got 1"):
        statistics.moments()


def test_distance_is_the_formula_with_scipys_root() -> None:
    one, other = moments_of(random_features(400, 9, seed=1)), moments_of(random_features(300, 9, seed=2))
    root = sqrtm(one[1].numpy() @ other[1].numpy()).real
    expected = float((one[0] - other[0]).square().sum() + one[1].trace() + other[1].trace()) - 2 * np.trace(root)
    assert frechet_distance(*one, *other) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(*other, *one) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("num", [400, 5])  # 5 rows of 9 features: the covariance is singular
def test_distance_of_a_shifted_and_scaled_distribution(num: int) -> None:
    """With C' = s^2 C the roots commute: |shift|^2 + (s - 1)^2 tr C; and nothing to itself."""
    mean, covariance = moments_of(random_features(num, 9, seed=3))
    shift = torch.arange(9, dtype=torch.float64)
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(
        0, abs=1e-5 * float(covariance.trace())
    )
    expected = float(shift.square().sum() + 4 * covariance.trace())
    assert frechet_distance(mean, covariance, mean + shift, 9 * covariance) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", range(4))
def test_there_is_no_distance_of_what_is_no_number(place: int, number: float) -> None:
    parts = [*moments_of(random_features(50, 3, seed=1)), *moments_of(random_features(50, 3, seed=2))]
    parts[place] = parts[place].clone()
    parts[place].view(-1)[0] = number
    with pytest.raises(ArgumentError, match="needs means and covariances of finite numbers"):
        frechet_distance(*parts)


def test_features_are_the_hidden_layer_of_the_network_in_the_zoo() -> None:
    net = to_dense(load(FEATURE_NETWORK))
    weights = dict(net.named_parameters())
    digits = open_dataset("digits", "test").batch(range(5))[0]
    with torch.no_grad():
        hidden = digits
        for name in ("conv1", "conv2"):
            hidden = torch.conv2d(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"])
            hidden = max_pool2d(hidden, 2)
        hidden = relu(hidden.flatten(1) @ weights["fc1.weight"].flatten(1).T + weights["fc1.bias"])
        logits = hidden @ weights["fc2.weight"].T + weights["fc2.bias"]
        torch.testing.assert_close(logits, net(digits))
    torch.testing.assert_close(FeatureNetwork()(digits), hidden)


def test_images_are_brought_to_the_networks_size() -> None:
    digits = open_dataset("digits", "test").batch(range(3))[0]
    assert resized(digits, 28, 28) is digits
    large = interpolate(digits, size=(64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(resized(digits, 64, 64), large)
    network = FeatureNetwork()
    torch.testing.assert_close(network(large), network(resized(large, 28, 28)))


def test_other_digits_are_nearer_than_noise() -> None:
    """Two thirds of scikit-learn's digits are much nearer to the rest than random pixels of the same histogram."""
    images = open_dataset("digits", "train").batch(range(1400))[0]
    shuffled = images.flatten()[torch.randperm(images.numel(), generator=torch.Generator().manual_seed(0))]
    network = FeatureNetwork()
    first, rest = moments_of(network(images[:900])), moments_of(network(images[900:]))
    noise = moments_of(network(shuffled.view_as(images)))
    assert 20 * frechet_distance(*first, *rest) < frechet_distance(*first, *noise)


def test_the_scale_on_the_page_is_measured(mnist_root: Path) -> None:
    network = FeatureNetwork()

    def moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        statistics = FeatureStatistics()
        with torch.no_grad():
            for batch in images.split(500):
                statistics.update(network(batch))
        return statistics.moments()

    train, every = (
        torch.stack([dataset[number][0] for number in range(10_000)])
        for dataset in (open_dataset("mnist", split, roots=mnist_root) for split in ("train", "test"))
    )
    real = moments(every)
    noise = torch.rand(every.shape, generator=torch.Generator().manual_seed(0))
    page = (Path(__file__).parents[3] / "docs" / "generation.md").read_text(encoding="utf-8").replace("\n", " ")
    for what, value in {
        "the first 10,000 training digits | {:.0f} |": frechet_distance(*moments(train), *real),
        "to the second half (by other writers) | {:.0f} |": frechet_distance(
            *moments(every[:5000]), *moments(every[5000:])
        ),
        "uniform noise | {:,.0f} |": frechet_distance(*moments(noise), *real),
    }.items():
        assert what.format(value) in page
