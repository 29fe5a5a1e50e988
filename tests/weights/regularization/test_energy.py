"""The energy that a cut takes, and the weights that count as trained."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.fft
import torch
from torch import nn

import tailcut
from tailcut.data import open_dataset
from tailcut.errors import EnergyWarning
from tailcut.weights.regularization.energy import (
    Loss,
    energy,
    looks_trained,
    lost_of_trained,
    part_lost,
    percent,
    total_lost,
    worth_a_warning,
)


def smooth(*shape: int) -> torch.Tensor:
    """A weight with something learned in it: rows of sizes of their own."""
    torch.manual_seed(0)
    return torch.randn(shape) * torch.linspace(0.1, 3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))


def trained_net() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[0].weight.copy_(smooth(16, 3, 3, 3))  # type: ignore[operator]
        model[3].weight.copy_(smooth(10, 64))  # type: ignore[operator]
    return model


def test_what_is_lost_is_what_scipy_finds_in_the_tail() -> None:
    model = trained_net()
    weight = model[3].weight.detach().double().numpy()  # type: ignore[operator]
    spectrum = scipy.fft.dctn(weight, norm="ortho")
    index = sorted(np.ndindex(spectrum.shape), key=lambda place: (sum(place), place))
    lost = sum(spectrum[place] ** 2 for place in index[128:]) / (spectrum**2).sum()
    report = tailcut.regularize(model, num_kept=128, include="3.weight", warn=False)
    assert report.tensors[0].energy_lost == pytest.approx(lost, abs=1e-6)
    assert report.energy_lost == report.tensors[0].energy_lost
    assert report.energy_lost_of_trained == report.energy_lost
    assert f"{100 * lost:.1f} %" in str(report)


def test_a_cut_of_trained_weights_warns_and_tells_how_much() -> None:
    with pytest.warns(EnergyWarning, match=r"% of the energy of its trained weights .*TailTruncation") as caught:
        report = tailcut.regularize(trained_net(), keep_ratio=0.5)
    assert caught[0].filename == __file__
    assert report.energy_lost is not None
    assert report.energy_lost > 0.1
    assert "energy lost" in str(report)


def test_without_a_loss_or_with_it_known_nothing_is_warned_of() -> None:
    report = tailcut.regularize(trained_net())
    assert (report.energy_lost, report.energy_lost_of_trained) == (0, None)
    assert "energy" not in str(report)
    tailcut.regularize(trained_net(), keep_ratio=0.5, warn=False)


@pytest.mark.parametrize("name", ["lenet300", "lenet5", "resnet20", "vit", "unet", "densenet40", "dcgan_generator"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fresh_network_is_cut_in_silence(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = tailcut.regularize(tailcut.create_model(name), keep_ratio=0.1)
    assert report.energy_lost_of_trained is None
    assert report.energy_lost is not None
    assert 0.8 < report.energy_lost < 0.99  # white: as much as is cut


INITIALIZATIONS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    nn.init.xavier_normal_,
    nn.init.kaiming_uniform_,
    lambda weight: nn.init.trunc_normal_(weight, std=0.02),
    nn.init.orthogonal_,
    nn.init.eye_,
    nn.init.zeros_,
    lambda weight: nn.init.constant_(weight, 1e-6),
    lambda weight: nn.init.sparse_(weight, 0.9),
]


@pytest.mark.parametrize("number", range(len(INITIALIZATIONS)))
@pytest.mark.parametrize("shape", [(10, 84), (300, 784), (1, 30), (512, 64)])
def test_initialisations_do_not_look_trained(number: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(number)
    assert not looks_trained(INITIALIZATIONS[number](torch.empty(shape)))


def test_a_few_steps_of_training_show() -> None:
    digits = open_dataset("digits", "train")
    images, labels = digits.batch(range(len(digits)))
    torch.manual_seed(0)
    model = tailcut.create_model("lenet300")
    optimizer = torch.optim.Adam(model.parameters())
    for batch in torch.randperm(len(labels)).split(64)[:20]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    assert any(looks_trained(parameter) for parameter in model.parameters())


def test_networks_of_the_zoo_look_trained() -> None:
    dense = tailcut.to_dense(tailcut.load("zoo:lenet300-ref"))
    assert any(looks_trained(parameter) for parameter in dense.parameters())


def test_what_cannot_be_measured_is_told_as_unknown() -> None:
    with torch.device("meta"):
        report = tailcut.regularize(nn.Linear(8, 8), keep_ratio=0.5)
    assert report.energy_lost is None
    assert report.to_dict()["tensors"][0]["energy_lost"] is None
    assert math.isnan(energy(torch.empty(3, device="meta")))
    assert part_lost(math.inf, 1.0) is None
    assert part_lost(0.0, 0.0) == 0
    assert not looks_trained(torch.full((4, 4), math.nan))


def test_only_trained_weights_count() -> None:
    fresh, trained = Loss("a", 10.0, 1.0, is_trained=False), Loss("b", 10.0, 9.95, is_trained=True)
    assert lost_of_trained([fresh]) is None
    assert not worth_a_warning(lost_of_trained([fresh, trained]))
    assert worth_a_warning(lost_of_trained([fresh, Loss("b", 10.0, 9.8, is_trained=True)]))
    assert total_lost([fresh, trained]) == pytest.approx(1 - 10.95 / 20)
    assert percent(0.5) == "50.0 %"


@pytest.mark.parametrize("name", ["zoo:lenet5-ref", "zoo:lenet5-7668"])
def test_a_small_layer_of_a_trained_network_is_trained(name: str) -> None:
    model = tailcut.to_dense(tailcut.load(name))
    with pytest.warns(EnergyWarning, match=r"the energy of its trained weights"):
        report = tailcut.regularize(model, num_kept={"conv1.weight": 60})
    assert report.energy_lost_of_trained == report.energy_lost


def test_a_small_layer_of_a_fresh_network_is_not() -> None:
    torch.manual_seed(0)
    report = tailcut.regularize(tailcut.create_model("lenet5"), num_kept={"conv1.weight": 60})
    assert report.energy_lost_of_trained is None
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 9), nn.Linear(9, 9))
    assert tailcut.regularize(model, num_kept=9).energy_lost_of_trained is None
