"""Labels against the numbers themselves: an operation that only moves numbers must move labels alike."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.channels.graph.groups import find_groups
from tailcut.channels.graph.tracing import Trace, trace

CHANNELS = 8


class Through(nn.Module):
    """A convolution, an operation, and what it gives as the output of a second one that sees it whole."""

    def __init__(self, operation: Callable[[Tensor], Tensor], channels: int = CHANNELS) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 1)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self.first(x))


class Before(nn.Module):
    """As `Through`, then a second convolution."""

    def __init__(self, operation: Callable[[Tensor], Tensor], out: int = CHANNELS) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 1)
        self.operation = operation
        self.second = nn.Conv2d(out, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.operation(self.first(x)))
        return y


X = torch.rand(2, 3, 4, 6)


def traced(operation: Callable[[Tensor], Tensor], out: int = CHANNELS) -> Trace:
    return trace(Before(operation, out), (X,))


def places(found: Trace) -> list[int]:
    """For each input channel of the second layer which output channel of the first it is, -1 for none."""
    outer, inner = found.layers["first"].outer, found.layers["second"].inner
    assert outer is not None
    assert inner is not None
    channels = found.coupling.roots(outer).tolist()
    return [channels.index(unit) if unit else -1 for unit in found.coupling.roots(inner).tolist()]


def locked(found: Trace) -> set[str]:
    outer = found.layers["first"].outer
    assert outer is not None
    reasons = found.coupling.locked_units()
    return {reasons[unit] for unit in found.coupling.roots(outer).tolist() if unit in reasons}


MOVES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "transposed twice": (lambda x: x.transpose(1, 3).permute(0, 3, 2, 1), 8),
    "flattened and back": (lambda x: x.flatten(2).unflatten(2, (4, 6)), 8),
    "to the last axis and back": (lambda x: x.movedim(1, -1).reshape(-1, 8).view(2, 4, 6, 8).movedim(-1, 1), 8),
    "joined with itself": (lambda x: torch.cat([x, x.relu()], 1), 16),
    "repeated": (lambda x: x.repeat(1, 2, 1, 1), 16),
    "stacked and read out": (lambda x: torch.stack([x, x + 1], 1)[:, 1], 8),
    "spatial slices": (lambda x: x[:, :, ::2, 1:], 8),
    "spatial flips and rolls": (lambda x: x.flip(2).roll(1, 3), 8),
    "padded around": (lambda x: functional.pad(x, (1, 2, 0, 1)), 8),
    "reflected around": (lambda x: functional.pad(x, (1, 2, 1, 1), mode="reflect"), 8),
    "in the middle of zeros": (lambda x: functional.pad(x, (0, 0, 0, 0, 3, 2)), 13),
    "expanded": (lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 5, 5), 8),
    "squeezed": (lambda x: x[:1].squeeze(0).unsqueeze(0), 8),
    "out of place": (lambda x: torch.empty_like(x).copy_(x), 8),
    "at other strides": (lambda x: x.contiguous().as_strided((2, 8, 2, 3), (192, 24, 12, 2), 1), 8),
    "turned by strides": (lambda x: x.contiguous().as_strided((2, 8, 4, 3), (192, 24, 1, 4)), 8),
    "at other strides, channels last": (
        lambda x: x.to(memory_format=torch.channels_last).as_strided((2, 8, 4, 3), (192, 1, 48, 16)),
        8,
    ),
    "every other channel twice": (
        lambda x: torch.cat([x.contiguous().as_strided((2, 4, 4, 6), (192, 48, 6, 1))] * 2, 1),
        8,
    ),
    "rows by number": (lambda x: x[:, :, [2, 0, 2]], 8),
    "points by numbers": (lambda x: x[:, :, [[2, 0], [2, 3]], [[1, 5], [0, 0]]], 8),
    "images and rows by numbers": (lambda x: x[[1, 0, 1], :, [[2], [3]]].transpose(1, 2), 8),
    "columns selected": (lambda x: x.index_select(3, torch.tensor([5, 0, 0])), 8),
    "gathered": (lambda x: x.gather(2, torch.zeros(1, dtype=torch.long).expand(2, x.shape[1], 3, 6)), 8),
    "added at places": (
        lambda x: torch.zeros_like(x[:, :, :2]).index_add_(2, torch.tensor([1, 0, 0, 0]), x),
        8,
    ),
    "copied to places": (lambda x: x.new_zeros(2, 8, 4, 6).index_copy(2, torch.tensor([2, 3]), x[:, :, :2]), 8),
    "scattered": (
        lambda x: torch.zeros_like(x).scatter_reduce(2, torch.full((2, x.shape[1], 4, 6), 2), x, "amax"),
        8,
    ),
    "channels-last mean": (
        lambda x: functional.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1).expand(-1, -1, 2, 2),
        8,
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_numbers_that_are_moved_keep_their_channels(name: str) -> None:
    operation, out = MOVES[name]
    # The oracle: a map whose values are the channels' numbers, one more than the place, goes the same way.
    numbers = (torch.arange(CHANNELS) + 1.0).view(1, -1, 1, 1).expand(2, -1, 4, 6).clone()
    result = operation(numbers)
    middle = result[0, :, result.shape[2] // 2, result.shape[3] // 2 - 1]
    expected = [int(value) - 1 for value in middle.tolist()]
    if name in ("joined with itself", "stacked and read out"):
        expected = [place % CHANNELS for place in range(out)]
    assert places(traced(operation, out)) == expected
    assert locked(traced(operation, out)) == set()


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "activations": lambda x: functional.gelu(functional.hardswish(functional.leaky_relu(x).sigmoid().tanh())),
    "in place": lambda x: x.relu_().mul_(2).add_(1),
    "clamped": lambda x: x.clamp(0, 6).pow(2).sqrt(),
    "dropout": lambda x: functional.dropout(x, 0.5, training=True),
    "average pooling": lambda x: functional.avg_pool2d(x, 2),
    "max pooling": lambda x: functional.max_pool2d(x, 3, 1, 1),
    "adaptive pooling": lambda x: functional.adaptive_avg_pool2d(x, (3, 2)),
    "resized": lambda x: functional.interpolate(functional.interpolate(x, scale_factor=2), (3, 5), mode="bilinear"),
    "softmax over places": lambda x: x.flatten(2).softmax(-1).view_as(x),
    "own zeros": lambda x: x + torch.zeros_like(x) + torch.rand_like(x),
    "at the places of its largest": lambda x: x.flatten(2).gather(2, x.flatten(2).max(2, keepdim=True).indices)[
        ..., None
    ],
    "chosen": lambda x: torch.where(x > 0, x, -x),
    "normalised over places": lambda x: (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True),
    "normalised over channels": lambda x: x / x.norm(dim=1, keepdim=True),
    "gated by the mean of channels": lambda x: x * x.mean(1, keepdim=True).sigmoid() * x.amax(1, keepdim=True),
    "a number": lambda x: 3 * x / torch.tensor(2.0) - 1,
    "in double": lambda x: x.double().float(),
    "a scale over places": lambda x: x * torch.ones(4, 6),
    "dropout of channels": lambda x: functional.dropout2d(x, 0.5, training=True),
    "alpha dropout of channels": lambda x: functional.feature_alpha_dropout(x, 0.5, training=True),
    "dropout of images": lambda x: x * x.new_empty((len(x), 1, 1, 1)).bernoulli_(0.5).div_(0.5),
    "new zeros and ones": lambda x: x * x.new_ones(x.shape) + x.new_zeros(1, x.shape[1], 1, 1) + x.new_full((1,), 2.0),
    "beside its own zeros": lambda x: torch.cat([x, x.new_zeros(x.shape)], 1)[:, :, 1:].unflatten(1, (2, -1)).sum(1),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_works_channel_by_channel_keeps_them(name: str) -> None:
    found = traced(KEPT[name])
    assert places(found) == list(range(CHANNELS))
    assert locked(found) == set()


LOST: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "constants per channel": (lambda x: x + torch.ones(8, 1, 1), "is combined with numbers that have no channels"),
    "new constants of another shape": (
        lambda x: x * x.new_ones(8, 1, 1),
        "is combined with numbers that have no channels",
    ),
    "read beside them": (
        lambda x: (
            x[:1].contiguous().as_strided((1, 8, 2, 2), (0, 24, 1, 1))
            * x.narrow(2, 0, 2).as_strided((1, 8, 2, 2), (0, 24, 6, 6), 0)
        ),
        "reads numbers outside of its input",
    ),
    "some channels": (lambda x: torch.cat([x[:, :3], x[:, 3:]], 1), "slice along its channels"),
    "one channel": (lambda x: x * x[:, 2:3], "slice along its channels"),
    "by index": (lambda x: x[:, [1, 0, 2, 3, 4, 5, 6, 7]], "chosen by an index along its channels"),
    "by a mask": (lambda x: x[:, :, torch.tensor([True, False, True, True])], "aten.index.Tensor by a mask"),
    "selected": (lambda x: x.index_select(1, torch.arange(8)), "chosen by an index along its channels"),
    "some gathered": (
        lambda x: torch.cat([x.gather(2, torch.zeros(2, 4, 4, 6, dtype=torch.long))] * 2, 1),
        "some of its channels are chosen by an index",
    ),
    "added along channels": (
        lambda x: torch.zeros_like(x).index_add(1, torch.arange(8), x),
        "scattered by an index along its channels",
    ),
    "added to constants": (
        lambda x: torch.zeros(2, 8, 4, 6).index_add(2, torch.arange(4), x),
        "scattered among numbers that have no channels",
    ),
    "added to fewer channels": (
        lambda x: (
            x.new_zeros(2, 4, 4, 6).scatter_add(2, torch.zeros(2, 4, 4, 6, dtype=torch.long), x).repeat(1, 2, 1, 1)
        ),
        "scattered into a tensor of another shape",
    ),
    "by its own numbers": (
        lambda x: x.index_select(2, x.mean((0, 2, 3)).long().clamp(0, 3)),
        "is used as an index",
    ),
    "filled at places": (
        lambda x: x.scatter(2, torch.zeros(2, x.shape[1], 1, 6, dtype=torch.long), 0.0),
        "cannot be followed through aten.scatter.value",
    ),
    "flipped": (lambda x: x.flip(1), "flip along its channels"),
    "softmax": (lambda x: x.softmax(1), "_softmax along its channels"),
    "unequal parts": (lambda x: torch.cat(x.split([3, 5], 1), 1), "unequal parts"),
    "products of maps": (lambda x: (x.flatten(2) @ x.flatten(2).mT).flatten(1)[:, :8, None, None], "multiplied with"),
    "distances of maps": (
        lambda x: x * functional.mse_loss(x, torch.rand(2, 8, 4, 6)) + functional.huber_loss(x, x.flip(2)),
        "through aten.mse_loss.default, in the network's forward",
    ),
    "filled from a tensor": (
        lambda x: torch.empty_like(x).fill_(torch.tensor(2.0)),
        "several tensors go into aten.fill_",
    ),
    "running sums": (lambda x: x.cumsum(1), "cumsum along its channels"),
    "sorted": (lambda x: x.sort(1).values, "sort along its channels"),
    "cropped": (lambda x: functional.pad(x, (0, 0, 0, 0, -1, 1)), "cut off along its channels"),
    "Fourier": (lambda x: torch.fft.rfft2(x).real[..., :4], "cannot be followed through aten._fft_r2c"),
    "into a fixed tensor": (lambda x: torch.zeros(2, 8, 4, 6).copy_(x), "combined with numbers"),
    "outer products": (
        lambda x: (x.mean((2, 3))[:, :, None] * x.mean((2, 3))[:, None]).flatten(1)[:, :8, None, None],
        "stretched over other channels",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_what_cannot_be_cut_is_locked_with_the_reason(name: str) -> None:
    operation, reason = LOST[name]
    found = traced(operation)
    outer = found.layers["first"].outer
    assert outer is not None
    assert all(reason in why for why in locked(found)), locked(found)
    assert set(found.coupling.roots(outer).tolist()) <= set(found.coupling.locked_units())


def units(operation: Callable[[Tensor], Tensor], out: int) -> list[list[int]]:
    """The channels of the first layer that go together."""
    graph = find_groups(Before(operation, out), (X,))
    outer = graph.layer("first").outer
    assert outer is not None
    roots = graph.coupling.roots(outer).tolist()
    return [[place for place, root in enumerate(roots) if root == unit] for unit in dict.fromkeys(roots)]


def test_parts_that_must_stay_equally_wide() -> None:
    assert units(lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], 4) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert units(lambda x: functional.pixel_shuffle(x, 2), 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    there_and_back = lambda x: functional.pixel_unshuffle(functional.pixel_shuffle(x, 2), 2)  # noqa: E731
    assert units(there_and_back, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert units(lambda x: functional.pixel_unshuffle(x, 2), 32) == [[place] for place in range(8)]
    shuffled = lambda x: functional.channel_shuffle(x, 4)  # noqa: E731
    assert units(shuffled, 8) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    by_hand = lambda x: x.view(2, 2, 4, 4, 6).transpose(1, 2).reshape(2, 8, 4, 6)  # noqa: E731
    assert units(by_hand, 8) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_assumptions_are_noted() -> None:
    found = traced(lambda x: x.chunk(2, 1)[0].repeat(1, 2, 1, 1))
    assert set(found.coupling.assumed_units().values()) == {"its channels are split, in the network's forward"}
    found = traced(lambda x: x.view(2, 8, 24).view(2, 8, 4, 6))
    assert set(found.coupling.assumed_units().values()) == {"its channels are reshaped, in the network's forward"}
    assert traced(lambda x: x.relu()).coupling.assumed_units() == {}


def test_messages_say_where() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flip(1)

    found = traced(Inner())
    assert locked(found) == {"flip along its channels, in operation"}


def test_views_as_another_type_are_not_followed() -> None:
    found = traced(lambda x: torch.view_as_real(torch.view_as_complex(x.unflatten(3, (3, 2)))).flatten(3))
    assert any("cannot be followed" in why for why in locked(found))


def test_constants_over_places_lock_nothing() -> None:
    def operation(x: Tensor) -> Tensor:
        return x + torch.arange(24).view(4, 6)[None, None]

    assert locked(traced(operation)) == set()
