"""Tails of zeros go, and the network answers as before."""

import torch

import tailcut
from tailcut.weights import kept_counts, truncated_tensors
from tailcut.weights.parametrization.tails import cut_empty_tails, cut_to


def test_empty_tails_are_cut_and_nothing_changes() -> None:
    torch.manual_seed(0)
    model = tailcut.create_model("lenet300")
    tailcut.regularize(model, num_kept=50, warn=False)
    first, second, third = truncated_tensors(model)
    with torch.no_grad():
        first.vector[17:] = 0
        second.vector[:] = 0
        third.vector[49] = 1
    x = torch.randn(4, 1, 28, 28)
    before = model.eval()(x)
    assert list(cut_empty_tails(model).values()) == [17, 1, 50]
    assert list(kept_counts(model).values()) == [17, 1, 50]
    torch.testing.assert_close(model(x), before)


def test_to_given_counts() -> None:
    model = tailcut.create_model("lenet300")
    tailcut.regularize(model, num_kept=50, warn=False)
    wanted = dict.fromkeys(kept_counts(model), 9)
    cut_to(model, wanted)
    assert kept_counts(model) == wanted
