import pytest
import torch
from torch import nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.weights import initialize_norms, regularize


def network(channels: int = 512) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False),
        nn.Linear(4, 4),
        nn.GroupNorm(1, 4),
    )


def test_gains_and_biases_get_noise_and_nothing_else_does() -> None:
    torch.manual_seed(0)
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert initialize_norms(model, 0.5) == ["1"]
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"1.weight", "1.bias"}
    gains, biases = after["1.weight"] - 1, after["1.bias"]
    for noise in (gains, biases):
        assert float(noise.std()) == pytest.approx(0.5, rel=0.15)
        assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert abs(float(torch.corrcoef(torch.stack([gains, biases]))[0, 1])) < 0.2  # noise of their own


def test_channels_that_truncation_made_alike_differ() -> None:
    def resemblance() -> float:
        """Mean correlation of each channel with the next, over places and images."""
        inputs = torch.randn(8, 3, 12, 12)
        outputs = model[:3](inputs).movedim(1, 0).flatten(1)
        outputs = outputs[outputs.std(1) > 0]
        return float(torch.corrcoef(outputs).diagonal(1).mean())

    torch.manual_seed(0)
    model = network(64).train()
    regularize(model, num_kept=8)
    with torch.no_grad():
        alike = resemblance()
        initialize_norms(model)
        assert alike > 0.95
        assert resemblance() < 0.7


def test_the_seed_decides_and_what_was_there_counts() -> None:
    def spread(seed: int) -> nn.BatchNorm1d:
        norm = nn.BatchNorm1d(1000)
        nn.init.zeros_(norm.weight)  # as some networks begin their residual branches
        torch.manual_seed(seed)
        initialize_norms(norm, 0.1)
        return norm

    one, same, other = spread(1), spread(1), spread(2)
    assert torch.equal(one.weight, same.weight)
    assert torch.equal(one.bias, same.bias)
    assert not torch.equal(one.weight, other.weight)
    assert float(one.weight.detach().mean()) == pytest.approx(0, abs=0.02)


def test_frozen_gains_stay() -> None:
    norm = nn.BatchNorm2d(4)
    norm.weight.requires_grad_(False)
    assert initialize_norms(norm) == [""]
    assert torch.equal(norm.weight, torch.ones(4))
    assert not torch.equal(norm.bias, torch.zeros(4))


@pytest.mark.parametrize("std", [0, -1.0, float("nan"), float("inf"), True, "1"])
def test_a_deviation_out_of_range_is_refused(std: object) -> None:
    norm = nn.BatchNorm2d(4)
    with pytest.raises(ArgumentError, match="std must be a finite number above 0"):
        initialize_norms(norm, std)  # type: ignore[arg-type]
    assert torch.equal(norm.weight, torch.ones(4))


def test_a_network_without_such_layers_is_reported() -> None:
    with pytest.raises(StructureError, match="expected batch norm with gains or biases that train"):
        initialize_norms(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)))
