from pathlib import Path
from typing import Literal

import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.execution.onnx.call import Call
from tailcut.execution.onnx.export import export_onnx
from tailcut.execution.onnx.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore")


class Coupled(nn.Module):
    """Its input must have 12 values in each image; the tracer does not see that either size alone is fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        sums: Tensor = self.fc(x.flatten(1)) + y.mean(1, keepdim=True)
        return sums


Dynamic = bool | Literal["batch"]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


def sizes(model: nn.Module, *shapes: tuple[int, ...], dynamic: Dynamic = True) -> list[list[bool]]:
    """Which sizes of the inputs are open."""
    program = trace(model, Call(model, [torch.ones(shape) for shape in shapes], {}), opset=18, dynamic=dynamic)
    assert program.opset_imports[""] == 18
    named = [[str(getattr(size, "value", size)) for size in value.shape or ()] for value in program.graph.inputs]
    return [[not size.isdigit() for size in shape] for shape in named]


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x @ mask


@pytest.mark.parametrize(
    ("model", "shapes", "dynamic", "expected"),
    [
        (Coupled(), [(2, 3, 4), (2, 5)], True, [[True, False, False], [True, True]]),
        (Coupled(), [(2, 3, 4), (2, 5)], "batch", [[True, False, False], [True, False]]),
        (nn.Conv1d(3, 2, 2), [(1, 3, 7)], "batch", [[True, False, False]]),
        (Coupled(), [(1, 3, 4), (1, 5)], False, [[False] * 3, [False] * 2]),
        (Masked(), [(2, 3, 5), (2, 5, 5)], True, [[True] * 3] * 2),  # sizes that vary together
        (nn.Conv1d(3, 2, 2), [(1, 3, 7)], True, [[True, False, True]]),  # a batch of one is open all the same
    ],
)
def test_open_sizes_are_those_that_the_network_takes(
    model: nn.Module, shapes: list[tuple[int, ...]], dynamic: Dynamic, expected: list[list[bool]]
) -> None:
    assert sizes(model, *shapes, dynamic=dynamic) == expected


def test_a_network_is_traced_once() -> None:
    """With the channels, which are fixed, left open at first, tracing took place twice."""
    calls = []

    class Counted(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(torch.compiler.is_exporting())
            return super().forward(x)

    assert sizes(Counted(3, 4, 3), (2, 3, 8, 9)) == [[True, False, True, True]]
    assert sum(calls) == 1


def test_the_stages_are_reported() -> None:
    told: list[str] = []
    model = nn.Linear(5, 5)
    trace(model, Call(model, [torch.ones(2, 5)], {}), opset=18, dynamic=True, tell=told.append)
    assert told == ["running the example", "finding the sizes that may vary", "tracing", "converting"]


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.special.bessel_j0(x)
        return result


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Linear(3, 2), ArgumentError, r"example of shape \(2, 5\): RuntimeError: .*mat1 and mat2"),
        (Branching(), StructureError, r"Branching cannot be exported: .*torch.export must be able to trace"),
        (
            Bessel(),
            StructureError,
            r"Bessel cannot be exported: DispatchError: No ONNX function .*bessel_j0.*\(torch's exporter to",
        ),
    ],
)
def test_what_cannot_be_traced_is_told_with_the_reason(model: nn.Module, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trace(model, Call(model, [torch.ones(2, 5)], {}), opset=18, dynamic=True)


class Windowed(nn.Module):
    """Its window becomes as small as the smallest map that it has seen, as in Swin of `transformers`."""

    window = 4

    def forward(self, x: Tensor) -> Tensor:
        self.window = min(self.window, x.shape[-1])
        return x[..., : self.window].sum(-1)


def test_trials_of_other_sizes_leave_no_trace_in_the_program() -> None:
    x = torch.randn(2, 3, 6)
    network = Windowed().eval()
    program = trace(network, Call(network, (x,), {}), opset=20, dynamic=True)
    assert network.window == 4
    runs = onnxruntime.InferenceSession(ir.to_proto(program).SerializeToString())
    torch.testing.assert_close(torch.from_numpy(runs.run(None, {"x": x.numpy()})[0]), x[..., :4].sum(-1))


class TwoImages(nn.Module):
    """What a batch of one of either input would be broadcast to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.layer(a), self.layer(b)
        return torch.cat([a * b, a], 1)


class Conditioned(nn.Module):
    """Steps of a sequence, and a class for each of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.classes = nn.Linear(5, 6), nn.Embedding(7, 6)

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        x = self.layer(x)
        return torch.cat([x * self.classes(number)[:, None], x], -1)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_the_batch_of_two_inputs_is_open_whatever_that_of_the_example(batch: int, tmp_path: Path) -> None:
    x = torch.rand(batch, 3, 8, 9)
    report = export_onnx(TwoImages(), tmp_path / "a.onnx", example_input=(x, x), dynamic="batch")
    assert report.inputs == {"a": ("batch", 3, 8, 9), "b": ("batch", 3, 8, 9)}
    example = torch.rand(batch, 9, 5), torch.zeros(batch, dtype=torch.long)
    assert export_onnx(Conditioned(), tmp_path / "b.onnx", example_input=example).inputs["number"] == ("batch",)
