"""The oracle of the networks' forwards: torch's functions in float64 on the tensors by name."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as f
from torch.nn.modules.batchnorm import _BatchNorm


class ByHand:
    """Takes a network, makes its batch norms tell each other apart (changes the network), and applies its layers.

    The network is left in float64 and evaluation mode, in which its forward is to be compared.
    """

    def __init__(self, model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, (_BatchNorm, nn.LayerNorm)):
                    names = ("weight", "bias", "running_mean", "running_var")
                    for tensor in (getattr(module, name, None) for name in names):
                        if tensor is not None:
                            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        model.double().eval()
        self.numbers = {name: tensor.detach() for name, tensor in model.state_dict().items()}

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight, bias = self.numbers[f"{name}.weight"], self.numbers.get(f"{name}.bias")
        return f.conv2d(x, weight, bias, stride, padding, 1, groups)

    def transposed(self, x: Tensor, name: str, stride: int, padding: int) -> Tensor:
        return f.conv_transpose2d(x, self.numbers[f"{name}.weight"], None, stride, padding)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Batch norm with the stored statistics, written out."""
        names = ("running_mean", "running_var", "weight", "bias")
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, variance, scale, shift = (self.numbers[f"{name}.{part}"].view(shape) for part in names)
        normed: Tensor = (x - mean) / (variance + 1e-5).sqrt() * scale + shift
        return normed

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        scaled: Tensor = normed * self.numbers[f"{name}.weight"] + self.numbers[f"{name}.bias"]
        return scaled

    def linear(self, x: Tensor, name: str) -> Tensor:
        product: Tensor = x @ self.numbers[f"{name}.weight"].T
        return product + self.numbers[f"{name}.bias"] if f"{name}.bias" in self.numbers else product


def image(*shape: int) -> Tensor:
    """Random numbers in 0..1, float64."""
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def names_and_shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """What a checkpoint must fit to."""
    return [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]


def on_meta(build: Any, **arguments: Any) -> nn.Module:
    """The network without memory."""
    with torch.device("meta"):
        model: nn.Module = build(**arguments)
    return model
