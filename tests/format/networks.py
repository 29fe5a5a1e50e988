"""Networks and small steps that the tests of the format share."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tests.format import reference_decoder as reference
from torch import nn

import tailcut
from tailcut.structure import registry
from tailcut.weights import truncated_tensors

BARE_UNET = {"bias": False, "affine": False, "running_stats": False}


class Buffers(nn.Module):
    """Buffers of many kinds, one of them not in the state_dict."""

    ramp: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([[True, False, True], [False, False, True]]))
        self.register_buffer("steps", torch.tensor(2**40 + 3))
        self.register_buffer("table", torch.arange(-3, 5, dtype=torch.int16))
        self.register_buffer("levels", torch.arange(250, 256).to(torch.uint8))
        self.register_buffer("nothing", torch.empty(0, 4))
        self.register_buffer("limits", torch.tensor([float("-inf"), -0.0, float("inf")], dtype=torch.float64))
        self.register_buffer("ramp", torch.linspace(0, 1, 5), persistent=False)


class OwnNet(nn.Module):
    """A user's own class: a tied weight, a convolution, normalisation, buffers of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.conv = nn.Conv1d(6, 4, 5)
        self.norm = nn.BatchNorm1d(4)
        self.first = nn.Linear(4, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.constants = Buffers()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, length) numbers from 0 to 10 to (batch, 11)."""
        x = self.norm(self.conv(self.embedding(tokens).transpose(1, 2))).mean(2)
        logits: torch.Tensor = self.head(self.first(x)) + self.constants.ramp.sum()
        return logits


def randomize(model: nn.Module, seed: int) -> nn.Module:
    """Fill parameters and floating-point statistics with numbers of their own (changes the model)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model


def resnet20() -> nn.Module:
    """A small registered network with batch norm, truncated to 60 coefficients a tensor."""
    torch.manual_seed(0)
    model = tailcut.create_model("resnet20")
    tailcut.regularize(model, num_kept=60)
    return model.eval()


def regularized(name: str, seed: int = 0, *, arguments: dict[str, Any] | None = None, **settings: Any) -> nn.Module:
    """A registered network with random numbers, regularised."""
    model = randomize(tailcut.create_model(name, **(arguments or {})), seed)
    tailcut.regularize(model, **settings)
    return model


def known(model: nn.Module) -> reference.Known:
    """What the reference decoder must be told of a registered network, from its plain form."""
    parameters = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    state: dict[int, tuple[str, tuple[int, ...], str]] = {}
    for key in model.state_dict():
        tensor = tensors[key]
        kind = "p" if isinstance(tensor, nn.Parameter) else "b"
        state.setdefault(id(tensor), (key, tuple(tensor.shape), kind))
    return reference.Known(parameters, list(state.values()))


def vectors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The coefficients of each regularised tensor."""
    return {tensor.name: tensor.coefficients().detach() for tensor in truncated_tensors(model)}


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict without the vectors of coefficients."""
    return {key: value for key, value in model.state_dict().items() if ".parametrizations." not in f".{key}"}


def with_checksum(content: bytes) -> bytes:
    """The file with the checksum that its body has."""
    return content[:5] + zlib.crc32(content[9:]).to_bytes(4, "little") + content[9:]


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors agree in type, shape and every bit."""
    raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)]
    return first.dtype == second.dtype and first.shape == second.shape and torch.equal(*raw)


@contextmanager
def registered(name: str, cls: type[nn.Module], *, example_shape: tuple[int, ...] = (1, 4)) -> Iterator[None]:
    """A class that is registered for the time of the block."""
    tailcut.register_model(name, example_shape=example_shape)(cls)
    try:
        yield
    finally:
        del registry._families[name]
