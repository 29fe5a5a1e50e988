"""Statistics of batch norm, measured again."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tailcut
from tailcut.channels import recalibrate
from tailcut.errors import ArgumentError
from tailcut.weights import truncate_norms


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 3))


def batches(number: int = 3) -> list[torch.Tensor]:
    return list(torch.randn(number, 5, 3, 8, 8, generator=torch.Generator().manual_seed(1)))


def norm_of(network: nn.Sequential) -> Any:
    return network[1]


def unchanged(network: nn.Module, before: dict[str, Any]) -> bool:
    after = network.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_statistics_are_the_mean_over_batches(network: nn.Sequential) -> None:
    before = copy.deepcopy(network.state_dict())
    network.train()[2].eval()
    assert recalibrate(network, [(x, None) for x in batches()], num_batches=2) == 10
    maps = [network[0](x).detach().double().numpy() for x in batches()[:2]]
    norm = norm_of(network)
    np.testing.assert_allclose(norm.running_mean, np.mean([x.mean((0, 2, 3)) for x in maps], axis=0), rtol=1e-5)
    spread = [x.transpose(1, 0, 2, 3).reshape(4, -1).var(axis=1, ddof=1) for x in maps]
    np.testing.assert_allclose(norm.running_var, np.mean(spread, axis=0), rtol=1e-5)
    assert [module.training for module in network] == [True, True, False, True, True]
    assert norm.momentum == 0.1
    assert all(torch.equal(x, before[name]) for name, x in network.named_parameters())


def test_all_batches_count_and_their_inputs_may_be_chosen(network: nn.Sequential) -> None:
    other = copy.deepcopy(network)
    assert recalibrate(network, batches()) == sum(len(x) for x in batches())
    named = [{"labels": None, "image": x} for x in batches()]
    assert recalibrate(other, named, inputs=lambda batch: batch["image"]) == sum(len(x) for x in batches())
    assert unchanged(other, network.state_dict())
    recalibrate(other, batches(), num_batches=2)
    assert not unchanged(other, network.state_dict())


@pytest.mark.parametrize("num_kept_norms", [None, 16])
def test_a_fused_view_measures_the_same_through_its_narrow_layers(num_kept_norms: int | None) -> None:
    torch.manual_seed(0)
    model = tailcut.create_model("resnet18", num_classes=10, small_input=True)
    tailcut.regularize(model, num_kept=64)
    if num_kept_norms is not None:
        truncate_norms(model, num_kept_norms)  # these run as modules of their own, whose momentum is set meanwhile
    images = list(torch.rand(2, 16, 3, 32, 32))
    plain = copy.deepcopy(model)
    fused = tailcut.fuse(model)
    assert recalibrate(fused, images) == recalibrate(plain, images) == 32
    assert "fused" in {layer.strategy for layer in fused.report().layers}
    for name, value in plain.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), value, rtol=1e-3, atol=1e-5)
    assert model.training


def test_dropout_is_off_while_measuring() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3)).train()
    x = torch.ones(50, 3)
    recalibrate(network, [x])
    assert torch.equal(norm_of(network).running_mean, torch.ones(3))


def test_networks_without_statistics_are_left() -> None:
    assert recalibrate(nn.Sequential(nn.Linear(3, 3)), []) == 0
    assert recalibrate(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), [torch.ones(2, 3)]) == 0


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "gave no batch"),
        ([torch.full((2, 3, 8, 8), float("nan"))], "not finite"),
        (["text"], "must yield tensors"),
    ],
)
def test_bad_batches_leave_the_network_as_it_was(loader: list[Any], message: str, network: nn.Sequential) -> None:
    recalibrate(network, batches())
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ArgumentError, match=message):
        recalibrate(network, loader)
    assert unchanged(network, before)
    assert norm_of(network).momentum == 0.1


def test_a_forward_that_fails_leaves_the_network_as_it_was(network: nn.Sequential) -> None:
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ArgumentError, match=r"Sequential does not run on an input of shape \(2, 5, 8, 8\)"):
        recalibrate(network, [batches()[0], torch.randn(2, 5, 8, 8)])
    assert unchanged(network, before)


class Auxiliary(nn.Module):
    """With a head that runs in training only, as GoogLeNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.norm(self.body(x))
        return (y, self.head(y)) if self.training else y


def test_a_norm_that_does_not_run_keeps_its_statistics() -> None:
    model = Auxiliary()
    for x in batches():
        model(x)
    model.eval()
    trained = copy.deepcopy(model.head.state_dict())
    measured = model.norm.running_mean.clone()  # type: ignore[union-attr]
    assert recalibrate(model, batches(2)) == 10
    assert unchanged(model.head, trained)
    assert not torch.equal(model.norm.running_mean, measured)  # type: ignore[arg-type]
