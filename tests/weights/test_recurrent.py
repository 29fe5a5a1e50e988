"""Recurrent layers as coefficients, against dense layers of the same weights."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tailcut
from tailcut.weights import TailTruncation, truncated_tensors

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.LSTM(6, 5),
    lambda: nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True),
    lambda: nn.LSTM(6, 5, proj_size=3, num_layers=2),
    lambda: nn.LSTM(6, 5, bias=False, bidirectional=True, proj_size=2),
    lambda: nn.GRU(6, 5, num_layers=2),
    lambda: nn.GRU(6, 5, bidirectional=True),
    lambda: nn.RNN(6, 5, nonlinearity="relu"),
    lambda: nn.RNN(6, 5, num_layers=3),
]
INPUTS = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))


def outputs(model: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        given, state = model(INPUTS)
    return [given, *(state if isinstance(state, tuple) else (state,))]


def weights_of(dense: nn.Module, number: int) -> None:
    torch.manual_seed(number)
    for parameter in dense.parameters():
        nn.init.uniform_(parameter, -0.4, 0.4)


@pytest.mark.parametrize("number", range(len(LAYERS)))
@pytest.mark.parametrize("training", [False, True])
def test_all_coefficients_give_the_dense_layer(number: int, training: bool) -> None:
    dense = LAYERS[number]().train(training)
    weights_of(dense, number)
    model = copy.deepcopy(dense)
    report = tailcut.regularize(model, include="*")
    assert {tensor.name for tensor in report.tensors} == {name for name, _ in dense.named_parameters()}
    for _ in range(2):
        torch.testing.assert_close(outputs(model), outputs(dense), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", range(len(LAYERS)))
def test_cut_weights_run_train_and_go_on_as_their_dense_copy(number: int, tmp_path: Path) -> None:
    model = LAYERS[number]()
    report = tailcut.regularize(model, keep_ratio=0.4)
    assert {tensor.name.split("_")[0] for tensor in report.tensors} == {"weight"}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        torch.testing.assert_close(outputs(model), outputs(tailcut.to_dense(model)))
        optimizer.zero_grad()
        model(INPUTS)[0].square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    TailTruncation(model, num_kept=5).finish()
    for mode in (True, False):
        model.train(mode)
        expected = outputs(tailcut.to_dense(model))
        torch.testing.assert_close(outputs(model), expected)
        copied = copy.deepcopy(model)
        torch.testing.assert_close(outputs(copied), expected)
    for parameter in copied.parameters():
        parameter.data.mul_(2)
    torch.testing.assert_close(outputs(copied), outputs(tailcut.to_dense(copied)))
    tailcut.save(model, tmp_path / "a.tailcut")
    again = tailcut.load(tmp_path / "a.tailcut", into=LAYERS[number]())
    torch.testing.assert_close(outputs(again), expected)
    again.load_state_dict(copied.state_dict())
    torch.testing.assert_close(outputs(again), outputs(copied))


def test_gradients_are_those_of_the_dense_weights() -> None:
    dense = nn.LSTM(6, 5, num_layers=2, bidirectional=True).double()
    model = copy.deepcopy(dense)
    tailcut.regularize(model)
    inputs = INPUTS.double()
    for each in (dense, model):
        each(inputs)[0].sin().sum().backward()
    for tensor in truncated_tensors(model):
        gradient = dense.get_parameter(tensor.name).grad
        assert gradient is not None
        torch.testing.assert_close(tensor.vector.grad, tensor.truncation.project(gradient))


def test_moves_and_the_way_back_leave_torch_s_list_whole() -> None:
    model = nn.LSTM(6, 5, num_layers=2)
    tailcut.regularize(model, keep_ratio=0.5)
    model.double().float().to("cpu")
    assert "_flat_weights" not in vars(model)
    dense = tailcut.to_dense(model)
    assert type(dense) is nn.LSTM
    ours, listed = dict(dense.named_parameters()), vars(dense)["_flat_weights"]
    assert all(one is ours[name] for one, name in zip(listed, dense._flat_weights_names, strict=True))
    dense.flatten_parameters()
    torch.testing.assert_close(outputs(dense), outputs(model))
    before = outputs(dense)
    with torch.no_grad():
        dense.get_parameter("weight_hh_l1").mul_(3)
    assert not torch.equal(outputs(dense)[0], before[0])


CELLS: list[Callable[[], nn.Module]] = [
    lambda: nn.LSTMCell(6, 5),
    lambda: nn.GRUCell(6, 5),
    lambda: nn.RNNCell(6, 5, bias=False),
]


@pytest.mark.parametrize(("number", "training"), list(itertools.product(range(3), [False, True])))
def test_cells_run_as_their_dense_copy(number: int, training: bool) -> None:
    cell = CELLS[number]().train(training)
    report = tailcut.regularize(cell, keep_ratio=0.5)
    assert [tensor.name for tensor in report.tensors] == ["weight_ih", "weight_hh"]
    dense: Any = tailcut.to_dense(cell)
    torch.testing.assert_close(cell(INPUTS[0]), dense(INPUTS[0]))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 6)
        self.reader = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 4)

    def forward(self, words: Tensor) -> Tensor:
        tags: Tensor = self.head(self.reader(self.words(words))[0])
        return tags


def test_a_network_around_one_is_fused_and_packed(tmp_path: Path) -> None:
    model, words = Tagger(), torch.randint(50, (2, 7))
    tailcut.regularize(model, keep_ratio=0.3)
    model.eval()
    with torch.no_grad():
        expected = tailcut.to_dense(model)(words)
        torch.testing.assert_close(tailcut.fuse(model)(words), expected)
        report = tailcut.save(model, tmp_path / "a.tailcut")
        torch.testing.assert_close(tailcut.load(tmp_path / "a.tailcut", into=Tagger())(words), expected)
    assert report.num_truncated == 50 * 6 + 20 * 6 + 20 * 5 + 4 * 5
