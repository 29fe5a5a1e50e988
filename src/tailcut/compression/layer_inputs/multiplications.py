"""Weights that a network multiplies its features with: of linear and recurrent layers, convolutions and attention."""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast, get_args

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tailcut.compression.layer_inputs.recurrent_inputs import is_recurrent, multiplied_weights
from tailcut.structure.module_types import (
    LINEAR_LAYERS,
    TRANSFORMERS_CONV1D,
    is_linear,
    is_of_type,
    keeps_forward,
)

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

KINDS = (*LINEAR_LAYERS, *get_args(Convolution), *get_args(Transposed))
WEIGHT_NORM = "torch.nn.utils.parametrizations._WeightNorm"
SPECTRAL_NORM = "torch.nn.utils.parametrizations._SpectralNorm"


@dataclass(frozen=True)
class Multiplication:
    """A weight whose rows are multiplied with the input of a layer.

    Attributes:
        module: that holds it.
        weight: what `stored_name` names: (outputs, inputs, kernel ...), or (inputs, outputs, kernel ...).
        bias: that is added, None if there is none.
        is_plain: whether it is the weight itself, and the forward that of the layer's class here, so that nothing else
            is done in it.
    """

    module: nn.Module
    weight: Tensor
    bias: Tensor | None
    is_plain: bool

    @property
    def is_turned(self) -> bool:
        """Whether the weight is (inputs, outputs, kernel ...), each place of the kernel with outputs of its own."""
        return has_inputs_first(self.module)

    @property
    def rows(self) -> Tensor:
        """The weight with its rows first, (outputs, inputs, kernel ...); of a turned one a copy, (outputs, inputs)."""
        return self.weight.detach().flatten(1).T if self.is_turned else self.weight.detach()

    def set_rows(self, rows: Tensor) -> None:
        """Write numbers that have the form of `rows` into the weight (changes the module)."""
        self.weight.detach().copy_(rows.T.reshape(self.weight.shape) if self.is_turned else rows)

    @property
    def convolution(self) -> Convolution | None:
        """The layer, if it is a convolution."""
        return self.module if isinstance(self.module, Convolution) else None

    @property
    def groups(self) -> int:
        """How many parts the inputs have, each with outputs of its own."""
        return self.module.groups if isinstance(self.module, (Convolution, Transposed)) else 1

    def inputs(self, x: Tensor) -> Tensor:
        """Return the layer's input as a convolution takes it, and else with what is multiplied along the last axis."""
        return x.movedim(-1 - len(self.module.kernel_size), -1) if isinstance(self.module, Transposed) else x


def multiplications(model: nn.Module) -> dict[str, Multiplication]:
    """Return the weights of linear and recurrent layers, convolutions and attention, by name."""
    found = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if multiplies(module):
            own = stored_name(module)
            is_plain = own == "weight" and any(keeps_forward(module, kind) for kind in KINDS)
            weight, bias = attrgetter(own)(module), cast(Tensor | None, module.bias)
            found[f"{prefix}{own}"] = Multiplication(module, weight, bias, is_plain)
        elif is_packed_attention(module):
            parts = module._parameters["in_proj_weight"], module._parameters["in_proj_bias"]
            found[f"{prefix}in_proj_weight"] = Multiplication(module, cast(Tensor, parts[0]), parts[1], True)
        elif is_recurrent(module):
            for own, weight in multiplied_weights(module):  # whose biases nobody moves
                found[f"{prefix}{own}"] = Multiplication(module, weight, None, False)
    return found


def multiplies(module: nn.Module) -> bool:
    """Return whether it is a linear layer, a convolution or a transposed one."""
    return is_linear(module) or isinstance(module, (Convolution, Transposed))


def has_inputs_first(module: nn.Module) -> bool:
    """Return whether the weight is (inputs, outputs, kernel ...)."""
    return isinstance(module, Transposed) or is_of_type(module, TRANSFORMERS_CONV1D)


def stored_name(module: nn.Module) -> str:
    """Return the attribute, with dots, that the numbers of a layer's weight come from. No weight is computed for that.

    That is the weight itself; of one under weight norm or spectral norm what is normalised: each of its rows is a row
    of the weight but for a factor, so that the errors in one make each other good as in the other.
    """
    outputs = 1 if has_inputs_first(module) else 0
    if parametrize.is_parametrized(module, "weight"):
        chain: Any = cast(nn.ModuleDict, module.parametrizations)["weight"]
        if len(chain) == 1 and is_of_type(chain[0], WEIGHT_NORM) and chain[0].dim == outputs:
            return "parametrizations.weight.original1"
        if len(chain) == 1 and is_of_type(chain[0], SPECTRAL_NORM):
            return "parametrizations.weight.original"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight" and hook.dim == outputs:
            return "weight_v"
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            return "weight_orig"
    return "weight"


def is_packed_attention(module: nn.Module) -> bool:
    """Return whether it is torch's attention, with one weight for queries, keys and values."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and isinstance(module._parameters.get("in_proj_weight"), nn.Parameter)
        and isinstance(module.out_proj._parameters.get("weight"), nn.Parameter)
    )
