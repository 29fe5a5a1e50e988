from typing import Any

import torch
from torch import nn

from tailcut.execution.layers.module_copy import copy_with, reason_to_leave, shallow_copy


def test_a_copy_shares_numbers_and_hooks_but_not_children() -> None:
    source: Any = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    made: Any = shallow_copy(source, nn.Sequential)
    assert made[0] is source[0]
    made._modules["0"] = nn.Identity()
    assert isinstance(source[0], nn.Linear)
    linear: Any = shallow_copy(source[0], nn.Linear)
    with torch.no_grad():
        linear.weight.zero_()
    assert source[0].weight.abs().sum() == 0


def test_only_what_leads_to_a_replacement_is_copied() -> None:
    source: Any = nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.ReLU()))
    other = nn.Linear(3, 3)
    made: Any = copy_with(source, {id(source[0][0]): other}, {})
    assert type(made) is nn.Sequential
    assert made.get_submodule("0.0") is other
    assert made[1] is source[1]
    assert source[0][0] is not other


def test_modules_with_hooks_are_left() -> None:
    layer = nn.Linear(2, 2)
    assert reason_to_leave(layer) == ""
    layer.register_forward_hook(lambda *_: None)
    assert reason_to_leave(layer) == "has hooks"


def test_a_traced_network_is_copied_with_its_forward() -> None:
    source: Any = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    other = nn.Linear(3, 3)
    made = copy_with(source, {id(source.get_submodule("0")): other}, {})
    assert type(made) is type(source)
    x = torch.ones(2, 3)
    torch.testing.assert_close(made(x), other(x).relu())
