"""Small networks of each kind, and where each layer's channels can be masked without pruning."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tailcut
from tailcut.channels.pruning.report import PruneReport
from tailcut.structure import create_model, record_of

assert tailcut.models  # its import registers the families

Carriers = Mapping[str, tuple[str, ...]]


class Plain(nn.Sequential):
    """Convolutions, a flattened map, linear layers."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 10, 3, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(360, 12),
            nn.ReLU(),
            nn.Linear(12, 3),
        )


class WidthOfTraining(nn.Module):
    """Its code fixes a width in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.training:
            x = x.reshape(len(x), 8, -1).reshape(x.shape)
        out: Tensor = self.last(x)
        return out


class ConcatenatedDepthwise(nn.Module):
    """Maps beside their depthwise convolution: Torch-Pruning leaves them whole without a word."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False)
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y: Tensor = self.head(torch.cat([x, self.depthwise(x)], 1))
        return y


class Grouped(nn.Module):
    """Grouped convolutions with a channel shuffle between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.first = nn.Conv2d(16, 24, 3, padding=1, groups=4)
        self.shuffle = nn.ChannelShuffle(4)
        self.second = nn.Conv2d(24, 12, 1, groups=2)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2, groups=2)
        self.head = nn.Conv2d(8, 4, 1)
        self.relu1, self.relu2, self.relu3, self.relu4 = (nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.first(self.relu1(self.stem(x))))
        x = self.relu3(self.second(self.shuffle(x)))
        y: Tensor = self.head(self.relu4(self.up(x)))
        return y


class Gated(nn.Module):
    """Squeeze and excitation, a gate over places, a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.relu = nn.ReLU()
        self.squeeze, self.excite = nn.Linear(12, 6), nn.Linear(6, 12)
        self.squeezed = nn.ReLU()
        self.scale = nn.Parameter(torch.ones(12, 1, 1))
        self.gate = nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.excite(self.squeezed(self.squeeze(x.mean((2, 3))))))
        x = x * gate[:, :, None, None] * self.scale
        y: Tensor = self.head(x * torch.sigmoid(self.gate(x.sum(1, keepdim=True))))
        return y


class Halves(nn.Module):
    """A gated linear unit: the first half of the channels times the second."""

    def __init__(self, rigid: bool = False, glu: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 1)
        self.head = nn.Conv2d(8, 4, 1)
        self.identity = nn.Identity()
        self.rigid, self.glu = rigid, glu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.glu:
            gated = functional.glu(x, dim=1)
        else:
            first, second = x.split(8, dim=1) if self.rigid else x.chunk(2, dim=1)
            gated = first * torch.sigmoid(second)
        y: Tensor = self.head(self.identity(gated))
        return y


class Shuffled(nn.Module):
    """Pixel shuffle: four channels become one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.shuffle = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2)
        self.head = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.shuffle(self.relu(self.conv(x))))
        return y


class Shared(nn.Module):
    """One module used twice, one weight in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.right.weight = self.left.weight
        self.head = nn.Conv2d(12, 4, 1)
        self.relu, self.relu_left, self.relu_right = (nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.twice(x))
        x = self.relu(self.twice(x))
        y: Tensor = self.head(torch.cat([self.relu_left(self.left(x)), self.relu_right(self.right(x))], 1))
        return y


class PaddedInCode(nn.Module):
    """Option A with the numbers in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.head = nn.Conv2d(16, 4, 1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.first(x))
        x = self.relu2(self.second(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        y: Tensor = self.head(x)
        return y


class RigidView(nn.Module):
    """The forward says how many numbers it expects."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(2)
        self.hidden, self.head = nn.Linear(32, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.hidden(self.pool(self.conv(x)).view(-1, 32)))
        return y


class HeadsOfAnotherWidth(nn.Module):
    """Attention whose heads are as wide as the input's channels say, not the projection's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.project = nn.Conv2d(3, 16, 3, stride=4), nn.Conv2d(16, 48, 1)
        self.merge, self.hidden, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        batch, width, height, length = x.shape
        q, k, v = self.project(x).reshape(batch, 3, 4, width // 4, -1).unbind(1)
        attended = functional.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT.reshape(batch, width, height, length)
        y: Tensor = self.head(self.hidden(x + self.merge(attended)))
        return y


class ConvNeXt(nn.Module):
    """Layer norm over channels, a depthwise convolution, a scale per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.wide, self.gelu, self.narrow = nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)
        self.gamma = nn.Parameter(torch.full((8,), 0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(self.gelu(self.wide(y)))
        z: Tensor = self.head((x + y.permute(0, 3, 1, 2)).mean((-2, -1)))
        return z


class DropPath(nn.Module):
    """A residual path that is left out for some images while training, as timm draws it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(0.8)
        return x * mask.div_(0.8)


class Dropped(nn.Module):
    """Dropout of channels and of paths, and global pooling of maps in the channels-last layout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.dropout = nn.Dropout2d(0.2)
        self.inner, self.relu2 = nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()
        self.outer, self.path = nn.Conv2d(12, 8, 3, padding=1), DropPath()
        self.sum, self.last, self.relu3 = nn.Identity(), nn.Conv2d(8, 10, 3), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.relu(self.norm(self.stem(x.to(memory_format=torch.channels_last)))))
        x = self.sum(x + self.path(self.outer(self.relu2(self.inner(x)))))
        y: Tensor = self.head(self.pool(self.relu3(self.last(x))).flatten(1))
        return y


class Encoder(nn.Module):
    """torch's own transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.position = nn.Parameter(torch.zeros(1, 16, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        y: Tensor = self.head(self.encoder(x).mean(1))
        return y


class Auxiliary(nn.Module):
    """A second classifier that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.auxiliary = nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.norm(self.conv(x))
        y: Tensor = self.head(x)
        return (y, self.auxiliary(x.mean((2, 3)))) if self.training else y


class Messages(nn.Module):
    """A graph network: nodes send along edges and add up what arrives, written in two ways."""

    source: Tensor
    target: Tensor

    def __init__(self) -> None:
        super().__init__()
        edges = torch.randint(0, 12, (2, 40), generator=torch.Generator().manual_seed(0))
        self.register_buffer("source", edges[0])
        self.register_buffer("target", edges[1])
        self.own1, self.sent1, self.relu1 = nn.Linear(6, 9), nn.Linear(6, 9), nn.ReLU()
        self.own2, self.sent2, self.relu2 = nn.Linear(9, 8), nn.Linear(9, 8), nn.ReLU()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        sent = self.sent1(x)[self.source]
        arrived = sent.new_zeros(len(x), sent.shape[1]).index_add(0, self.target, sent)
        x = self.relu1(self.own1(x) + arrived)
        sent = self.sent2(x)
        sent = sent.gather(0, self.source[:, None].expand(-1, sent.shape[1]))
        own = self.own2(x)
        x = self.relu2(own.scatter_add(0, self.target[:, None].expand_as(sent), sent))
        y: Tensor = self.head(x)
        return y


@dataclass(frozen=True)
class Case:
    """A network, and modules after whose outputs channels may be masked instead of removed.

    Attributes:
        build: makes it.
        carriers: module -> the layers whose channels its output holds, one after another along axis 1 (`last`: along
            the last axis). Masking all of them is the same as removing the channels.
        shape: of an input.
        last: modules whose channels lie along the last axis.
        ignore: layers kept whole, whose removal is not the same as a mask.
    """

    build: Callable[[], nn.Module]
    carriers: Carriers
    shape: tuple[int, ...] = (2, 3, 16, 16)
    last: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def example(self) -> Tensor:
        """An input, float64, always the same."""
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _residual(prefix_depths: Sequence[int], name: str, **arguments: Any) -> Case:
    carriers: dict[str, tuple[str, ...]] = {"relu": ("conv1",)}
    for stage, depth in enumerate(prefix_depths, start=1):
        for block in range(depth):
            carriers[f"layer{stage}.{block}.relu1"] = (f"layer{stage}.{block}.conv1",)
            carriers[f"layer{stage}.{block}.relu2"] = (f"layer{stage}.{block}.conv2",)
    return Case(lambda: create_model(name, **arguments), carriers)


def _bottlenecks() -> Case:
    case = _residual((3, 4, 6, 3), "resnet50", width=4, small_input=True, num_classes=5)
    carriers = dict(case.carriers)
    for name in [name for name in carriers if name.startswith("layer")]:
        if name.endswith("relu2"):
            carriers[name.replace("relu2", "relu3")] = (carriers[name][0].replace("conv2", "conv3"),)
    return Case(case.build, carriers)


def _dense() -> Case:
    carriers: dict[str, tuple[str, ...]] = {}
    held: tuple[str, ...] = ("conv1",)
    for block in (1, 2, 3):
        for layer in range(12):
            carriers[f"dense{block}.{layer}.relu"] = held
            held += (f"dense{block}.{layer}.conv1",)
        if block < 3:
            carriers[f"trans{block}.relu"] = held
            held = (f"trans{block}.conv1",)
    carriers["relu"] = held
    return Case(lambda: create_model("densenet40", growth=3), carriers)


def _inception() -> Case:
    carriers = {"pre_layers.2": ("pre_layers.0",)}
    for block in ("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5", "b5"):
        for branch in ("b1.0", "b2.0", "b2.3", "b3.0", "b3.3", "b3.6", "b4.1"):
            stem, _, place = f"{block}.{branch}".rpartition(".")
            carriers[f"{stem}.{int(place) + 2}"] = (f"{block}.{branch}",)
    return Case(lambda: create_model("googlenet_cifar", width=24), carriers)


def _vgg() -> Case:
    convolutions = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
    carriers = {f"features.{place + 2}": (f"features.{place}",) for place in convolutions}
    carriers["classifier.2"] = ("classifier.0",)
    return Case(lambda: create_model("vgg16_bn_cifar", width=8, hidden=16), carriers, shape=(2, 3, 32, 32))


def _mobile() -> Case:
    carriers = {"relu": ("conv1",)}
    for layer in range(13):
        carriers[f"layers.{layer}.relu1"] = (f"layers.{layer}.conv1",)
        carriers[f"layers.{layer}.relu2"] = (f"layers.{layer}.conv2",)
    return Case(lambda: create_model("mobilenetv1_cifar", width=4), carriers)


def _inverted() -> Case:
    build: Callable[[], nn.Module] = lambda: create_model("mobilenetv2_cifar", width_multiplier=0.25)  # noqa: E731
    carriers = {}
    for name, module in build().named_modules():
        parent, _, place = name.rpartition(".")
        if isinstance(module, nn.ReLU6):
            carriers[name] = (f"{parent}.0",)
        elif isinstance(module, nn.BatchNorm2d) and parent.endswith("conv"):
            carriers[name] = (f"{parent}.{int(place) - 1}",)
    return Case(build, carriers)


def _unet() -> Case:
    def build() -> nn.Module:
        return create_model("unet", widths=(4, 6, 8))

    carriers = {}
    for name, module in build().named_modules():
        if name.endswith(("double_conv.2", "double_conv.5")):
            parent, _, place = name.rpartition(".")
            carriers[name] = (f"{parent}.{int(place) - 2}",)
        elif isinstance(module, nn.ConvTranspose2d):
            carriers[name] = (name,)
    return Case(build, carriers, shape=(1, 3, 18, 20))


def _transformer() -> Case:
    carriers = {f"blocks.{block}.mlp.1": (f"blocks.{block}.mlp.0",) for block in range(2)}

    def build() -> nn.Module:
        return create_model("vit", image_size=16, width=16, depth=2, num_heads=2, mlp_width=24)

    return Case(build, carriers, last=tuple(carriers), ignore=("patch_embedding",))


EXACT: dict[str, Case] = {
    "plain": Case(Plain, {"2": ("0",), "5": ("4",), "8": ("7",)}),
    "vgg": _vgg(),
    "residual, option A": _residual((3, 3, 3), "resnet20", width=8),
    "residual, option B": _residual((2, 2, 2, 2), "resnet18", width=4, small_input=True, num_classes=5),
    "residual, bottlenecks": _bottlenecks(),
    "dense": _dense(),
    "inception": _inception(),
    "depthwise": _mobile(),
    "inverted residual": _inverted(),
    "depthwise beside its input": Case(ConcatenatedDepthwise, {"conv": ("conv",)}),
    "grouped": Case(Grouped, {"relu1": ("stem",), "relu2": ("first",), "relu3": ("second",), "relu4": ("up",)}),
    "gated": Case(Gated, {"relu": ("conv",), "squeezed": ("squeeze",)}, last=("squeezed",)),
    "graph": Case(Messages, {"relu1": ("own1",), "relu2": ("own2",)}, shape=(12, 6), last=("relu1", "relu2")),
    "pixel shuffle": Case(Shuffled, {"relu": ("conv",)}),
    "shared": Case(Shared, {"relu": ("stem",), "relu_left": ("left",), "relu_right": ("right",)}),
    "padded in code": Case(PaddedInCode, {"relu1": ("first",), "relu2": ("second",)}),
    "dropped channels and paths": Case(
        Dropped, {"relu": ("stem",), "relu2": ("inner",), "sum": ("outer",), "relu3": ("last",)}
    ),
    "U-shaped": _unet(),
    "attention": _transformer(),
}


@contextmanager
def masked(model: nn.Module, case: Case, report: PruneReport) -> Iterator[None]:
    """Within the block the channels that the report names are zero instead of gone."""
    kept = {}
    for layer in report.layers:
        kept[layer.name] = torch.ones(layer.before, dtype=torch.float64)
        kept[layer.name][list(layer.removed)] = 0
    handles = []
    try:
        for name, layers in case.carriers.items():
            mask = torch.cat([kept[layer] for layer in layers])
            axis = -1 if name in case.last else 1

            def hide(module: nn.Module, args: Any, output: Tensor, mask: Tensor = mask, axis: int = axis) -> Tensor:
                shape = [1] * output.ndim
                shape[axis] = len(mask)
                return output * mask.view(shape)

            handles.append(model.get_submodule(name).register_forward_hook(hide))
        yield
    finally:
        for handle in handles:
            handle.remove()


def randomized(model: nn.Module, seed: int) -> nn.Module:
    """The model in float64 and evaluation mode with weights and statistics of its own (changes the model)."""
    generator = torch.Generator().manual_seed(seed)
    model.double().eval()
    with torch.no_grad():
        for name, x in (*model.named_parameters(), *model.named_buffers()):
            if x.is_floating_point():
                if x.ndim > 1:
                    # Keeps the size of the maps, so that rounding stays far below what is compared.
                    x.copy_(torch.randn(x.shape, generator=generator, dtype=x.dtype) * (x[0].numel() ** -0.5))
                elif "var" in name or x.ndim == 1:
                    x.copy_(torch.rand(x.shape, generator=generator, dtype=x.dtype) + 0.5)
    return model


def random_scores(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A score for each output channel of each layer that has a weight matrix."""
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for name, module in model.named_modules():
        width = getattr(module, "out_channels", getattr(module, "out_features", None))
        if isinstance(width, int) and isinstance(getattr(module, "weight", None), Tensor):
            scores[name] = torch.rand(width, generator=generator, dtype=torch.float64)
    return scores


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that a rollback must bring back: identities and values of tensors, sizes, modes, record."""
    state: dict[str, Any] = {"record": record_of(model)}
    for path, module in model.named_modules():
        for name, x in (*module._parameters.items(), *module._buffers.items()):
            state[f"{path}.{name}"] = (id(x), None if x is None else x.detach().clone())
        state[f"{path}:"] = {
            key: value for key, value in vars(module).items() if isinstance(value, (int, bool, str, tuple, float))
        }
        state[f"{path}#"] = [len(module._forward_hooks), len(module._forward_pre_hooks)]
    return state


def same_state(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether nothing changed, bit for bit."""
    if before.keys() != after.keys():
        return False
    for key, value in before.items():
        other = after[key]
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Tensor):
            if value[0] != other[0] or not (value[1].is_meta or torch.equal(value[1], other[1])):
                return False
        elif value != other:
            return False
    return True


def macs(model: nn.Module, x: Tensor) -> int:
    """By torch's counter, which sees attention only where it is taken apart."""
    counter = FlopCounterMode(display=False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
        model(x)
    torch.backends.mha.set_fastpath_enabled(fast_path)
    return int(counter.get_total_flops()) // 2


class Backward(torch.autograd.Function):
    """Fails on the way back."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        raise RuntimeError("no way back")


class OneWay(Plain):
    """Runs forward only."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Backward.apply(super().forward(x))  # type: ignore[no-untyped-call]
        return y
