import pytest
import torch
from tests.channels.slim_networks import (
    Auxiliary,
    Halves,
    HeadsOfAnotherWidth,
    OneWay,
    Plain,
    RigidView,
    same_state,
    state_of,
)
from torch import Tensor, nn

from tailcut.channels.dry_run import complaint, culprits, lock_rigid_groups
from tailcut.channels.groups import find_groups
from tailcut.channels.removal import apply_cut, plan_cut

X = torch.rand(1, 3, 16, 16)


def test_a_network_that_runs_has_nothing_to_complain_of() -> None:
    model = Plain().train()
    graph = find_groups(model, (X,))
    before = state_of(model)
    assert complaint(model, (X,), graph.trace) is None
    assert same_state(before, state_of(model))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_goes_wrong_forward_is_told() -> None:
    model = Plain()
    graph = find_groups(model, (X,))
    model[9] = nn.Linear(12, 4)
    assert complaint(model, (X,), graph.trace) == "its outputs have shapes [(1, 4)] instead of [(1, 3)]"
    model[9] = nn.Linear(11, 3)
    assert "cannot be multiplied" in str(complaint(model, (X,), graph.trace))


def test_what_goes_wrong_backward_is_told() -> None:
    model = OneWay()
    graph = find_groups(model, (X,))
    assert complaint(model, (X,), graph.trace) == "no way back"
    assert complaint(model, (X,), graph.trace, backward=False) is None
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert complaint(model, (X,), graph.trace) is None


def test_layers_of_the_training_are_run_in_training() -> None:
    model = Auxiliary()
    graph = find_groups(model, (X,))
    assert complaint(model, (X,), graph.trace) is None
    model.auxiliary[2] = nn.Linear(5, 2)
    assert "does not run" in str(complaint(model, (X,), graph.trace))


@pytest.mark.parametrize(
    ("build", "rigid"),
    [
        (Halves, []),
        (lambda: Halves(rigid=True), ["conv"]),
        (RigidView, ["conv"]),
        (HeadsOfAnotherWidth, ["conv"]),
    ],
)
def test_groups_whose_width_the_code_fixes_are_locked(build: type[nn.Module], rigid: list[str]) -> None:
    model = build()
    graph = find_groups(model, (X,))
    before = state_of(model)
    lock_rigid_groups(model, (X,), graph)
    assert same_state(before, state_of(model))
    found = [
        name for name, group in graph.groups.items() if any("its code fixes" in why for why in group.locked.values())
    ]
    assert found == rigid


def test_culprits_are_tried_alone() -> None:
    class Together(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
            self.strict = True

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            y = self.b(x)
            if (y.shape[1] < 4) and (self.strict or x.shape[1] < 4):
                raise RuntimeError("too narrow")
            z: Tensor = self.c(y)
            return z

    model = Together()
    graph = find_groups(model, (X,))
    removed = {graph.groups["a"].units[0], graph.groups["b"].units[0]}
    before = state_of(model)
    assert culprits(model, (X,), graph, removed) == ["b"]
    model.strict = False
    assert culprits(model, (X,), graph, removed) == ["a", "b"]  # only both together fail
    model.strict = True
    assert same_state(before, state_of(model))


def test_a_cut_network_is_compared_with_the_trace_before() -> None:
    model = Plain()
    graph = find_groups(model, (X,))
    undo = apply_cut(model, plan_cut(graph, set(graph.groups["0"].units[:5])))
    assert complaint(model, (X,), graph.trace) is None
    undo()
