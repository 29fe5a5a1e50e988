"""Networks whose channels are easily misread. The oracle: channels that are zero change nothing when they go."""

import math
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.channels.pruning.prune import Rates, prune
from tailcut.channels.pruning.report import PruneReport
from tailcut.counting import count_macs
from tailcut.errors import ArgumentError

X = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Pair(nn.Module):
    """Two convolutions, and `between` them what is easily misread."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 16, classes: int = 6) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.a, self.b, self.between = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, classes, 1), between

    def forward(self, x: Tensor) -> Any:
        return self.b(self.between(self.a(x)))


def without(model: nn.Module, layer: str, dead: Sequence[int], rate: Rates) -> tuple[float, PruneReport]:
    """How far the output is off after the dead channels of a layer were to go; they are made zero first."""
    convolution = model.get_submodule(layer)
    scores = torch.arange(1.0, convolution.out_channels + 1)  # type: ignore[arg-type,operator]
    scores[list(dead)] = 0
    model.eval()
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter[list(dead)] = 0
        before = model(X)
        report = prune(model, X, {layer: scores}, rates=rate)
        return float((model(X) - before).abs().max()), report


def shuffled(groups: int) -> Callable[[Tensor], Tensor]:
    def shuffle(x: Tensor) -> Tensor:
        x = functional.relu(x)
        batch, channels, height, width = x.shape
        parts = x.view(batch, groups, channels // groups, height, width)
        return parts.transpose(1, 2).reshape(batch, channels, height, width)

    return shuffle


@pytest.mark.parametrize(("groups", "width"), [(4, 16), (8, 64), (2, 16)])
def test_one_channel_of_each_shuffled_group_goes(groups: int, width: int) -> None:
    model = Pair(shuffled(groups), width)
    dead = range(0, width, width // groups)
    off, report = without(model, "a", dead, groups / width)
    assert off < 1e-5
    assert report.layers[0].removed == tuple(dead)


def test_where_groups_are_read_for_members_nothing_goes() -> None:
    # More groups than members: the wider axis is not the one along which channels lie.
    with pytest.raises(ArgumentError, match=r"its code fixes how many: .*|other channels meet in b"):
        prune(Pair(shuffled(8)), X, {"a": torch.arange(16.0)}, rates=0.25)


@pytest.mark.parametrize("pool", [False, True])
def test_parts_of_a_fixed_size_stay(pool: bool) -> None:
    def between(x: Tensor) -> Tensor:
        first, second = x.split(8, 1)
        if pool:
            first, second = functional.max_pool2d(first, 2), functional.avg_pool2d(second, 2)
        return torch.cat([functional.relu(first), second], 1)

    with pytest.raises(ArgumentError, match=r"its channels are split.*other channels meet in"):
        prune(Pair(between), X, {"a": torch.arange(16.0)}, rates=0.25)


def test_halves_of_any_size_lose_the_same_channels() -> None:
    off, report = without(Pair(lambda x: torch.cat(x.relu().chunk(2, 1)[::-1], 1)), "a", [1, 9], 1 / 8)
    assert off < 1e-5
    assert report.layers[0].removed == (1, 9)


class Numbered(Pair):
    def __init__(self, number: Callable[[Tensor], Tensor]) -> None:
        super().__init__(functional.relu, width=8)
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return self.number(super().forward(x))


@pytest.mark.parametrize(
    "number",
    [
        lambda x: x.argmax(1),
        lambda x: x.max(1)[1],
        lambda x: functional.one_hot(x.mean((2, 3)).argmax(1), 6),
        lambda x: x.min(1).indices.float() / 6,
        lambda x: x.flatten(1).argmax(),
    ],
)
def test_channels_whose_places_are_used_stay(number: Callable[[Tensor], Tensor]) -> None:
    report = prune(Numbered(number), X, {"a": torch.arange(8.0), "b": torch.arange(6.0)}, rates=0.5)
    kept = {layer.name: layer.after for layer in report.layers}
    assert kept == {"a": 4, "b": 6}
    assert [part.name for part in report.skipped if "index of one of its channels" in part.reason] == ["b"]


def test_values_of_a_maximum_over_channels_number_none() -> None:
    class Gated(Pair):
        def forward(self, x: Tensor) -> Tensor:
            maps = functional.relu(self.a(x))
            result: Tensor = self.b(maps * torch.sigmoid(maps.max(1, keepdim=True)[0]))
            return result

    off, report = without(Gated(functional.relu, width=8), "a", [2, 5], 0.25)
    assert off < 1e-5
    assert report.layers[0].removed == (2, 5)


OF_WIDTH: dict[str, Callable[[Tensor], Tensor]] = {
    "a root": lambda x: x * x.shape[1] ** -0.5,
    "a root of a norm": lambda x: x / (x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5 + 1),
    "a float": lambda x: x / float(x.shape[1]),
    "a mean": lambda x: x * (x.sum(1, keepdim=True) * (1 / x.shape[1])),
    "an integer": lambda x: x / x.shape[1],
    "a mean by an integer": lambda x: x * (x.sum(1, keepdim=True) / x.shape[1]),
    "a tensor": lambda x: x * torch.tensor(x.shape[1]),
    "a full tensor": lambda x: x * torch.full((1, 1, 1, 1), float(x.shape[1])),
    "a full map": lambda x: x * torch.full((1, 1, 6, 6), float(x.shape[1])),
    "a new tensor": lambda x: x * x.new_full((1,), x.shape[1]),
    "a slope": lambda x: functional.leaky_relu(x, 1 / x.shape[1]),
    "an exponent": lambda x: x.abs() ** (x.shape[1] / 16),
    "a factor": lambda x: torch.add(x, x, alpha=x.shape[1]),
}


@pytest.mark.parametrize("name", OF_WIDTH)
@pytest.mark.parametrize("rates", [0.5, {"a": 0.5}])
def test_numbers_made_of_the_width_are_noted(name: str, rates: float | dict[str, float]) -> None:
    """They change what the network gives, although the channels that go are zero."""
    off, report = without(Pair(OF_WIDTH[name]), "a", range(8), rates)
    assert off > 1e-3
    assert report.layers[0].removed == tuple(range(8))
    ((layer, note),) = [(note.name, note.note) for note in report.notes]
    assert layer == "a"
    assert note.startswith("its code calculates with how many there are (aten.")
    assert note.endswith("), in the network's forward: the number is that of those left")


CONSTANT: dict[str, Callable[[Tensor], Tensor]] = {
    "scalars": lambda x: functional.leaky_relu(0.5 * x, 0.1) ** 2.0,
    "tensors": lambda x: x * torch.tensor(2.0) * torch.full((1, 1, 6, 6), 0.5) * torch.tensor(math.nan).nan_to_num(),
    "a number that is read": lambda x: x * torch.tensor(3.0).item(),
    "widths of no axis": lambda x: x.view(x.shape) * x.new_ones(x.shape) * (x.shape[2] ** -0.5),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_numbers_that_stay_have_no_note(name: str) -> None:
    off, report = without(Pair(CONSTANT[name]), "a", range(8), 0.5)
    assert off < 1e-5
    assert report.layers[0].removed == tuple(range(8))
    assert not report.notes


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x * torch.rand(()) * torch.rand(1, 1, 1, 1),
        lambda x: functional.dropout(x, 0.5) * torch.rand(()),  # the width tells how many were drawn before
        lambda x: x * random.random(),
    ],
)
def test_numbers_by_chance_have_no_note(between: Callable[[Tensor], Tensor]) -> None:
    _, report = without(Pair(between), "a", range(8), 0.5)
    assert report.layers[0].removed == tuple(range(8))
    assert not report.notes


def test_numbers_read_from_channels_are_noted_as_such() -> None:
    off, report = without(Pair(lambda x: x * x.square().sum().item()), "a", range(8), 0.5)
    assert off < 1e-4
    assert not report.notes  # empty channels add nothing
    model = Pair(lambda x: x * x.square().sum().item()).eval()
    notes = [note.note for note in prune(model, X, {"a": torch.arange(16.0)}, 0.5).notes]
    assert len(notes) == 1
    assert notes[0].startswith("its code calculates with a number that depends on them (aten.mul.Tensor)")


def test_numbers_of_the_width_are_noted_with_the_layer_that_has_it() -> None:
    class Two(Pair):
        def __init__(self) -> None:
            super().__init__(functional.relu)
            self.c = nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            y = self.b(x)
            result: Tensor = self.c(y / float(x.shape[1]))
            return result

    scores = {"a": torch.arange(16.0), "b": torch.arange(6.0)}
    assert [note.name for note in prune(Two().eval(), X, scores, 0.5).notes] == ["a"]
    assert not prune(Two().eval(), X, scores, {"b": 0.5}).notes


def squares(x: Tensor) -> Tensor:
    return x.square().sum(1, keepdim=True)


REDUCED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "amax": (lambda x: x.amax(1, keepdim=True), "amax"),
    "amin": (lambda x: x.amin(1, keepdim=True), "amin"),
    "max": (lambda x: x.max(1, keepdim=True).values, "max"),
    "maximum of all": (lambda x: x.max(), "max"),
    "aminmax": (lambda x: x.aminmax(dim=1, keepdim=True)[1], "aminmax"),
    "prod": (lambda x: (1 + x).prod(1, keepdim=True), "prod"),
    "logsumexp": (lambda x: x.logsumexp(1, keepdim=True), "logsumexp"),
    "a mean without NaN": (lambda x: x.nanmean(1, keepdim=True), "sum"),
    "a norm of negative order": (lambda x: x.norm(-math.inf, dim=1, keepdim=True), "linalg_vector_norm"),
    "all": (lambda x: (x <= 0).all(1, keepdim=True), "all"),
}


@pytest.mark.parametrize("name", REDUCED)
def test_reductions_that_zeros_change_are_noted(name: str) -> None:
    reduce, operation = REDUCED[name]
    _, report = without(Pair(lambda x: x * reduce(x)), "a", range(8), 0.5)
    assert report.layers[0].removed == tuple(range(8))
    assert [(note.name, note.note) for note in report.notes] == [
        ("a", f"reduced over its channels by {operation}, in the network's forward: the result is that of those left")
    ]


@pytest.mark.parametrize(
    "reduce",
    [
        squares,
        lambda x: x.nansum(1, keepdim=True),
        lambda x: x.norm(dim=1, keepdim=True),
        lambda x: x.norm(1, dim=1, keepdim=True),
        lambda x: x.norm(math.inf, dim=1, keepdim=True),
        lambda x: (x > 0).any(1, keepdim=True),
    ],
)
def test_reductions_that_zeros_do_not_change_have_no_note(reduce: Callable[[Tensor], Tensor]) -> None:
    off, report = without(Pair(lambda x: x * reduce(x)), "a", range(8), 0.5)
    assert off < 1e-5
    assert report.layers[0].removed == tuple(range(8))
    assert not report.notes


@pytest.mark.parametrize(
    "reduce",
    [
        lambda x: x.softmax(1),
        lambda x: x.median(1, keepdim=True).values,
        lambda x: x.mode(1, keepdim=True).values,
        lambda x: x.kthvalue(2, 1, keepdim=True).values,
        lambda x: x.quantile(0.5, 1, keepdim=True),
        lambda x: x.cumsum(1),
        lambda x: x.cummax(1).values,
        lambda x: x.topk(2, 1).values.sum(1, keepdim=True),
        lambda x: x.sort(1).values,
        lambda x: x.logcumsumexp(1),
    ],
)
def test_channels_in_an_order_or_a_distribution_stay(reduce: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ArgumentError, match=r"nothing can be pruned: a: .*(along its|cannot be followed)"):
        prune(Pair(lambda x: x + reduce(x)), X, {"a": torch.arange(16.0)}, rates=0.5)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: functional.normalize(x, dim=1),
        lambda x: x * squares(x).sigmoid().expand_as(x),
        lambda x: squares(x).sigmoid().expand_as(x) * x,
        lambda x: x / (x.flatten(2).norm(dim=1).view(-1, 1, 6, 6) + 1).expand(-1, x.shape[1], -1, -1),
    ],
)
@pytest.mark.parametrize("rates", [0.5, {"a": 0.5}])
def test_numbers_that_are_expanded_to_the_channels_lock_none(
    between: Callable[[Tensor], Tensor], rates: float | dict[str, float]
) -> None:
    off, report = without(Pair(between), "a", range(8), rates)
    assert off < 1e-5
    assert report.layers[0].removed == tuple(range(8))
    assert not report.notes


def test_a_gate_of_one_channel_may_be_expanded() -> None:
    class Gated(Pair):
        def __init__(self) -> None:
            super().__init__(functional.relu)
            self.gate = nn.Conv2d(16, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            result: Tensor = self.b(x * self.gate(x).sigmoid().expand_as(x))
            return result

    off, report = without(Gated(), "a", range(8), 0.5)
    assert off < 1e-5
    assert report.layers[0].removed == tuple(range(8))
    assert {layer.name: layer.after for layer in report.layers}["gate"] == 1


@pytest.mark.parametrize("rates", [0.5, {"a": 0.5}])
def test_numbers_that_are_expanded_to_a_fixed_width_keep_it(rates: float | dict[str, float]) -> None:
    model = Pair(lambda x: x * squares(x).expand(-1, 16, -1, -1))
    with pytest.raises(ArgumentError, match=r"expanded to its channels, in the network's forward, and its code fixes"):
        prune(model, X, {"a": torch.arange(16.0)}, rates)


@dataclass
class Logits:
    logits: Tensor


@pytest.mark.parametrize("made", [Logits, lambda x: torch.distributions.Categorical(logits=x)])
def test_outputs_in_objects_stay(made: Callable[[Tensor], Any]) -> None:
    class Wrapped(Pair):
        def forward(self, x: Tensor) -> Any:
            return made(super().forward(x).mean((2, 3)))

    report = prune(Wrapped(functional.relu, width=8), X, {"a": torch.arange(8.0), "b": torch.arange(6.0)}, rates=0.5)
    assert {layer.name: layer.after for layer in report.layers} == {"a": 4, "b": 6}


def test_a_network_without_tensors_among_its_outputs_is_refused() -> None:
    class Says(Pair):
        def forward(self, x: Tensor) -> str:
            return f"class {int(super().forward(x).mean((2, 3)).argmax())}"

    with pytest.raises(ArgumentError, match="Says gives no tensors"):
        prune(Says(functional.relu), X, {"a": torch.arange(16.0)}, rates=0.5)


def test_hooks_that_change_an_output_are_followed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    model[0].register_forward_hook(lambda module, inputs, output: torch.cat([output[:, 4:], output[:, :4]], 1))
    with pytest.raises(ArgumentError, match="slice along its channels"):
        prune(model, X, {"0": torch.arange(8.0)}, rates=0.25)


def test_hooks_that_scale_an_input_are_followed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    model[2].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    off, report = without(model, "0", [0, 1], 0.25)
    assert off < 1e-5
    assert report.layers[0].removed == (0, 1)


class Moving(Pair):
    """A mean of each channel, kept while it trains."""

    ema: Tensor
    noise: nn.Parameter

    def __init__(self, reassigns: bool) -> None:
        super().__init__(functional.relu, width=8)
        self.register_buffer("ema", torch.rand(8))
        self.noise = nn.Parameter(torch.rand(8, 1, 1))
        self.reassigns = reassigns

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.training:
            mean = x.detach().mean((0, 2, 3))
            if self.reassigns:
                self.ema = 0.9 * self.ema + 0.1 * mean
            else:
                self.ema.mul_(0.9).add_(mean, alpha=0.1)
            x = x + self.noise * torch.randn_like(x)
        result: Tensor = self.b(x)
        return result


@pytest.mark.parametrize("reassigns", [False, True])
def test_what_only_training_meets_is_cut_too(reassigns: bool) -> None:
    model = Moving(reassigns)
    ema, noise = model.ema, model.noise.detach().clone()
    before = ema.clone()
    prune(model, X, {"a": torch.arange(8.0)}, rates=0.5)
    assert torch.equal(ema, before)
    assert torch.equal(model.ema, before[4:])
    assert torch.equal(model.noise, noise[4:])
    model.train()(torch.cat([X, X])).sum().backward()
    assert model.noise.grad is not None


def test_a_width_that_training_alone_fixes_is_reported() -> None:
    class Fixed(Pair):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            if self.training:
                x = x + torch.ones(1, 16, 1, 1)
            result: Tensor = self.b(x)
            return result

    with pytest.raises(ArgumentError, match="numbers that have no channels"):
        prune(Fixed(functional.relu), X, {"a": torch.arange(16.0)}, rates=0.5)


class ChannelsFirst(nn.LayerNorm):
    """Of ConvNeXt's form."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class RootMeanSquare(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.rms_norm(x.movedim(1, -1), tuple(self.normalized_shape), self.weight, self.eps)
        return x.movedim(-1, 1)


@pytest.mark.parametrize("norm", [ChannelsFirst, RootMeanSquare])
@pytest.mark.parametrize("affine", [True, False])
def test_norms_with_a_forward_of_their_own_are_followed(norm: Callable[..., nn.Module], affine: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), norm(8, elementwise_affine=affine)
            self.inner, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.stem(x))
            result: Tensor = self.head(x + self.inner(x))
            return result

    model = Block()
    weights = [p.detach().clone() for p in model.norm.parameters()]
    report = prune(model, X, {"stem": torch.arange(8.0), "inner": torch.arange(8.0)}, rates=0.5)
    assert {layer.name: layer.after for layer in report.layers if layer.name != "head"} == dict.fromkeys(
        ("stem", "norm", "inner") if any(layer.name == "norm" for layer in report.layers) else ("stem", "inner"), 4
    )
    assert model.norm.normalized_shape == (4,)
    assert all(torch.equal(p, w[4:]) for p, w in zip(model.norm.parameters(), weights, strict=True))
    # Of the smaller network itself: normalised over the four channels that are there.
    assert model(X).shape == (1, 4, 6, 6)


def test_a_norm_over_other_axes_than_channels_stays() -> None:
    class Rows(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm([6, 6]), Rows(6), nn.Conv2d(8, 4, 1))
    with pytest.raises(ArgumentError, match="several axes"):
        prune(model, X, {"0": torch.arange(8.0)}, rates=0.5)


class Routed(nn.Module):
    """Numbers that a gate gives choose the expert of each image."""

    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.gate, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 2), nn.Conv2d(8, 4, 1)
        self.experts = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(2))
        self.read = read
        nn.init.constant_(self.gate.bias[1:], 100.0)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x).relu()
        chosen = self.read(self.gate(x.mean((2, 3))).argmax(1))
        return self.head(torch.cat([self.experts[int(i)](x[b : b + 1]) for b, i in enumerate(chosen)]))


@pytest.mark.parametrize(
    "read", [lambda x: x.tolist(), lambda x: x.numpy(), lambda x: np.asarray(x), lambda x: [i.item() for i in x]]
)
def test_numbers_that_go_to_python_choose_the_way(read: Callable[[Tensor], Any]) -> None:
    model = Routed(read).eval()
    prune(model, X, {"stem": torch.rand(16)}, 0.5)
    assert model.experts[1].in_channels == 8
    assert model.gate.out_features == 2  # the number of a channel is used
    assert model(X).shape == (1, 4, 6, 6)


class EarlyExit(nn.Module):
    """Only the hard ones of a batch go through the costly way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(32, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        out: Tensor = y[:, :4] * 0
        hard = x[:, 0] > 1
        out[hard] = self.c(self.b(y[hard]).relu())
        return out


def test_rows_that_a_mask_takes_count_as_many_as_there_are() -> None:
    x = torch.zeros(10, 8)
    x[:2, 0] = 2
    model = EarlyExit()
    report = prune(model, x, {"b": torch.rand(64), "a": torch.rand(32)}, macs_ratio=0.6)
    assert report.macs_after == count_macs(model, x).total
    assert report.macs_after <= 0.6 * report.macs_before


class Quantized(nn.Module):
    """Noise in training stands for rounding, scaled by a parameter of each channel."""

    def __init__(self, noise: Callable[["Quantized", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc, self.dec = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.step, self.noise = nn.Parameter(torch.rand(16, 1, 1)), noise

    def forward(self, x: Tensor) -> Any:
        y = self.enc(x)
        if self.training:
            y = y + self.noise(self, y)
        return self.dec(y)


@pytest.mark.parametrize(
    "noise",
    [
        lambda net, y: net.step * (torch.rand_like(y) - 0.5),
        lambda net, y: (torch.rand_like(y) < net.step).float(),
        lambda net, y: torch.rand_like(y) * torch.ones(1, 16, 1, 1),
    ],
)
def test_what_noise_meets_in_training_is_followed(noise: Callable[[Quantized, Tensor], Tensor]) -> None:
    model = Quantized(noise)
    with suppress(ArgumentError):  # a constant of sixteen numbers fixes how many
        prune(model, X, {"enc": torch.rand(16)}, 0.5)
    model.train()
    assert model(X).shape == X.shape


class Frozen(nn.Module):
    """A backbone that runs without gradients, in inference mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.back = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = self.back(x).mean((2, 3))
        made: Tensor = self.head(x)
        return made


def test_what_runs_in_inference_mode_counts() -> None:
    model = Frozen()
    report = prune(model, X, {"back.0": torch.rand(16), "back.2": torch.rand(16)}, macs_ratio=0.6)
    assert report.macs_after == count_macs(model, X).total
    assert report.macs_after <= 0.6 * report.macs_before


class Dispatched(nn.Module):
    """Rows go to the expert that they are meant for; the last gets none of the example."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        y = self.first(x).relu()
        rows = [(x[:, 0] == number).nonzero()[:, 0] for number in range(3)]
        return self.last(torch.cat([expert(y[own]) for expert, own in zip(self.experts, rows, strict=True)]))


def test_an_expert_that_gets_no_rows_stays_as_it_is() -> None:
    x = torch.rand(5, 6)
    x[:, 0] = torch.tensor([0.0, 1, 0, 1, 0])
    model = Dispatched()
    with pytest.raises(ArgumentError, match=r"first: what is taken of it is empty.*it got no inputs"):
        prune(model, x, {"first": torch.rand(16), "experts.0": torch.rand(16)}, 0.5)
    x[:, 0] = torch.tensor([0.0, 1, 2, 1, 2])
    assert model(x).shape == (5, 3)


class TwoWays(nn.Module):
    """One convolution across tokens first, then over channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.shared, self.b = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 16, 1), nn.Conv1d(16, 4, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        return self.b(self.shared(self.shared(y.transpose(1, 2)).transpose(1, 2)))


def test_a_layer_that_was_refused_once_is_refused_again() -> None:
    with pytest.raises(ArgumentError, match="shared") as caught:
        prune(TwoWays(), torch.rand(1, 3, 16), {"a": torch.rand(16)}, 0.5)
    assert "does not run" not in str(caught.value)


class ByHand(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        made: Tensor = super()._conv_forward(x.flip(1), weight, bias)
        return made


def set_on_the_module(layer: nn.Conv2d) -> nn.Conv2d:
    layer.forward = lambda x: functional.conv2d(x.flip(1), layer.weight, layer.bias)  # type: ignore[assignment,method-assign]
    return layer


@pytest.mark.parametrize("make", [lambda: ByHand(16, 6, 1), lambda: set_on_the_module(nn.Conv2d(16, 6, 1))])
def test_forwards_that_are_replaced_in_another_way_are_followed(make: Callable[[], nn.Module]) -> None:
    model = Pair(functional.relu)
    model.b = make()  # type: ignore[assignment]
    with pytest.raises(ArgumentError, match="a: flip along its channels, in b"):
        without(model, "a", [1, 2, 3, 4], 0.25)


def test_the_result_of_out_keeps_its_channels() -> None:
    class Written(Pair):
        def forward(self, x: Tensor) -> Any:
            y = self.a(x)
            out = torch.empty(len(y), 2 * y.shape[1], *y.shape[2:])
            return self.b(torch.cat([y, y], 1, out=out))

    model = Written(functional.relu)
    model.b = nn.Conv2d(32, 6, 1)
    with pytest.raises(ArgumentError, match="out="):
        prune(model, X, {"a": torch.rand(16)}, 0.5)


def test_parameters_in_one_memory_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[1].weight.data = model[0].weight.data
    with pytest.raises(ArgumentError, match="two tensors in the same memory"):
        prune(model, X, {"0": torch.rand(3)}, 0.34)


class Joined(nn.Module):
    """A depthwise convolution of what two others give."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.d = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.c = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.c(self.d(torch.cat([self.a(x), self.b(x)], 1)))


def test_a_depthwise_layer_behind_two_others_is_in_the_report() -> None:
    model = Joined()
    scores = {"a": torch.arange(16.0), "b": torch.arange(8.0)}
    with pytest.raises(ArgumentError, match="passes on the channels of a and b: give rates for these"):
        prune(model, X, scores, {"d": 0.5})
    report = prune(model, X, scores, 0.5)
    (row,) = [layer for layer in report.layers if layer.name == "d"]
    assert (row.group, row.before, row.after) == ("a, b", 24, 12)
    assert row.removed == (*range(8), *range(16, 20))


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.mean(2, keepdim=True).squeeze_(2).unsqueeze_(2),
        lambda x: x * x.mean((2, 3)).sigmoid_().unsqueeze_(2).unsqueeze_(3),
        lambda x: x.relu().transpose_(2, 3),
        lambda x: x * torch.quantile(x.flatten(2), 0.5, dim=2)[..., None, None],
    ],
)
def test_other_shapes_in_place(between: Callable[[Tensor], Tensor]) -> None:
    difference, report = without(Pair(between), "a", [1, 5, 6], 3 / 16)
    assert difference < 1e-6
    assert report.layers[0].removed == (1, 5, 6)
