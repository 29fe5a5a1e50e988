import pytest
import torch
from torch import nn

from tailcut.errors import StructureError
from tailcut.format.network.tensors import network_tensors
from tailcut.format.network.verification import check_same_network


def network(**changes: object) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten()
    )
    for name, value in changes.items():
        place, _, attribute = name.partition("_")
        setattr(model[int(place[1:])], attribute, value)
    return model


def compare(expected: nn.Module, found: nn.Module) -> None:
    check_same_network(expected, network_tensors(expected, []), found, network_tensors(found, []))


def test_the_same_network_passes_even_from_the_meta_device() -> None:
    with torch.device("meta"):
        expected = network()
    compare(expected, network())


@pytest.mark.parametrize("change", [{"m1_momentum": 0.5}, {"m4_p": 0.1}, {"m2_inplace": True}, {"m0_training": False}])
def test_settings_of_training_are_free(change: dict[str, object]) -> None:
    compare(network(), network(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m0_padding": (0, 0)}, r"^0 has padding=\(0, 0\) instead of \(1, 1\)"),
        ({"m0_groups": 2}, "^0 has groups=2 instead of 1"),
        ({"m1_eps": 0.1}, "^1 has eps=0.1 instead of 1e-05"),
        ({"m1_track_running_stats": False}, "^1 has track_running_stats=False"),
        ({"m3_kernel_size": 3}, "^3 has kernel_size=3 instead of 2"),
    ],
)
def test_settings_that_change_the_output_are_compared(change: dict[str, object], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        compare(network(), network(**change))


def test_kinds_of_layers_are_compared() -> None:
    other = nn.Sequential(*network().children())
    other[2] = nn.Tanh()
    with pytest.raises(StructureError, match=r"^2 is a Tanh instead of a ReLU"):
        compare(network(), other)
    with pytest.raises(StructureError, match=r"^the network is a ModuleList instead of a Sequential"):
        compare(network(), nn.ModuleList(network().children()))
    with pytest.raises(StructureError, match=r"^module 6 is new"):
        compare(network(), nn.Sequential(*network().children(), nn.ReLU()))
    with pytest.raises(StructureError, match=r"^module 5 is missing"):
        compare(network(), nn.Sequential(*list(network().children())[:5]))


def test_tensors_are_compared_first() -> None:
    other = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), *list(network().children())[1:])
    with pytest.raises(StructureError, match=r"^0\.weight has shape \(5, 2, 3, 3\) instead of \(4, 2, 3, 3\)"):
        compare(network(), other)
    swapped = nn.Module()
    swapped.a, swapped.b = nn.Linear(1, 1), nn.Linear(1, 1)
    again = nn.Module()
    again.b, again.a = nn.Linear(1, 1), nn.Linear(1, 1)
    with pytest.raises(StructureError, match="another order"):
        compare(swapped, again)
