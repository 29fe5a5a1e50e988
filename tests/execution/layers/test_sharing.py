from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tailcut.execution.layers.sharing import HOOKS, share_hooks, stand_for


class Announced(nn.Module):
    known: ClassVar[list[type]] = []

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)
        self.calls = 0

    def __init_subclass__(cls, **_: Any) -> None:
        Announced.known.append(cls)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.second(self.first(x))
        return result


def test_state_is_shared_both_ways_and_children_are_not() -> None:
    module, other = Announced(), nn.Linear(2, 3)
    made: Any = stand_for(module, Announced, {})
    made._modules["first"] = other
    x = torch.randn(4, 2)
    torch.testing.assert_close(made(x), module.second(other(x)))
    assert made.first is other
    assert module.first is not other
    assert module.calls == 1
    module.eval()
    assert not made.training
    module.register_forward_hook(lambda *_: torch.zeros(1))
    assert made(x).tolist() == [0]
    assert list(made.children()) == [other, module.second]


def test_a_forward_that_is_set_is_run() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    made = stand_for(module, nn.Sequential, {})
    module.forward = lambda x: x + 1  # type: ignore[method-assign]
    assert made(torch.ones(1)).tolist() == [2]


def test_what_is_held_comes_before_attributes() -> None:
    module, held = nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}
    made = stand_for(module, nn.Linear, held)
    assert isinstance(made, nn.Linear)
    assert made(torch.ones(1, 2)).tolist() == [module.bias.tolist()]
    held["weight"] = torch.ones(2, 2)
    torch.testing.assert_close(made(torch.ones(1, 2)), module.bias + 2 * torch.ones(1, 2))
    module.bias = nn.Parameter(torch.zeros(2))
    assert made(torch.ones(1, 2)).tolist() == [[2, 2]]


def test_classes_that_note_their_subclasses_note_none() -> None:
    stand_for(Announced(), Announced, {})
    assert Announced.known == []


def test_a_compiled_call_is_not_its_own() -> None:
    module = nn.Linear(2, 2)
    made = stand_for(module, nn.Linear, {"weight": torch.zeros(2, 2)})
    module._compiled_call_impl = pytest.fail
    assert made(torch.ones(2)).tolist() == module.bias.tolist()


def test_hooks_of_both_are_the_same() -> None:
    module, other = nn.ReLU(), nn.Identity()
    share_hooks(other, module)
    assert all(other.__dict__[name] is module.__dict__[name] for name in HOOKS)
    module.register_forward_hook(lambda *_: torch.zeros(1))
    assert other(torch.ones(3)).tolist() == [0]
