"""Inputs of recurrent weights, against the layers written out step by step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

import tailcut
from tailcut.compression.layer_inputs.multiplications import multiplications
from tailcut.compression.layer_inputs.recurrent_inputs import is_recurrent, multiplied_weights, recurrent_inputs
from tailcut.compression.layer_inputs.weight_inputs import listening_before
from tailcut.compression.sensitivity.moments import input_blocks
from tailcut.model_inputs import ModelInputs

LAYERS: dict[str, Callable[[], Any]] = {
    "rnn": lambda: nn.RNN(3, 5, 2, batch_first=True),
    "relu": lambda: nn.RNN(3, 5, nonlinearity="relu", bias=False),
    "lstm": lambda: nn.LSTM(3, 5, 2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(3, 5, 2, proj_size=4, bidirectional=True),
    "gru": lambda: nn.GRU(3, 5, 3, dropout=0.5),
}


def written(layer: Any, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of a GRU of one layer by its equations, (time, batch, features), and what it remembered before each."""
    outputs, remembered = [], []
    for step in x:
        remembered.append(state)
        inside = functional.linear(step, layer.weight_ih_l0, layer.bias_ih_l0).chunk(3, -1)
        before = functional.linear(state, layer.weight_hh_l0, layer.bias_hh_l0).chunk(3, -1)
        reset, update = (torch.sigmoid(inside[place] + before[place]) for place in range(2))
        new = torch.tanh(inside[2] + reset * before[2])
        state = (1 - update) * new + update * state
        outputs.append(state)
    return torch.stack(outputs), torch.stack(remembered)


def test_what_a_layer_remembers_is_what_it_gave_before() -> None:
    torch.manual_seed(0)
    layer, x, state = nn.GRU(3, 5).eval(), torch.randn(7, 2, 3), torch.randn(1, 2, 5)
    with torch.no_grad():
        outputs, remembered = written(layer, x, state[0])
        found = dict(recurrent_inputs(layer, (x, state)))
    assert sorted(found) == ["weight_hh_l0", "weight_ih_l0"]
    assert found["weight_ih_l0"] is x
    torch.testing.assert_close(found["weight_hh_l0"], outputs)
    torch.testing.assert_close(found["weight_hh_l0"][:-1], remembered[1:])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("packed", [False, True])
def test_layers_in_between_see_what_those_before_give(name: str, *, packed: bool) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    x: Any = torch.randn(4, 4, 3)
    if packed:
        x = pack_padded_sequence(x, torch.tensor([4, 3, 2, 2]), batch_first=layer.batch_first)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        found = dict(recurrent_inputs(layer, (x,)))
        outputs = layer(x)[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    last = [found[f"weight_hh_l{layer.num_layers - 1}{end}"] for end in ("", "_reverse")[: 1 + layer.bidirectional]]
    torch.testing.assert_close(torch.cat(last, -1), outputs.data if packed else outputs)
    assert {own: weight.shape[1] for own, weight in multiplied_weights(layer)} == {
        own: numbers.shape[-1] for own, numbers in found.items()
    }


def test_first_states_are_those_of_the_layer() -> None:
    torch.manual_seed(0)
    layer, x = nn.LSTM(3, 5, 2, bidirectional=True).eval(), torch.randn(6, 2, 3)
    state = (torch.randn(4, 2, 5), torch.randn(4, 2, 5))
    with torch.no_grad():
        found = dict(recurrent_inputs(layer, (x, state)))
        expected = layer(x, state)[0]
    torch.testing.assert_close(torch.cat([found["weight_hh_l1"], found["weight_hh_l1_reverse"]], -1), expected)


def test_cells_are_given_what_they_remember() -> None:
    x, h, c = torch.randn(2, 3), torch.randn(2, 5), torch.randn(2, 5)
    assert [name for name, _ in recurrent_inputs(nn.GRUCell(3, 5), (x,))] == ["weight_ih"]
    found = dict(recurrent_inputs(nn.LSTMCell(3, 5), (x, (h, c))))
    assert found["weight_ih"] is x
    assert found["weight_hh"] is h
    assert dict(recurrent_inputs(nn.RNNCell(3, 5), (x, h)))["weight_hh"] is h


def test_a_forward_of_its_own_is_left_alone() -> None:
    class Own(nn.GRU):
        def forward(self, *args: Any) -> Any:
            return super().forward(*args)

    assert is_recurrent(nn.GRU(1, 1))
    assert is_recurrent(nn.LSTMCell(1, 1))
    assert not is_recurrent(Own(1, 1))
    assert not is_recurrent(nn.Linear(1, 1))


class Spoken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.memory(x)[0][:, -1])
        return y


def test_the_other_weights_of_a_layer_that_is_truncated_in_part() -> None:
    torch.manual_seed(0)
    model, x = Spoken().eval(), torch.randn(5, 9, 6)
    tailcut.regularize(model, num_kept=20, include="memory.weight_hh_l0")
    with torch.no_grad():
        found, outputs = dict(recurrent_inputs(model.memory, (x,))), model.memory(x)[0]
    torch.testing.assert_close(found["weight_hh_l0"], outputs)
    (block,) = input_blocks(model, [ModelInputs((x,))], {"memory.weight_ih_l0"}, torch.Generator())
    assert block.names == ("memory.weight_ih_l0",)


def test_no_norm_takes_the_means_of_errors_within_a_recurrent_layer() -> None:
    torch.manual_seed(0)
    model, x = Spoken().eval(), torch.randn(200, 9, 6) + 3
    batches, wanted = [ModelInputs((x,))], {"memory.weight_ih_l0"}
    alone, beside = (
        next(input_blocks(network, batches, wanted, torch.Generator().manual_seed(0))).curvature
        for network in (model, Normed(model))
    )
    assert float(alone.min()) > 9  # the squares of the means
    assert torch.equal(alone, beside)


class Normed(nn.Module):
    def __init__(self, model: Spoken) -> None:
        super().__init__()
        self.memory, self.head, self.norm = model.memory, model.head, nn.BatchNorm1d(3).eval()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.head(self.memory(x)[0][:, -1]))
        return y


def test_blocks_of_recurrent_weights() -> None:
    torch.manual_seed(0)
    model, x = Spoken().eval(), torch.randn(5, 9, 6)
    assert list(multiplications(model)) == ["memory.weight_ih_l0", "memory.weight_hh_l0", "head.weight"]
    blocks = input_blocks(model, [ModelInputs((x,))], {"memory.weight_hh_l0", "head.weight"}, torch.Generator())
    found = {block.names[0]: block for block in blocks}
    assert {name: len(block.curvature) for name, block in found.items()} == {"memory.weight_hh_l0": 8, "head.weight": 8}
    seen: list[str] = []
    with listening_before(model, {"memory.weight_hh_l0"}, lambda name, _: seen.append(name)), torch.no_grad():
        model(x)
        model.memory(x[:0])
    assert seen == ["memory.weight_hh_l0"]
    assert not model.memory._forward_pre_hooks
