import pytest
import torch
from tests.channels.slim_networks import Auxiliary, Gated, Plain, WidthOfTraining
from torch import Tensor, nn
from torch.nn import functional

from tailcut.channels.graph.observer import Modules, Observer, Step, are_alike, tensors_of
from tailcut.model_inputs import ModelInputs

X = torch.rand(1, 3, 16, 16)


def steps_of(model: nn.Module, x: Tensor) -> list[Step]:
    observer = Observer(Modules(model), shapes_only=True)
    with torch.no_grad():
        observer.observe(model, ModelInputs((x,)))
    return observer.steps


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(functional.dropout(self.a(x), 0.2, self.training))
        return y


class HalfInTraining(FunctionalDropout):
    """Swaps its channels in training: the same operations in the same order, at other places."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        first, second = x[:, :2], x[:, 2:]
        y: Tensor = self.b(torch.cat([second, first] if self.training else [first, second], dim=1))
        return y


@pytest.mark.parametrize(
    ("build", "alike"),
    [(Plain, True), (Gated, True), (FunctionalDropout, True), (Auxiliary, False), (WidthOfTraining, False),
     (HalfInTraining, False)],
)  # fmt: skip
def test_training_is_compared_with_evaluation(build: type[nn.Module], alike: bool) -> None:
    model = build()
    evaluation = steps_of(model.eval(), X)
    assert are_alike(evaluation, steps_of(model.eval(), torch.cat([X, X])))
    assert are_alike(evaluation, steps_of(model.train(), torch.cat([X, X]))) == alike


def test_steps_tell_layers_operations_and_what_they_ran_on() -> None:
    steps = steps_of(Gated().eval(), X)
    layers = [step.what for step in steps if isinstance(step.what, str)]
    assert [name for name in layers if name not in ("reshape", "outputs")] == [
        *("conv", "norm", "squeeze", "excite", "gate", "head")
    ]
    assert any("scale" in step.tokens for step in steps)
    assert steps[-1].what == "outputs"
    assert steps[0].tokens == (None,)
    assert steps[1].tokens == ((1, 0),)


@pytest.mark.parametrize(
    ("shape", "other", "alike"),
    [((1, 8, 4), (2, 8, 4), True), ((1, 8, 4), (1, 8, 4), True), ((1, 8, 4), (2, 16, 4), False),
     ((1, 8), (1, 8, 1), False), ((1, 8), (3, 8), False), ((0,), (8,), True)],
)  # fmt: skip
def test_one_axis_may_be_twice_as_long(shape: tuple[int, ...], other: tuple[int, ...], alike: bool) -> None:
    one, two = (Step("layer", (None,), (), (size,), 0) for size in (shape, other))
    assert one.is_like(two) == alike


def test_tensors_are_found_in_nested_values() -> None:
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    found = tensors_of((a, {"x": [b, 1, "text"]}, None, (c,)))
    assert [id(x) for x in found] == [id(a), id(b), id(c)]


def test_numbers_that_are_calculated_with_are_told_from_axes_and_sizes() -> None:
    class Net(FunctionalDropout):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).mean(2, keepdim=True)
            x = functional.leaky_relu(x, 0.25) + torch.full((1, 1, 1, 1), 7.0) + torch.rand(())
            x = torch.add(x.reshape(1, 4, 2, 8).transpose(2, 3), 3, alpha=2).flatten(2)[..., None]
            y: Tensor = self.b(x * torch.tensor([[5]]))
            return y

    model = Net().eval()
    observer = Observer(Modules(model), shapes_only=True)
    with torch.no_grad():
        observer.observe(model, ModelInputs((X,)))
    # Each with the scale 1 that an addition has where it is given.
    assert [set(one.values) - {1} for one in observer.calculations if set(one.values) - {1}] == [
        {0.25},
        {7},
        {3, 2},
        {5},
    ]
    assert [step.numbers for step in observer.steps if str(step.what).startswith("aten.transpose")] == [(2, 3)]
