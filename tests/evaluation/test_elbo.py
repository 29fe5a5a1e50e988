import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.functional import sigmoid

from tailcut.evaluation.elbo import negative_elbo


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
