"""Operations that torch's exporter writes wrongly, against PyTorch's numbers, shapes included, in ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

import tailcut
from tailcut.execution.onnx.inlining import inserted, traced
from tailcut.execution.onnx.rewriting import rewrite, squeezes_open_sizes

pytestmark = pytest.mark.filterwarnings("ignore")


class Rows(nn.Module):
    """A layer, what a case does with its rows (batch, 4), and numbers as large as asked for."""

    def __init__(self, body: Callable[[Tensor], Tensor], scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.body, self.scale = nn.Linear(6, 4), body, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.scale * self.layer(x))


def squeezed_in_place(x: Tensor) -> Tensor:
    y = x[:, :1] * 2
    y.squeeze_(1)
    return y + 1


SQUEEZES = {
    "an axis of several": Rows(lambda x: x.squeeze(-1) * 2),
    "several at the end": Rows(lambda x: x.squeeze(1)),
    "two axes, of which one is several": Rows(lambda x: x[:, None].squeeze((1, 2)) * 2),
    "a real one": Rows(lambda x: x[:, None, :, None].squeeze(-1).squeeze(1)),
    "behind a maximum": Rows(lambda x: x.max(1, keepdim=True)[0].squeeze(-1)),
    "in place": Rows(squeezed_in_place),
    "by name": Rows(lambda x: x.unsqueeze(1).squeeze(dim=1)),
}
OF_BATCHES = {
    "the batch": Rows(lambda x: x.squeeze(0) * 2),
    "all axes": Rows(lambda x: x[:, :1].squeeze()),
    "the batch and another": Rows(lambda x: x.squeeze((0, 1)) * 2),
}
STABLE = {
    "log-sigmoid": Rows(logsigmoid, 1000.0),
    "sum of powers": Rows(lambda x: torch.logaddexp(x, x.flip(1)), 1000.0),
    "running sum of powers": Rows(lambda x: x.logcumsumexp(1), 10000.0),
    "running sum along another axis": Rows(lambda x: x.view(-1, 2, 2).logcumsumexp(-2), 100.0),
}


def exported(network: nn.Module, path: Path, batch: int, *, dynamic: bool = True) -> onnxruntime.InferenceSession:
    tailcut.export_onnx(network.eval(), path, example_input=torch.randn(batch, 6), dynamic=dynamic)
    return onnxruntime.InferenceSession(path)


def check(session: onnxruntime.InferenceSession, network: nn.Module, batches: tuple[int, ...]) -> None:
    for batch in batches:
        x = torch.randn(batch, 6)
        with torch.no_grad():
            wanted = network(x).numpy()
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", [*SQUEEZES, *STABLE])
def test_the_numbers_are_those_of_pytorch(name: str, batch: int, tmp_path: Path) -> None:
    network = {**SQUEEZES, **STABLE}[name]
    check(exported(network, tmp_path / "a.onnx", batch), network, (1, 2, 3))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", OF_BATCHES)
def test_a_batch_that_may_vanish_has_the_rank_of_the_example(name: str, batch: int, tmp_path: Path) -> None:
    network = OF_BATCHES[name]
    check(exported(network, tmp_path / "fixed.onnx", batch, dynamic=False), network, (batch,))
    session = exported(network, tmp_path / "open.onnx", batch)
    assert session.get_inputs()[0].shape == ([1, 6] if batch == 1 else ["batch", 6])
    check(session, network, (1,) if batch == 1 else (2, 3))


def test_what_is_left_are_squeezes_of_axes_of_one() -> None:
    network = Rows(lambda x: x[:, None].squeeze().squeeze(-1))
    open_batch = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(network, (torch.randn(2, 6),), dynamic_shapes=open_batch, strict=False)
    assert squeezes_open_sizes(program)
    rewrite(program)
    assert not squeezes_open_sizes(program)
    squeezes = [node.args[1] for node in program.graph.nodes if "squeeze" in str(node.target) and "un" not in node.name]
    assert squeezes == [[1]]
    x = torch.randn(3, 6)
    torch.testing.assert_close(program.module(check_guards=False)(x), network(x))


def test_views_that_change_nothing_are_no_operations() -> None:
    program = torch.export.export(Rows(lambda x: x.relu()), (torch.randn(2, 6),), strict=False)
    relu = next(node for node in program.graph.nodes if node.name == "relu")
    graph, inputs = traced(relu, torch.ops.aten.alias.default, {})
    assert [node.op for node in graph.nodes] == ["placeholder", "call_function", "output"]
    assert inserted(graph, program.graph, inputs) is inputs[0]
