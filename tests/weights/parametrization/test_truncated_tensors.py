import numpy as np
import pytest
import torch
from scipy.fft import idctn
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.execution import fuse
from tailcut.weights import (
    TailTruncation,
    kept_counts,
    regularize,
    truncated_tensors,
    truncation_of,
)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5)))
    regularize(network, num_kept={"0.weight": 30, "1.0.weight": 12}, overrides={"0.weight": {"axes": (1, 2, 3)}})
    return network


def test_counts_by_name_in_module_order(model: nn.Module) -> None:
    assert kept_counts(model) == {"0.weight": 30, "1.0.weight": 12}
    assert list(kept_counts(model)) == ["0.weight", "1.0.weight"]
    assert kept_counts(nn.Linear(2, 2)) == {}


def test_a_fused_view_has_the_tensors_of_its_network(model: nn.Module) -> None:
    fused = fuse(model)
    assert kept_counts(fused) == kept_counts(model) == {"0.weight": 30, "1.0.weight": 12}
    assert truncated_tensors(fused) == truncated_tensors(model)
    assert truncation_of(fused, "1.0.weight").vector is truncation_of(model, "1.0.weight").vector


def test_looking_changes_nothing(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for tensor in truncated_tensors(model):
        tensor.bases(), tensor.corner(), tensor.coefficients()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("name", ["0.weight", "1.0.weight"])
def test_corner_and_bases_give_the_weight(model: nn.Module, name: str, cut: bool) -> None:
    if cut:
        TailTruncation(model, num_kept=9, gamma=1.0).step()
    tensor = truncation_of(model, name)
    letters = "abcd"[: len(tensor.shape)]
    weight = tensor.corner()
    assert weight.shape == tensor.truncation.corner_shape
    for axis, basis in enumerate(tensor.bases()):
        assert (basis is None) == (axis not in tensor.axes)
        if basis is not None:
            assert basis.shape == (tensor.truncation.corner_shape[axis], tensor.shape[axis])
            weight = torch.einsum(f"{letters},{letters[axis]}z->{letters.replace(letters[axis], 'z')}", weight, basis)
    module, _, attribute = name.rpartition(".")
    torch.testing.assert_close(weight, getattr(model.get_submodule(module), attribute), rtol=0, atol=1e-6)
    padded = np.zeros(tensor.shape)
    padded[tuple(slice(size) for size in tensor.corner().shape)] = tensor.corner().detach().double().numpy()
    expected = idctn(padded, axes=tensor.axes, norm="ortho")
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=1e-6)


def test_coefficients_are_those_that_count(model: nn.Module) -> None:
    TailTruncation(model, num_kept=9, gamma=1.0).step()
    tensor = truncation_of(model, "0.weight")
    assert len(tensor.vector) == 30
    assert tensor.num_kept == 9
    assert torch.equal(tensor.coefficients(), tensor.vector[:9])
    tensor.coefficients().sum().backward()
    assert tensor.vector.grad is not None
    assert torch.equal(tensor.vector.grad, torch.cat([torch.ones(9), torch.zeros(21)]))


def test_coefficients_are_rounded_as_the_forward_rounds_them() -> None:
    layer = nn.Linear(8, 5)
    regularize(layer, num_kept=12, precision="float16")
    tensor = truncation_of(layer, "weight")
    assert torch.equal(tensor.coefficients(), tensor.vector.half().float())
    assert not torch.equal(tensor.coefficients(), tensor.vector)


def test_by_layer_or_by_dotted_name(model: nn.Module) -> None:
    layer = model.get_submodule("1.0")
    assert truncation_of(layer, "weight").truncation is truncation_of(model, "1.0.weight").truncation
    assert truncation_of(model, "1.0.weight").shape == (5, 8)


def test_tied_names_lead_to_the_same_tensor() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    model["b"].weight = model["a"].weight
    regularize(model, num_kept=5)
    assert truncation_of(model, "a.weight") == truncation_of(model, "b.weight")
    assert truncation_of(model, "b.weight").aliases == ("b.weight",)


@pytest.mark.parametrize("name", ["0.bias", "weight", "1.1.weight", "", "0.parametrizations.weight.original"])
def test_unknown_names(model: nn.Module, name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"no regularised parameter '{name}' here; regularised: 0\.weight, 1\.0\."):
        truncation_of(model, name)


def test_a_plain_network_has_none() -> None:
    with pytest.raises(ArgumentError, match="no regularised parameter 'weight' here; regularised: none"):
        truncation_of(nn.Linear(2, 2), "weight")
    assert truncated_tensors(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))) == []
