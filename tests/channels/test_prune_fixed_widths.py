"""Networks whose code fixes a width in a way that nothing but running them narrower can tell."""

import copy
from typing import Any

import pytest
import torch
from tests.channels.slim_networks import Case, macs, masked, random_scores, randomized, same_state, state_of
from torch import Tensor, nn

from tailcut.channels.pruning.prune import prune
from tailcut.errors import ArgumentError, StructureError
from tailcut.structure import record_of


class Downsample(nn.Module):
    """A convolution that checks the width of its input, as in the autoencoders of diffusers."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.channels:  # pytest would write another message for an `assert`
            raise AssertionError
        y: Tensor = self.conv(x)
        return y


class Encoder(nn.Module):
    """A residual block before a `Downsample`, and layers whose widths are free."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(n, m, 3, padding=1) for n, m in ((3, 8), (8, 12), (12, 8)))
        self.norm, self.relu1, self.relu2 = nn.BatchNorm2d(12), nn.ReLU(), nn.ReLU()
        self.down, self.head = Downsample(8, 10), nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.second(self.relu1(self.norm(self.first(x))))
        y: Tensor = self.head(self.relu2(self.down(x)))
        return y


CASE = Case(Encoder, {"relu1": ("first",), "relu2": ("down.conv",)})
X = CASE.example()
WHY = "its code fixes how many: Encoder does not run on an input of shape (2, 3, 16, 16): AssertionError"


def widths(report: Any) -> dict[str, int]:
    return {layer.name: layer.after for layer in report.layers}


@pytest.mark.parametrize(
    "amount",
    [
        {"rates": 0.5},
        {"rates": [0.5, 0.5, 0.5]},  # of stem with second, first, down.conv: those that are free at first sight
        {"macs_ratio": 0.6},
        {"params_ratio": 0.6},
    ],
)
def test_what_code_fixes_is_left_and_the_rest_pruned_exactly(amount: dict[str, Any]) -> None:
    dense = randomized(Encoder(), 0)
    model: Any = copy.deepcopy(dense)
    report = prune(model, X, random_scores(model, 0), **amount)
    assert {part.name: (part.channels, part.reason) for part in report.skipped} == {
        "stem": (8, WHY),
        "second": (8, WHY),
        "head": (4, "the network's output"),
    }
    assert widths(report)["first"] < 12
    if "rates" in amount:
        assert widths(report) == {"stem": 8, "first": 6, "second": 8, "down.conv": 5, "head": 4}
    else:
        assert min(report.macs_ratio, report.params_ratio) <= 0.6
    for name in ("stem.weight", "stem.bias", "second.bias", "head.bias"):
        assert torch.equal(model.get_parameter(name), dense.get_parameter(name)), name
    assert model.second.weight.shape == (8, widths(report)["first"], 3, 3)
    with torch.no_grad(), masked(dense, CASE, report):
        torch.testing.assert_close(model(X), dense(X), rtol=1e-9, atol=1e-12)
    assert report.macs_after == macs(model, X)
    model.train()(X).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    rebuilt = Encoder().double()
    (edit,) = record_of(model).edits
    edit.apply(rebuilt)
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt.eval()(X), model.eval()(X))


def test_the_choice_is_the_same_as_when_they_are_ignored() -> None:
    model, other = randomized(Encoder(), 0), randomized(Encoder(), 0)
    scores = random_scores(model, 0)
    report, expected = prune(model, X, scores, macs_ratio=0.6), prune(other, X, scores, macs_ratio=0.6, ignore="stem")
    assert report.layers == expected.layers
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


def test_a_rate_for_a_layer_whose_width_code_fixes_is_an_error() -> None:
    model = randomized(Encoder(), 0)
    before = state_of(model)
    with pytest.raises(ArgumentError, match="a rate is given for second, which cannot be pruned: its code fixes how"):
        prune(model, X, random_scores(model, 0), {"first": 0.5, "second": 0.5})
    assert same_state(before, state_of(model))
    assert widths(prune(model, X, random_scores(model, 0), {"first": 0.5}))["first"] == 6


def test_a_budget_that_the_others_cannot_reach_is_reported() -> None:
    model = randomized(Encoder(), 0)
    before = state_of(model)
    with pytest.raises(ArgumentError, match="cannot be reached"):
        prune(model, X, random_scores(model, 0), macs_ratio=0.1)
    assert same_state(before, state_of(model))


def test_where_nothing_else_is_left_there_is_an_error() -> None:
    model = randomized(Encoder(), 0).train()
    before = state_of(model)
    why = r"nothing can be pruned: .*second: its code fixes how many: .*Assertion.*; first, down\.conv: ignored; head: "
    with pytest.raises(ArgumentError, match=why):
        prune(model, X, random_scores(model, 0), 0.5, ignore=("first", "down.conv"))
    assert same_state(before, state_of(model))


class Failing(nn.Module):
    """Runs at its own width only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.second(self.first(x)))
        if x.shape[1] != 8:
            raise ValueError("eight channels, please")
        y: Tensor = self.head(x)
        return y


class Forgetful(Failing):
    """Gives other shapes instead of an error."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.second(self.first(x)))
        y: Tensor = self.head(x)
        return y[:, :, : x.shape[1]]


@pytest.mark.parametrize(
    ("build", "message"), [(Failing, "eight channels, please"), (Forgetful, "outputs have shapes")]
)
def test_a_failing_forward_and_other_shapes_are_reasons(build: Any, message: str) -> None:
    model = build().train()
    report = prune(model, x := X[:, :, :8].float(), random_scores(model, 0), 0.5)
    assert widths(report) == {"first": 4, "second": 8, "head": 4}
    (reason,) = [part.reason for part in report.skipped if part.name == "second"]
    assert message in reason
    assert model(x).shape == (2, 4, 8, 16)


class Gradient(torch.autograd.Function):
    """Eight channels on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient + torch.zeros(1, 8, 1, 1)


def test_what_fails_on_the_way_back_is_left() -> None:
    class Rigid(Failing):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(Gradient.apply(self.second(self.first(x))))  # type: ignore[no-untyped-call]
            return y

    model = Rigid()
    report = prune(model, x := X.float(), random_scores(model, 0), 0.5)
    assert widths(report) == {"first": 4, "second": 8, "head": 4}
    model(x).sum().backward()


def test_a_forward_that_depends_on_earlier_runs_is_refused() -> None:
    class Moody(Failing):
        failed = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.first(x))
            if x.shape[1] < 8 and not self.failed:
                type(self).failed = True
                raise ValueError("not today")
            y: Tensor = self.head(x)
            return y

    model = Moody()
    before = state_of(model)
    with pytest.raises(StructureError, match=r"no longer runs \(.*not today\), but it did when .*put back as it was"):
        prune(model, X.float(), random_scores(model, 0), 0.5)
    assert same_state(before, state_of(model))
