"""Places of views beside the tensors that torch makes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from tailcut.export_c.lowering.heads.views import Views, is_same, is_view

SHAPE = (1, 6, 8)


class Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def traced(function: Callable[[Tensor], Tensor]) -> tuple[fx.Node, fx.Node]:
    """The input's node, and that of the output."""
    graph = torch.export.export(Of(function), (torch.rand(SHAPE),)).graph
    outputs: Any = next(node for node in graph.nodes if node.op == "output").args[0]
    return next(iter(graph.nodes)), outputs[0]


@pytest.mark.parametrize(
    ("function", "factor"),
    [
        (lambda x: x.view(1, 6, 2, 4).transpose(1, 2).mT, 1.0),
        (lambda x: x.reshape(1, 6, 2, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)[1], 1.0),
        (lambda x: x.chunk(2, -1)[1].unsqueeze(1).expand(-1, 3, -1, -1).contiguous(), 1.0),
        (lambda x: (x[:, 2:, ::2] * 0.5).squeeze(0).movedim(0, 1) / 4, 0.125),
        (lambda x: 3 * nn.functional.dropout(x, 0.5, training=False).split(3, 2)[2].mT.flatten(1), 3.0),
    ],
)
def test_places_are_those_of_the_numbers(function: Callable[[Tensor], Tensor], factor: float) -> None:
    first, last = traced(function)
    view = Views({}).of(last)
    assert view.base is first
    assert view.factor == pytest.approx(factor)
    x = torch.rand(SHAPE)
    torch.testing.assert_close(x.flatten()[view.places] * view.factor, function(x))
    assert not view.is_in_order


def test_what_is_no_view_is_its_own() -> None:
    _, last = traced(lambda x: x.relu() * x)
    view = Views({}).of(last)
    assert view.base is last
    assert view.is_in_order
    assert not is_view(last)
    first, last = traced(lambda x: x.mT.contiguous())
    assert is_same(last)
    assert is_view(last)
    assert Views({}).of(last).base is first
    assert not is_same(traced(lambda x: nn.functional.dropout(x, 0.5, training=True))[1])


def test_a_number_may_be_computed() -> None:
    first, last = traced(lambda x: x * 2)
    views = Views({first.name: torch.tensor([3.0]), last.name: torch.rand(2)})
    assert views.number(first) == 3
    assert views.number(last) is None
    assert views.number(2) == 2
