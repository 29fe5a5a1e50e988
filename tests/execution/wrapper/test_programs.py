import pytest
import torch
from torch import nn

import tailcut
from tailcut.errors import StructureError
from tailcut.execution.wrapper.guard import Guard
from tailcut.execution.wrapper.programs import NetworkPrograms


def programs() -> tuple[nn.Sequential, NetworkPrograms]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    tailcut.regularize(model, num_kept={"0.weight": 12, "2.weight": 5})
    return model, NetworkPrograms(model)


def test_programs_are_copies_that_share_all_numbers() -> None:
    model, made = programs()
    assert made.layer_names == ["0", "2"]
    assert made.kept() == 17
    assert made.dense is not model
    assert {id(parameter) for parameter in model.parameters()} >= {
        id(parameter) for parameter in made.dense.parameters()
    }


def test_the_guard_sees_changes_and_follows_the_mode() -> None:
    model, made = programs()
    guard = made.guard
    assert isinstance(guard, Guard)
    assert guard.is_same()
    model.eval()
    assert not guard.is_same()
    guard.check()
    assert guard.is_same()
    assert not made.dense.training
    model[2] = nn.Conv2d(8, 4, 1)
    with pytest.raises(StructureError, match="were replaced"):
        guard.check()
