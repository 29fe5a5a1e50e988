"""Networks with every operation that C code knows, plain and truncated layers mixed."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.export_c.export import lower
from tailcut.export_c.program.program import Program


class Activations(nn.Module):
    """All of them side by side."""

    def forward(self, x: Tensor) -> Tensor:
        made = [
            functional.silu(x),
            functional.gelu(x),
            torch.tanh(x),
            torch.sigmoid(x),
            functional.hardswish(x),
            functional.leaky_relu(x, 0.2),
            functional.hardsigmoid(x),
            functional.relu6(3 * x),
            x * 0.5 - 1,
            x / 3 + 2,
            x * torch.sigmoid(x),
        ]
        return torch.cat(made, 1)


class Twice(nn.Module):
    """Two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3)
        self.two = nn.Linear(4 * 6 * 5, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = torch.relu(self.one(x))
        return maps, torch.softmax(self.two(maps.flatten(1)), 1)


def grouped() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)),
        *(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1, groups=4), nn.PReLU(12)),
        *(nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=12), nn.Conv2d(12, 6, (3, 1), (2, 1), (1, 0))),
    )


def transposed() -> nn.Module:
    return nn.Sequential(
        *(nn.ConvTranspose2d(5, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, 3), nn.Tanh()),
        nn.ConvTranspose2d(6, 4, (3, 5), (2, 1), (1, 2), output_padding=(1, 0)),
        *(nn.ConvTranspose2d(4, 4, 2, 2, bias=False), nn.MaxPool2d(2), nn.Conv2d(4, 3, 1)),
    )


def pools() -> nn.Module:
    return nn.Sequential(
        *(nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 6, 3, padding="same"), nn.AvgPool2d(3, 2, 1), nn.LeakyReLU(0.1)),
        *(nn.Conv2d(6, 6, 1), nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.MaxPool2d(2, 2, ceil_mode=True)),
        *(nn.Conv2d(6, 4, 2), nn.AdaptiveAvgPool2d((2, 2)), nn.AdaptiveAvgPool2d((4, 2)), nn.Conv2d(4, 3, 1)),
        *(nn.Flatten(), nn.Linear(24, 7)),
    )


def enlarged() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.Upsample(scale_factor=2), nn.Conv2d(6, 6, 3, padding=1)),
        *(nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU(), nn.Conv2d(6, 5, 1)),
        *(nn.Upsample(size=(50, 47), mode="bilinear", align_corners=True), nn.Upsample(size=(61, 60))),
    )


def repeated() -> nn.Module:
    """Edges that are repeated, alone and before a step that leaves rows out."""
    return nn.Sequential(
        *(nn.ReplicationPad2d((2, 1, 3, 0)), nn.Conv2d(3, 6, 4, 3), nn.ReLU(), nn.ReplicationPad2d(1)),
        *(nn.Conv2d(6, 4, 1), nn.ReplicationPad2d((0, 1, 0, 2)), EveryOther(), nn.Conv2d(4, 3, 2)),
    )


class EveryOther(nn.Module):
    """Every other row and column."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


def activated() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), Activations(), nn.Conv2d(66, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)),
        *(nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5, affine=False, track_running_stats=False), nn.SiLU()),
    )


def flat() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 5 * 6, 7), nn.BatchNorm1d(7)),
        *(nn.ReLU(), nn.Linear(7, 5)),
    )


def pooled_outputs() -> nn.Module:
    """Convolutions that only max pooling reads, the second with a core larger than all maps."""
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 5), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(12, 10, 5), nn.BatchNorm2d(10)),
        *(nn.ReLU(), nn.MaxPool2d((3, 1)), nn.Conv2d(10, 6, 1), nn.MaxPool2d((2, 1)), nn.Sigmoid()),
    )


class Causal(nn.Module):
    """A residual block of a temporal network: outputs that see the past alone."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=2 * dilation, dilation=dilation)
        self.norm, self.beyond = nn.BatchNorm1d(channels), 2 * dilation

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x))[:, :, : -self.beyond] + x)


def sequence() -> nn.Module:
    """Every layer of one axis."""
    return nn.Sequential(
        *(nn.ConstantPad1d((3, 0), 0.0), nn.Conv1d(3, 8, 4, bias=False), nn.BatchNorm1d(8), nn.ReLU(), Causal(8, 2)),
        *(nn.MaxPool1d(3, 2, 1), nn.Conv1d(8, 8, 5, padding="same", groups=8), nn.PReLU(8), nn.AvgPool1d(2)),
        *(nn.ReplicationPad1d((1, 2)), nn.Conv1d(8, 6, 3, 2, 1), nn.Upsample(scale_factor=2), Causal(6, 1)),
        *(nn.ConvTranspose1d(6, 6, 4, 2, 1, output_padding=1), nn.ConvTranspose1d(6, 4, 2, 2), nn.LeakyReLU(0.1)),
        *(nn.Upsample(scale_factor=2, mode="linear"), nn.AdaptiveAvgPool1d(37), nn.Flatten(), nn.Linear(4 * 37, 5)),
    )


class GatedSequence(nn.Module):
    """With numbers for each channel, parts of the channels, means and gates, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 2, 1), nn.Linear(2, 8)
        self.scale, self.shift = nn.Parameter(torch.rand(8, 1) + 0.5), nn.Parameter(torch.rand(1, 8, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(self.conv(x)) * self.scale - self.shift / 2
        means = torch.relu(self.squeeze(y.mean(2, keepdim=True)))
        y = y * torch.sigmoid(self.excite(means.squeeze(-1)))[:, :, None]
        first, rest = y.split([3, 5], 1)
        y = torch.softmax(torch.cat([rest, first], dim=1), 1)
        return y, self.head(y.sum(-1))


def spectrogram() -> nn.Module:
    """A map without an axis of channels."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 17)), nn.Conv2d(1, 6, (3, 5), 2), nn.ReLU(), nn.Flatten(), nn.Linear(192, 4)
    )


def instance_norms() -> nn.Module:
    return nn.Sequential(
        *(
            nn.Conv2d(3, 8, 3, 2),
            nn.InstanceNorm2d(8, affine=True),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3),
            nn.InstanceNorm2d(6),
        ),
        *(nn.LeakyReLU(0.2), nn.Conv2d(6, 4, 1), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    )


# Settings of `truncated`, by what is truncated.
TRUNCATIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "all axes": {"num_kept": 30},
    "channels": {"keep_ratio": 0.4, "axes": (0, 1)},
    "input channels": {"keep_ratio": 0.5, "axes": (1,)},
}

# Name -> the network, the shape of its input.
MADE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "grouped": (grouped, (3, 19, 23)),
    "transposed": (transposed, (5, 5, 7)),
    "pools": (pools, (3, 33, 35)),
    "pooled outputs": (pooled_outputs, (3, 24, 18)),
    "enlarged": (enlarged, (3, 12, 11)),
    "repeated": (repeated, (3, 19, 23)),
    "activated": (activated, (3, 12, 11)),
    "flat": (flat, (3, 19, 23)),
    "twice": (Twice, (3, 8, 7)),
    "sequence": (sequence, (3, 61)),
    "gated sequence": (GatedSequence, (3, 14)),
    "spectrogram": (spectrogram, (17, 11)),
    "instance norms": (instance_norms, (3, 19, 23)),
}


def lively(model: nn.Module) -> nn.Module:
    """With biases and statistics that are no zeros and ones, in evaluation."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.copy_(torch.rand(module.num_features, generator=generator) - 0.5)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.uniform_(bias, -0.5, 0.5, generator=generator)
    return model.eval()


def enliven(model: nn.Module) -> nn.Module:
    """With coefficients as large as those of trained networks, where random weights leave nearly none."""
    generator = torch.Generator().manual_seed(5)
    for tensor in tailcut.weights.truncated_tensors(model):
        fan_in = math.prod(tensor.shape[1:])
        scale = math.sqrt(2 / fan_in * math.prod(tensor.shape) / tensor.num_kept)
        with torch.no_grad():
            tensor.vector.copy_(scale * torch.randn(tensor.vector.shape, generator=generator))
    return model.eval()


def truncated(name: str, **settings: object) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of that name, its layers truncated; without settings all plain."""
    torch.manual_seed(0)
    make, shape = MADE[name]
    model = lively(make())
    if settings:
        tailcut.regularize(model, **settings)  # type: ignore[arg-type]
    return enliven(model), shape


def unet_program() -> Program:
    """A truncated UNet with batch norm by the image's own statistics."""
    torch.manual_seed(0)
    model = tailcut.create_model("unet", widths=(8, 12, 16), bias=False, affine=False, running_stats=False)
    tailcut.regularize(model, num_kept=33)
    program, _ = lower(model, tailcut.to_dense(model).eval(), torch.rand(1, 3, 32, 40))
    return program
