"""Networks that are looked at stay as they are."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tailcut.channels.scoring.forward import evaluating_eagerly, for_training, inputs_of, layer_maps, undisturbed
from tailcut.errors import ArgumentError
from tailcut.execution import fuse
from tailcut.structure.views import unwrapped
from tailcut.weights import regularize

X = torch.zeros(1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Conv2d(4, 2, 3))


def test_modes_come_back_one_by_one() -> None:
    model = network().train()
    model[1].eval()  # a frozen batch norm
    with evaluating_eagerly(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    with pytest.raises(RuntimeError), evaluating_eagerly(model):
        model(torch.zeros(1, 5, 8, 8))
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]


def test_what_a_network_does_of_its_own_on_a_change_of_mode_is_left_out() -> None:
    class Merging(nn.Sequential):
        def train(self, mode: bool = True) -> "Merging":
            raise AssertionError("such networks change their weights here")

    model = Merging(nn.Conv2d(3, 4, 3), nn.Dropout())
    with evaluating_eagerly(model):
        assert not model.training
        assert not model[1].training
    assert model.training
    assert model[1].training


def test_the_network_inside_is_found() -> None:
    model = network()
    assert unwrapped(model) is model
    assert unwrapped(nn.DataParallel(model)) is model
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    assert unwrapped(compiled) is model
    regularize(model, num_kept=9)
    assert unwrapped(fuse(model.eval())) is model


def test_maps_of_a_layer() -> None:
    model = network().eval()
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(layer_maps(model, x, "0"), model[:3](x))
    assert torch.equal(layer_maps(model.train(), x, "4"), model.eval()(x))
    with pytest.raises(ArgumentError, match="there is no layer 'conv9'"):
        layer_maps(model, x, "conv9")


def test_maps_are_those_of_their_moment() -> None:
    class Later(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.conv(x))
            return y.mul_(0)

    model = Later()
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(layer_maps(model, x, "conv"), torch.relu(model.conv(x)))


def test_a_layer_that_does_not_run_has_no_maps() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ArgumentError, match="layer conv gave no feature map"):
        layer_maps(Unused(), torch.rand(1, 3, 8, 8), "conv")


def test_compiled_parts_run_as_they_were_written() -> None:
    model = network()
    x = torch.rand(2, 3, 8, 8)
    expected = layer_maps(model, x, "0")
    model[0].compile(backend="eager")
    assert torch.equal(layer_maps(model, x, "0"), expected)


def test_inputs_of_loaders() -> None:
    x = torch.rand(2, 3, 8, 8)
    model = network().double()
    for batch in (x, (x, torch.zeros(2)), [x], (x, {"more": 1})):
        (found,) = inputs_of([batch], None, model)
        assert torch.equal(found.args[0], x)
        assert len(found.tensors) == 1
    (found,) = inputs_of(x, None, model)
    assert torch.equal(found.args[0], x)
    (found,) = inputs_of({"x": x}, None, model)
    assert torch.equal(found.kwargs["x"], x)
    assert len(list(inputs_of([x] * 7, 3, model))) == 3
    assert len(list(inputs_of([x] * 7, None, model))) == 7
    assert list(inputs_of([x[:0]], None, model)) == []
    meta = nn.Conv2d(3, 4, 3, device="meta")
    assert next(inputs_of([x], 1, meta)).args[0].is_meta


def test_inputs_of_batches_of_any_form() -> None:
    x, y = torch.rand(2, 3), torch.rand(2, 4)
    (found,) = inputs_of([{"x": x, "y": y}], None, network(), lambda batch: (batch["x"], batch["y"]))
    assert found.args[0] is x
    assert found.args[1] is y
    for batch in ({"x": x, "y": y}, ({"x": x, "y": y}, "targets")):
        (found,) = inputs_of([batch], None, network())
        assert found.kwargs["x"] is x
        assert found.kwargs["y"] is y
        assert found.args == ()
    with pytest.raises(ArgumentError, match=r"inputs must give a tensor, a tuple .*; batch 0 is dict, its inputs str"):
        list(inputs_of([{"x": x}], None, network(), lambda batch: "x"))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("num_batches", [0, -1, 1.5, True])
def test_numbers_of_batches(num_batches: int) -> None:
    with pytest.raises(ArgumentError, match="num_batches must be an integer of at least 1, or None for all"):
        list(inputs_of([torch.rand(1, 3)], num_batches, network()))


def test_no_batch_more_than_asked_for_is_read() -> None:
    batches = iter([torch.rand(1, 3, 8, 8) for _ in range(4)])
    list(inputs_of(batches, 3, network()))
    assert len(list(batches)) == 1


@pytest.mark.parametrize("batch", [{"x": X, "y": 1}, {}, "text", (), ("text", X), torch.tensor(1.0), 5])
def test_other_batches_are_refused(batch: object) -> None:
    with pytest.raises(ArgumentError, match="the loader must yield tensors or dicts of inputs"):
        list(inputs_of([batch], None, network()))


def test_a_batch_on_the_meta_device_is_refused() -> None:
    with pytest.raises(ArgumentError, match="batch 1 of the loader has a tensor on the meta device"):
        list(inputs_of([X, X.to("meta")], None, network()))


def test_inputs_without_a_batch_axis_pass() -> None:
    (found,) = inputs_of([{"x": X, "factor": torch.tensor(2.0)}], None, network())
    assert torch.equal(found.kwargs["factor"], torch.tensor(2.0))
    assert [tuple(x.shape) for x in for_training(found).tensors] == [(2,), ()]


def test_numbers_of_batches_may_be_numpys() -> None:
    assert len(list(inputs_of([torch.rand(1, 3)] * 4, np.int64(2), nn.Linear(3, 3)))) == 2  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="num_batches must be an integer"):
        list(inputs_of([], True, nn.Linear(3, 3)))


def test_random_states_of_python_and_numpy_stay() -> None:
    model = nn.Linear(2, 2)
    states = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    with undisturbed(model):
        random.random()
        np.random.rand(3)
    assert (random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()) == states
