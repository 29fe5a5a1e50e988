"""Random networks: the fused view of each gives what the network itself gives, in float64 and with gradients.

`python -m fuzz.graphs 300` tries 300; `python -m fuzz.graphs 1 --first 17` the one with the seed 17.
"""

import argparse
import random
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.execution import FusedNetwork

TOLERANCE = 1e-7  # of the largest number of a tensor; float64 leaves room for sums in another order
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.relu,
    torch.tanh,
    torch.sigmoid,
    functional.gelu,
    functional.silu,
    functional.hardswish,
    lambda x: functional.leaky_relu(x, 0.1),
    lambda x: functional.relu6(x),
    lambda x: x * 0.5 + 1,
)


class Step(nn.Module):
    """One step of a random network: a map to a map of the same sizes beside the channels, unless it says otherwise."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels


class Convolution(Step):
    """A convolution of any kind: grouped, depthwise, dilated, by 1; then perhaps a norm and an activation."""

    def __init__(self, rng: random.Random, axes: int, channels: int) -> None:
        depthwise = rng.random() < 0.2
        out = channels if depthwise else rng.choice((8, 12, 16, 24))
        super().__init__(channels, out)
        kernel, dilation = rng.choice((1, 3, 3, 5)), rng.choice((1, 1, 2))
        groups = channels if depthwise else rng.choice((1, 1, 1, 2, 4))
        mode: Any = rng.choice(("zeros", "zeros", "zeros", "reflect", "replicate", "circular")) if axes < 3 else "zeros"
        self.layer = CONVOLUTIONS[axes](
            channels,
            out,
            kernel,
            padding=dilation * (kernel // 2) if mode == "zeros" else min(2, dilation * (kernel // 2)),
            dilation=dilation if mode == "zeros" else 1,
            groups=groups,
            bias=rng.random() < 0.5,
            padding_mode=mode,
        )
        if mode != "zeros":
            self.layer.padding = (kernel // 2,) * axes
            self.layer._reversed_padding_repeated_twice = [kernel // 2] * (2 * axes)
        self.norm = _norm(rng, axes, out)
        self.activation = rng.choice(ACTIVATIONS)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.layer(x)))


class DownAndUp(Step):
    """Half the size and back: a stride or pooling, then a transposed convolution or interpolation."""

    def __init__(self, rng: random.Random, axes: int, channels: int) -> None:
        super().__init__(channels, channels)
        groups = rng.choice((1, 1, 2))
        self.pooled = rng.random() < 0.4
        self.down = CONVOLUTIONS[axes](channels, 16, 3, stride=1 if self.pooled else 2, padding=1, groups=groups)
        self.up = TRANSPOSED[axes](16, channels, 2, stride=2, groups=rng.choice((1, 2, 4)), bias=rng.random() < 0.5)
        self.nearest = rng.random() < 0.3
        self.mix = CONVOLUTIONS[axes](16, channels, 1)
        self.norm = _norm(rng, axes, channels)
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.down(x))
        if self.pooled:
            y = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[self.axes - 1](y, 2)
        y = functional.interpolate(self.mix(y), scale_factor=2) if self.nearest else self.up(y)
        made: Tensor = x + self.norm(y)
        return made


class Residual(Step):
    """A bottleneck beside its input."""

    def __init__(self, rng: random.Random, axes: int, channels: int) -> None:
        super().__init__(channels, channels)
        self.first, self.second = Convolution(rng, axes, channels), nn.Identity()
        self.last = CONVOLUTIONS[axes](self.first.out_channels, channels, 1, bias=False)
        self.norm = _norm(rng, axes, channels)
        self.in_place = rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.last(self.first(x)))
        if self.in_place:
            y += x
            return torch.relu_(y)
        return torch.relu(x + y)


class Dense(Step):
    """Two branches side by side, concatenated with the input or with one another, perhaps split again."""

    def __init__(self, rng: random.Random, axes: int, channels: int) -> None:
        one, other = Convolution(rng, axes, channels), Convolution(rng, axes, channels)
        self_too = rng.random() < 0.5
        super().__init__(channels, one.out_channels + other.out_channels + self_too * channels)
        self.one, self.other, self.self_too = one, other, self_too
        self.swap = rng.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.one(x), self.other(x), *([x] if self.self_too else [])], 1)
        return torch.cat(y.chunk(2, 1)[::-1], 1) if self.swap else y


class Beside(Step):
    """A map and an activation of it side by side, in either order; perhaps one in place on what padding returned."""

    def __init__(self, rng: random.Random, axes: int, channels: int) -> None:
        super().__init__(channels, 32)
        self.layer = CONVOLUTIONS[axes](channels, 16, 3, padding=1)
        self.first, self.second = (
            rng.choice(ACTIVATIONS),
            rng.choice((torch.relu, torch.sigmoid, torch.tanh, torch.abs)),
        )
        self.in_place, self.swap = rng.random() < 0.3, rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.layer(x))
        z = torch.relu_(functional.pad(y, (0, 0))) if self.in_place else self.second(y)
        return torch.cat([y, z] if self.swap else [z, y], 1)


class Excitation(Step):
    """Squeeze and excitation: channels scaled by what their means say."""

    def __init__(self, rng: random.Random, axes: int, channels: int) -> None:
        super().__init__(channels, channels)
        self.down, self.up = nn.Linear(channels, 8), nn.Linear(8, channels, bias=rng.random() < 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.up(torch.relu(self.down(x.flatten(2).mean(2)))))
        return x * scale.reshape(*scale.shape, *[1] * (x.ndim - 2))


class Attention(Step):
    """Pre-norm attention over positions, and a feed-forward part."""

    def __init__(self, rng: random.Random, axes: int, channels: int) -> None:
        super().__init__(channels, channels)
        self.norm, self.heads = nn.LayerNorm(channels), rng.choice((1, 2, 4))
        self.by_module = rng.random() < 0.3
        if self.by_module:
            self.attention = nn.MultiheadAttention(channels, self.heads, batch_first=True)
        else:
            self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.feed = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 32), nn.GELU(), nn.Linear(32, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        y = self.norm(tokens)
        if self.by_module:
            y = self.attention(y, y, y, need_weights=False)[0]
        else:
            parts = self.qkv(y).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
            y = self.out(y.transpose(1, 2).flatten(2))
        tokens = tokens + y
        tokens = tokens + self.feed(tokens)
        made: Tensor = tokens.transpose(1, 2).reshape(x.shape)
        return made


class Control(Step):
    """What is run depends on numbers: a branch by the mean, a loop over one layer, a layer by the mode."""

    def __init__(self, rng: random.Random, axes: int, channels: int) -> None:
        super().__init__(channels, channels)
        self.branches = nn.ModuleList(CONVOLUTIONS[axes](channels, channels, 3, padding=1) for _ in range(2))
        self.times = rng.choice((1, 2, 3))
        self.threshold = rng.uniform(-0.2, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.branches[int(x.mean() > self.threshold)]
        for _ in range(self.times):
            x = x + 0.1 * torch.tanh(branch(x))
        if self.training:
            x = x * 1.5
        return x


STEPS: tuple[type, ...] = (
    Convolution,
    Convolution,
    DownAndUp,
    Residual,
    Residual,
    Dense,
    Beside,
    Excitation,
    Attention,
    Control,
)


class RandomNetwork(nn.Module):
    """Steps after one another, some of which are run twice or skipped by, and a head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.axes = rng.choice((1, 2, 2, 2, 2, 3))
        side = {1: (16,), 2: (8, 12), 3: (4, 4, 8)}[self.axes]
        self.shape = (2, 8, *side)
        channels = 8
        self.steps = nn.ModuleList()
        for _ in range(rng.randint(2, 5)):
            step = rng.choice(STEPS)(rng, self.axes, channels)
            self.steps.append(step)
            channels = step.out_channels
            if channels > 48:
                self.steps.append(CONVOLUTIONS[self.axes](channels, 16, 1))
                channels = 16
        self.again = rng.randrange(len(self.steps)) if rng.random() < 0.3 else -1
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        for place, step in enumerate(self.steps):
            y = step(x)
            if place == self.again and y.shape == x.shape:
                y = step(y) + x
            x = y
        logits: Tensor = self.head(x.flatten(2).mean(2))
        return logits


def _norm(rng: random.Random, axes: int, channels: int) -> nn.Module:
    kinds: tuple[Callable[[], nn.Module], ...] = (
        lambda: BATCH_NORMS[axes](channels),
        lambda: BATCH_NORMS[axes](channels, affine=False),
        lambda: BATCH_NORMS[axes](channels, track_running_stats=False),
        lambda: nn.GroupNorm(rng.choice((1, 2, 4)), channels),
        lambda: INSTANCE_NORMS[axes](channels, affine=True),
        nn.Identity,
    )
    return rng.choice(kinds)()


def network(seed: int) -> tuple[RandomNetwork, Tensor]:
    """Return a regularised random network in float64, in either mode, and an input."""
    rng = random.Random(seed + 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = RandomNetwork(seed).double()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
        x = torch.randn(model.shape, dtype=torch.float64)
        if rng.random() < 0.5:
            tailcut.regularize(model, num_kept=rng.choice((1, 3, 6, 20)))
        else:
            tailcut.regularize(model, keep_ratio=rng.choice((0.02, 0.1, 0.3)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train(rng.random() < 0.5), x


def compare(seed: int) -> None:
    """Outputs, gradients and running statistics of the fused view and of the network; without gradients, outputs.

    Raises:
        AssertionError: they differ.
    """
    model, x = network(seed)
    is_training = model.training
    inputs = (x, x.flip(0) * 0.5, x)  # the first call tries, the others know
    before = [buffer.clone() for buffer in model.buffers()]
    wanted = [_results(model, model, each) for each in inputs]
    for strategy in ("low_rank", "auto"):
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        view = tailcut.fuse(model)
        view.strategy = strategy
        for call, (each, expected) in enumerate(zip(inputs, wanted, strict=True)):
            _check(expected, _results(view, model, each), f"seed {seed}, {strategy}, call {call + 1}")
        model.eval()
        with torch.no_grad():
            _check(
                {"input": x, "output": model(x)},
                {"input": x, "output": view(x)},
                f"seed {seed}, {strategy}, without gradients",
            )
        model.train(is_training)


def _results(runner: nn.Module | FusedNetwork, model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    own = x.clone().requires_grad_()
    output = runner(own)
    (output.square().sum() + output.sum()).backward()
    found: dict[str, Tensor | None] = {"output": output.detach(), "input": own.grad}
    found |= {f"{name}.grad": None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def _check(wanted: dict[str, Tensor | None], found: dict[str, Tensor | None], what: str) -> None:
    largest = max(float(tensor.abs().max()) for tensor in (wanted["input"], wanted["output"]) if tensor is not None)
    for name, expected in wanted.items():
        got = found[name]
        if (expected is None) != (got is None):
            raise AssertionError(f"{what}: {name} has a gradient in one of them only")
        if expected is None or got is None or expected.numel() == 0:
            continue
        error = float((expected.double() - got.double()).abs().max())
        bound = TOLERANCE * max(1.0, largest, float(expected.double().abs().max()))
        if not error <= bound:
            raise AssertionError(f"{what}: {name} differs by {error:.3g}, allowed is {bound:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.graphs", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=300, help="of networks")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wrong = []
    for seed in range(options.first, options.first + options.count):
        try:
            compare(seed)
        except Exception:  # noqa: BLE001 -- whatever it raises is what is looked for
            traceback.print_exc()
            wrong.append(seed)
    print(f"{options.count} networks, seeds with findings: {wrong or 'none'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
