import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.execution.onnx.call import Call
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


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


def sizes(model: nn.Module, *shapes: tuple[int, ...], dynamic: bool = True) -> list[list[bool]]:
    """Which sizes of the inputs are open."""
    program = trace(model, Call(model, [torch.ones(shape) for shape in shapes], {}), opset=18, dynamic=dynamic)
    assert program.opset_imports[""] == 18
    named = [[str(getattr(size, "value", size)) for size in value.shape or ()] for value in program.graph.inputs]
    return [[not size.isdigit() for size in shape] for shape in named]


def traced(model: nn.Module) -> ir.Model:
    return trace(model, Call(model, [torch.ones(2, 5)], {}), opset=18, dynamic=True)


def test_open_sizes_are_those_that_the_network_takes() -> None:
    assert sizes(Coupled(), (2, 3, 4), (2, 5)) == [[True, False, False], [True, True]]


def test_sizes_that_vary_together_are_open() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x @ mask

    assert sizes(Masked(), (2, 3, 5), (2, 5, 5)) == [[True, True, True], [True, True, True]]


def test_a_network_is_traced_once() -> None:
    """With the channels, which are fixed, left open at first, tracing took place twice."""
    calls = []

    class Counted(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(torch.compiler.is_exporting())
            return super().forward(x)

    assert sizes(Counted(3, 4, 3), (2, 3, 8, 9)) == [[True, False, True, True]]
    assert sum(calls) == 1


def test_the_stages_are_told() -> None:
    told: list[str] = []
    model = nn.Linear(5, 5)
    trace(model, Call(model, [torch.ones(2, 5)], {}), opset=18, dynamic=True, tell=told.append)
    assert told == ["running the example", "finding the sizes that may vary", "tracing", "converting"]


def test_a_batch_of_one_is_open_all_the_same() -> None:
    assert sizes(nn.Conv1d(3, 2, 2), (1, 3, 7)) == [[True, False, True]]


def test_no_size_is_open_when_not_wanted() -> None:
    assert sizes(Coupled(), (1, 3, 4), (1, 5), dynamic=False) == [[False] * 3, [False] * 2]


def test_an_example_that_does_not_fit_is_told_with_its_shape() -> None:
    with pytest.raises(ArgumentError, match=r"example of shape \(2, 5\): RuntimeError: .*mat1 and mat2"):
        traced(nn.Linear(3, 2))


def test_a_network_that_cannot_be_traced_is_told_with_the_reason() -> None:
    with pytest.raises(StructureError, match=r"Branching cannot be exported: .*torch.export must be able to trace"):
        traced(Branching())


def test_an_operation_without_a_form_in_onnx_is_named() -> None:
    class Bessel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = torch.special.bessel_j0(x)
            return result

    with pytest.raises(StructureError, match=r"Bessel cannot be exported: DispatchError: No ONNX function .*bessel_j0"):
        traced(Bessel())
