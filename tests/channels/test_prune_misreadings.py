"""Networks whose channels are easily misread. The oracle: channels that are zero change nothing when they go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.channels.pruning.prune import prune
from tailcut.channels.pruning.report import PruneReport
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


def without(model: nn.Module, layer: str, dead: Sequence[int], rate: float) -> tuple[float, PruneReport]:
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
