from typing import Any

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

from tailcut.channels.graph.groups import ChannelGraph, find_groups
from tailcut.channels.graph.tracing import StoppedError
from tailcut.channels.pruning.surgery import apply_cut, plan_cut
from tailcut.channels.pruning.verification import (
    UnsteadyError,
    check_steady,
    failing_groups,
    lock_culprits,
    lock_rigid_groups,
    note_changes,
    verify,
)
from tailcut.counting import count_macs
from tailcut.model_inputs import ModelInputs
from tailcut.structure import create_model

X = torch.rand(1, 3, 16, 16)
INPUTS = ModelInputs((X,))


def failure_reason(model: nn.Module, graph: ChannelGraph, *, backward: bool = True) -> str | None:
    try:
        verify(model, INPUTS, graph, set(), backward=backward)
    except StoppedError as error:
        return str(error)
    return None


def test_a_network_that_runs_has_nothing_to_complain_of() -> None:
    model = Plain().train()
    graph = find_groups(model, (X,))
    before = state_of(model)
    assert verify(model, INPUTS, graph, set()) == count_macs(model, (X,)).total
    assert same_state(before, state_of(model))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_goes_wrong_forward_is_reported() -> None:
    model = Plain()
    graph = find_groups(model, (X,))
    model[9] = nn.Linear(12, 4)
    assert failure_reason(model, graph) == "its outputs have shapes [(1, 4)] instead of [(1, 3)]"
    model[9] = nn.Linear(11, 3)
    assert "cannot be multiplied" in str(failure_reason(model, graph))


def test_what_goes_wrong_backward_is_reported() -> None:
    model = OneWay()
    graph = find_groups(model, (X,))
    assert failure_reason(model, graph) == "no way back"
    assert failure_reason(model, graph, backward=False) is None
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert failure_reason(model, graph) is None


def test_layers_of_the_training_are_run_in_training() -> None:
    model = Auxiliary()
    graph = find_groups(model, (X,))
    assert failure_reason(model, graph) is None
    model.auxiliary[2] = nn.Linear(5, 2)
    assert "does not run" in str(failure_reason(model, graph))


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
    lock_rigid_groups(model, INPUTS, graph)
    assert same_state(before, state_of(model))
    found = [
        name for name, group in graph.groups.items() if any("its code fixes" in why for why in group.locked.values())
    ]
    assert found == rigid


def test_culprits_are_told_from_what_goes_without_them() -> None:
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
    why = "Together does not run on an input of shape (1, 3, 16, 16): too narrow"
    assert failing_groups(model, INPUTS, graph, removed) == {"b": why}
    model.strict = False
    assert failing_groups(model, INPUTS, graph, removed) == {"b": why}  # only both together fail, and a alone may go
    assert failing_groups(model, INPUTS, graph, {graph.groups["a"].units[0]}) == {}
    model.strict = True
    assert same_state(before, state_of(model))


def test_culprits_on_the_way_back_are_found_where_gradients_are_looked_at() -> None:
    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient + torch.zeros(1, 8, 1, 1)

    class Rigid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.c(Summed.apply(self.b(self.a(x))))  # type: ignore[no-untyped-call]
            return y

    model = Rigid()
    graph = find_groups(model, (X,))
    removed = {graph.groups["a"].units[0], graph.groups["b"].units[0]}
    failing = failing_groups(model, INPUTS, graph, removed)
    assert list(failing) == ["b"]
    assert "size" in failing["b"]
    assert failing_groups(model, INPUTS, graph, removed, backward=False) == {}


def test_a_group_is_not_to_blame_for_its_leader() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = create_model("resnet20", width=4)
            self.network.get_submodule("layer1").register_forward_hook(self.check)

        def check(self, module: nn.Module, args: Any, output: Tensor) -> None:
            if output.shape[1] != 4:
                raise ValueError("four channels, please")

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.network(x)
            return y

    model = Checked()
    graph = find_groups(model, (X,))
    (follower, *_) = graph.followers
    beside, leader = next(iter(follower.beside.items()))
    failing = failing_groups(model, INPUTS, graph, {leader, beside})
    assert list(failing) == [follower.leader] == ["network.conv1"]
    lock_culprits(graph, failing)
    assert graph.groups["network.conv1"].free == []
    assert graph.groups[follower.group].free
    assert set(graph.groups["network.conv1"].locked.values()) == {
        f"its code fixes how many: {failing['network.conv1']}"
    }


def test_locking_a_group_that_another_one_leads_joins_them() -> None:
    graph = find_groups(create_model("resnet20", width=4), (X,))
    follower = graph.followers[0]
    lock_culprits(graph, {follower.group: "too narrow", follower.leader: "too narrow"})
    assert follower.group not in graph.groups
    assert graph.group_of(follower.group) is graph.groups[follower.leader]
    assert graph.groups[follower.leader].free == []


def test_a_cut_is_verified_by_the_steps_before_it() -> None:
    model = Plain()
    graph = find_groups(model, (X,))
    removed = set(graph.groups["0"].units[:5])
    undo = apply_cut(model, plan_cut(graph, removed))
    assert verify(model, INPUTS, graph, removed) == count_macs(model, (X,)).total
    with pytest.raises(StoppedError, match="narrower, other channels meet in 0"):
        verify(model, INPUTS, graph, set(graph.groups["0"].units[:4]))
    undo()


class Biased(nn.Module):
    """Attention with a learned bias, as T5 has it: torch takes another kernel where its gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 1, 8, 8))
        self.wide, self.narrow = nn.Linear(16, 12), nn.Linear(12, 16)

    def forward(self, x: Tensor) -> Any:
        x = x.reshape(-1, 2, 8, 16)
        x = nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=2 * self.bias)
        return self.narrow(torch.relu(self.wide(x)))


def test_a_kernel_that_gradients_choose_is_no_other_step() -> None:
    model, inputs = Biased(), ModelInputs((torch.rand(1, 2, 8, 16),))
    graph = find_groups(model, inputs)
    removed = set(graph.groups["wide"].units[:4])
    before = count_macs(model, inputs).total
    undo = apply_cut(model, plan_cut(graph, removed))
    after = verify(model, inputs, graph, removed)
    assert before - after == 4 * 2 * 8 * (16 + 16)
    undo()


def test_parts_of_another_size_are_reported() -> None:
    """Eight channels at a time: what ran on 8 and 8 runs on 8 and 6."""

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.a(x).split(8, dim=1)
            y: Tensor = self.b(torch.cat([first.relu(), second], dim=1))
            return y

    model = Parts()
    graph = find_groups(model, (X,))
    removed = {graph.groups["a"].units[0]}
    apply_cut(model, plan_cut(graph, removed))
    with pytest.raises(StoppedError, match=r"other channels meet in the result of aten\.split\.Tensor") as error:
        verify(model, INPUTS, graph, removed)
    assert error.value.layers == ["a"]


def test_groups_whose_width_is_fixed_are_found_by_one_run_each() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3 if place == 0 else 8, 8, 1) for place in range(6))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.cat(layer(x).relu().split((4, 4), dim=1), dim=1)
            return x

    model, runs = Blocks(), 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    graph = find_groups(model, (X,))
    model.register_forward_pre_hook(count)
    lock_rigid_groups(model, INPUTS, graph)
    assert not any(group.free for group in graph.groups.values())
    assert runs == len(graph.groups) - 1  # all at once, then without each but the first; the last makes the output


def test_a_network_that_changes_by_itself_is_told_from_one_that_was_cut() -> None:
    model = Plain()
    graph = find_groups(model, (X,))
    check_steady(model, INPUTS, graph)
    model[5] = nn.Sigmoid()
    with pytest.raises(
        UnsteadyError, match=r"does not do the same \(other channels meet in the result of aten.sigmoid"
    ):
        check_steady(model, INPUTS, graph)


class Scaled(nn.Module):
    """Divides by a width, in the second of three layers that may be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(n, m, 1) for n, m in ((3, 8), (8, 8), (8, 8), (8, 2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        y: Tensor = self.d(self.c(x / float(x.shape[1])))
        return y


def test_other_numbers_are_noted_with_the_group_that_they_come_from() -> None:
    model = Scaled()
    graph = find_groups(model, (X,))
    removed = {graph.groups[name].units[0] for name in "abc"}
    changed: set[int] = set()
    undo = apply_cut(model, plan_cut(graph, removed))
    verify(model, INPUTS, graph, removed, changed=changed)
    undo()
    (place,) = changed
    assert graph.trace.calculations[place].values == (8.0,)
    before = state_of(model)
    note_changes(model, INPUTS, graph, removed, changed)
    assert same_state(before, state_of(model))
    noted = graph.coupling.noted_units()
    assert set(noted) == {graph.groups["b"].units[0]}
    assert set(noted.values()) == {
        "its code calculates with how many there are (aten.div.Tensor), in the network's forward: the number is that "
        "of those left"
    }


def test_other_numbers_of_groups_that_go_only_together_are_noted_with_both() -> None:
    class Together(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            y = self.b(x)
            if x.shape[1] != y.shape[1]:
                raise ValueError("as wide, please")
            z: Tensor = self.d(self.c(y / float(x.shape[1])))
            return z

    model = Together()
    graph = find_groups(model, (X,))
    removed = {graph.groups[name].units[0] for name in "abc"}
    note_changes(model, INPUTS, graph, removed, set(range(len(graph.trace.calculations))))
    assert set(graph.coupling.noted_units()) == {graph.groups[name].units[0] for name in "ab"}
