"""From a softmax back to the scores that torch computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import computed, op_name
from tailcut.export_c.lowering.heads.scores import Scores, softmax_of
from tailcut.export_c.lowering.heads.views import Views

MASK = torch.randn(5, 5)


class Of(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change
        self.register_buffer("mask", MASK)

    def forward(self, x: Tensor) -> Any:
        return self.change(torch.bmm(x, x.mT)).softmax(-1).mT


def found(change: Callable[[Tensor], Tensor]) -> tuple[Scores | None, fx.Node]:
    """The scores, and the softmax."""
    traced = torch.export.export(Of(change), (torch.rand(2, 5, 3),))
    constants: dict[str, Any] = {}
    for node in traced.graph.nodes:
        if node.op == "placeholder" and node.name != "x":
            constants[node.name] = MASK
        elif (made := computed(node, constants)) is not None:
            constants[node.name] = made
        elif op_name(node.target) == "softmax":
            return Scores.of(node, Views(constants), lambda one: one.name), node
    raise AssertionError


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x / 4,
        lambda x: (x * 0.5 + MASK) * 3,
        lambda x: 2 * (MASK + x.view(1, 2, 5, 5)).view(2, 5, 5) - 1,
        lambda x: x.masked_fill(MASK > 1.5, -1e9),
        lambda x: torch.where(MASK < 1.5, x, -torch.inf) / 2,
    ],
)
def test_scores_are_a_factor_and_a_mask(change: Callable[[Tensor], Tensor]) -> None:
    scores, _ = found(change)
    assert scores is not None
    x = torch.randn(2, 5, 3)
    queries, keys = (x.flatten()[view.places] for view in (scores.query, scores.key))
    made = scores.factor * (queries @ keys.mT).double() + (0 if scores.mask is None else scores.mask)
    torch.testing.assert_close(made.softmax(-1).float(), change(x @ x.mT).softmax(-1))


def test_other_changes_are_named() -> None:
    with pytest.raises(StructureError, match=r"^tanh: changes the scores of attention; C code knows a factor"):
        found(torch.tanh)


def test_softmax_is_found_behind_its_transpose() -> None:
    _, softmax = found(lambda x: x)
    (turned,) = softmax.users
    assert softmax_of(softmax) is softmax
    assert softmax_of(turned) is None
    assert softmax_of(turned, is_turned=True) is softmax
    assert softmax_of(2.0) is None
