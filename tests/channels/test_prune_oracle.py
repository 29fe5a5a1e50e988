"""Pruning against an oracle that does not prune: the dense network with the same channels masked."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.channels.slim_networks import EXACT, Case, macs, masked, random_scores, randomized
from torch import nn

from tailcut.channels.pruning.prune import prune


def random_rates(model: nn.Module, case: Case, seed: int) -> dict[str, float]:
    """A rate for each group, found by the layers' names in a first report of nothing pruned."""
    scores = random_scores(model, seed)
    report = prune(copy.deepcopy(model), case.example(), scores, 0.0, ignore=case.ignore)
    locked = {part.name for part in report.skipped}
    generator = torch.Generator().manual_seed(seed)
    names = sorted({layer.group for layer in report.layers if layer.group not in locked})
    return dict(zip(names, (0.95 * torch.rand(len(names), generator=generator)).tolist(), strict=True))


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=2, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31))
@example(seed=1)  # of the gated one, 3 channels for 2 images: axes (2, 3) are not their shape
@example(seed=63)  # rates that leave one channel of a layer
@example(seed=479001599)
def test_a_pruned_network_gives_what_the_masked_one_gives(kind: str, seed: int) -> None:
    case = EXACT[kind]
    dense = randomized(case.build(), seed)
    model = copy.deepcopy(dense)
    x = case.example()
    report = prune(model, x, random_scores(model, seed), random_rates(model, case, seed), ignore=case.ignore)
    with torch.no_grad():
        found = model(x)
        with masked(dense, case, report):
            expected = dense(x)
    assert float(expected.abs().max()) > 1e-9
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert report.macs_after == macs(model, x)
    assert report.num_parameters_after == sum(parameter.numel() for parameter in model.parameters())
    model.train()(x).sum().backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in model.parameters())
