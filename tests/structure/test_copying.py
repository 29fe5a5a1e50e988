import copy
from typing import Any

import pytest
import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.structure import computed_attributes, deepcopied


def test_computed_attributes_are_what_a_deepcopy_refuses() -> None:
    layer = nn.Linear(3, 2)
    vars(layer).update(constant=torch.ones(2), computed=layer.weight * 2)
    network = nn.Sequential(nn.Linear(2, 3), layer)
    (found,) = computed_attributes(network)
    assert found is vars(layer)["computed"]
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(network)
    copied = copy.deepcopy(network, {id(found): found.detach().clone()})
    assert torch.equal(vars(copied[1])["computed"], found)


def test_features_that_a_forward_keeps_are_copied_wherever_they_lie() -> None:
    layer = nn.Linear(3, 2)
    features = layer.weight * 2
    kept: dict[str, Any] = {"last": features, "all": [(features * 2, "a name")]}
    kept["self"] = kept
    vars(layer).update(store=kept, constant={"one": torch.ones(2)})
    assert [id(x) for x in computed_attributes(layer)] != []
    assert {id(x) for x in computed_attributes(layer)} == {id(features), id(kept["all"][0][0])}
    copied = vars(deepcopied(layer))["store"]
    assert torch.equal(copied["all"][0][0], features * 2)
    assert copied["last"] is not features
    assert copied["self"] is copied


def test_copies_share_nothing_and_keep_what_is_computed() -> None:
    layer = nn.Linear(3, 2)
    vars(layer).update(computed=layer.weight * 2)
    copied = deepcopied(layer)
    assert torch.equal(vars(copied)["computed"], vars(layer)["computed"])
    with torch.no_grad():
        copied.get_parameter("weight").zero_()
    assert bool(layer.weight.detach().any())


class StartsInTraining(nn.Linear):
    """Its copies are made anew, as those of torchvision's feature extractors."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "StartsInTraining":
        made = StartsInTraining(self.in_features, self.out_features)
        made.load_state_dict(self.state_dict())
        return made


def test_copies_are_in_the_mode_of_their_network() -> None:
    network = nn.Sequential(nn.Linear(3, 3), StartsInTraining(3, 3).eval())
    copied = deepcopied(network)
    assert [module.training for module in copied.modules()] == [True, True, False]
    assert not deepcopied(StartsInTraining(3, 3).eval()).training
    assert deepcopied(StartsInTraining(3, 3)).training


def test_what_cannot_be_copied_is_said() -> None:
    class Alone(nn.Linear):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise TypeError("there is one only")

    with pytest.raises(ArgumentError, match="the network cannot be copied, so it stays: there is one only"):
        deepcopied(Alone(2, 2), so_that=", so it stays")
