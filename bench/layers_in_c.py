"""What kinds of layers take in C: the same small networks with one of them changed, on cores with and without floats.

Needs what `bench.microcontroller` needs. The networks are not trained: sizes and instructions do not depend on it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.machine import Machine
from bench.microcontroller import M3, M4, measure, missing_tools, write_given
from bench.scale import Scale
from bench.tables import Row, Table
from tailcut.errors import StructureError
from tailcut.export_c import IntegerNetwork, export_c

TITLE = "Kinds of layers in C"
STEPS, FEATURES, WIDTH = 49, 40, 32  # of sound, as keyword spotters read it
PHOTO = (3, 32, 32)
SOUND = (STEPS, FEATURES)


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Conv2d(8, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of the same shape."""
        made: Tensor = x * self.layers(x)
        return made


class Recurrent(nn.Module):
    """A recurrent layer over the steps, whose last state is classified."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(WIDTH, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 12) of steps (batch, steps, features)."""
        made: Tensor = self.head(self.layer(x)[0][:, -1])
        return made


class KeywordTransformer(nn.Module):
    """Blocks of attention over the steps and a class token (Berg et al., 2021); small unless it is told otherwise."""

    def __init__(
        self, *, steps: int = STEPS, width: int = WIDTH, num_heads: int = 4, mlp_ratio: int = 2, depth: int = 2
    ) -> None:
        super().__init__()
        self.embedding, self.head = nn.Linear(FEATURES, width), nn.Linear(width, 12)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, steps + 1, width))
        block = nn.TransformerEncoderLayer(width, num_heads, mlp_ratio * width, activation="gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 12) of steps (batch, steps, features)."""
        steps = torch.cat([self.token.expand(len(x), -1, -1), self.embedding(x)], 1) + self.position
        made: Tensor = self.head(self.blocks(steps)[:, 0])
        return made


def convolutions(*middle: nn.Module) -> nn.Module:
    """Two convolutions, with these layers between them, and the mean of all places."""
    layers = (nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), *middle, nn.Conv2d(16, 16, 3, 2, 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


# With the shape of one input.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions, ReLU": (lambda: convolutions(nn.ReLU()), PHOTO),
    "hard swish": (lambda: convolutions(nn.Hardswish()), PHOTO),
    "SiLU": (lambda: convolutions(nn.SiLU()), PHOTO),
    "GELU": (lambda: convolutions(nn.GELU()), PHOTO),
    "ELU": (lambda: convolutions(nn.ELU()), PHOTO),
    "tanh": (lambda: convolutions(nn.Tanh()), PHOTO),
    "ReLU, squeeze and excitation": (lambda: convolutions(nn.ReLU(), Gate(16)), PHOTO),
    "ReLU, channel shuffle": (lambda: convolutions(nn.ReLU(), nn.ChannelShuffle(4)), PHOTO),
    "ReLU, pixel unshuffle and shuffle": (
        lambda: convolutions(nn.ReLU(), nn.PixelUnshuffle(2), nn.PixelShuffle(2)),
        PHOTO,
    ),
    "ReLU, reflected edge": (lambda: convolutions(nn.ReLU(), nn.ReflectionPad2d(1)), PHOTO),
    "group norm, ReLU": (lambda: convolutions(nn.GroupNorm(4, 16), nn.ReLU()), PHOTO),
    "GRU": (lambda: Recurrent(nn.GRU(FEATURES, WIDTH, batch_first=True)), SOUND),
    "LSTM": (lambda: Recurrent(nn.LSTM(FEATURES, WIDTH, batch_first=True)), SOUND),
    "keyword transformer": (KeywordTransformer, SOUND),
}


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return one table, a row for each network and arithmetic."""
    del machine
    columns = {
        "layers": "",
        "arithmetic": "",
        "code": ",",
        "constants": ",",
        "RAM: arena": ",",
        "RAM: stack": ",",
        "million instructions": ",.2f",
        "difference": ".1e",
    }
    notes = [
        "Bytes. float32 on a Cortex-M4 with its floating-point unit, integers on a Cortex-M3, which has none; -Os, in "
        "QEMU (mps2-an386, -an385), which counts instructions and knows no cycles. difference: the largest from torch "
        "in float64, relative to the largest output. Where integers have no row, they refuse the layer."
    ]
    missing = missing_tools()
    if missing:
        return [Table(TITLE, columns, [], [*notes, f"needs {' and '.join(missing)}."])]
    names = list(NETWORKS)[: 2 if scale.is_tiny else None]
    rows = [_row(name, arithmetic) for name in names for arithmetic in ("float32", "integer")]
    return [Table(TITLE, columns, [row for row in rows if row is not None], notes)]


def _row(name: str, arithmetic: str) -> Row | None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    x = torch.rand(1, *shape)
    is_integer = arithmetic == "integer"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            report = export_c(model, folder, arithmetic=arithmetic, example_input=x)
        except StructureError:
            if not is_integer:
                raise
            return None
        write_given(folder, (32_767 * x).round().to(torch.int64) if is_integer else x)
        found = measure(folder, report, core=M3 if is_integer else M4)
    with torch.no_grad():
        wanted = model.double()(x.double())
        made = IntegerNetwork(model.float())(x) if is_integer else found.outputs
    constants = sum(report.flash_bytes.values())
    return {
        "layers": name,
        "arithmetic": arithmetic,
        "code": found.flash - constants,
        "constants": constants,
        "RAM: arena": report.arena_bytes,
        "RAM: stack": found.stack,
        "million instructions": found.instructions / 1e6,
        "difference": float((made.double().reshape(-1) - wanted.reshape(-1)).abs().max() / wanted.abs().max()),
    }
