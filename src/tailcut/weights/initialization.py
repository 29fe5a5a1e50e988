"""Initialisation of truncated networks: drawn coefficients, scaled by data (LSUV), and a random start for batch norm.

LSUV: Mishkin and Matas, "All You Need Is a Good Init" (2016); the means go into the biases as in Krähenbühl et al.,
"Data-dependent Initializations of Convolutional Neural Networks" (2016).
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from tailcut.errors import ArgumentError, StructureError
from tailcut.model_inputs import InputTensors, example_inputs
from tailcut.running import evaluating
from tailcut.structure import source_of
from tailcut.transform.exact import exact
from tailcut.weights.parametrization.truncated_tensors import TruncatedTensor, truncated_tensors

METHODS = ("he", "rescaled", "normal")
PUBLISHED_STD = 0.1  # of every coefficient in every layer, as in the paper's published code
ROUNDINGS = 16  # outputs that differ by less than so many roundings of their mean are the same


@dataclass(frozen=True)
class _Layer:
    """A layer with a truncated weight, and its truncated bias if it has one."""

    name: str
    module: nn.Module
    weight: TruncatedTensor
    truncated_bias: TruncatedTensor | None

    def shifted_bias(self) -> nn.Parameter | None:
        """Return the layer's bias if it is not truncated, so that it can take any mean."""
        bias = None if self.truncated_bias is not None else self.module.bias
        return bias if isinstance(bias, nn.Parameter) else None


def initialize_coefficients(
    model: nn.Module,
    method: Literal["he", "rescaled", "normal"] = "he",
    *,
    generator: torch.Generator | None = None,
) -> None:
    """Give the coefficients of a truncated network new values or another scale (changes the model), before training.

    A cut takes energy from a random weight: the transform is orthonormal, so that the first n of N coefficients of
    white noise hold n / N of it. Tensors that are not truncated stay as they are.

    Args:
        model: a regularised network.
        method: "he" draws coefficients for which the whole weight has the variance 2 / fan_in, counted as by
            `torch.nn.init.kaiming_normal_` (of transposed convolutions too), and makes truncated biases 0; "rescaled"
            multiplies those that there are by sqrt(N / n); "normal" draws all with a standard deviation of 0.1, as the
            paper's published code does.
        generator: of the draws, on the coefficients' device; torch's global one when None.

    Raises:
        ArgumentError: there is no such method.
        StructureError: the model is not regularised.

    Source:
        He, Zhang, Ren, Sun, "Delving Deep into Rectifiers" (2015), for the variance.
    """
    if method not in METHODS:
        raise ArgumentError(f"expected a method of {', '.join(METHODS)}, got {method!r}")
    tensors = truncated_tensors(source_of(model))
    if not tensors:
        raise StructureError("the model is not regularised: call tailcut.regularize(model) first")
    with torch.no_grad():
        for tensor in tensors:
            enlarged = math.sqrt(math.prod(tensor.shape) / tensor.num_kept)
            if method == "rescaled":
                tensor.vector.mul_(enlarged)
            elif method == "normal":
                tensor.vector.normal_(std=PUBLISHED_STD, generator=generator)
            elif len(tensor.shape) == 1:
                tensor.vector.zero_()  # a bias
            else:
                tensor.vector.normal_(std=enlarged * math.sqrt(2 / math.prod(tensor.shape[1:])), generator=generator)


def lsuv_init(model: nn.Module, example_input: InputTensors) -> dict[str, float]:
    """Scale the coefficients so that each truncated layer's outputs have mean 0 and variance 1 (changes the model).

    A truncated weight is smooth along its channels, and so is what the next layer reads: random coefficients add up or
    cancel out, by factors that no formula of the layer's size knows. So they are measured: linear layers,
    convolutions and transposed ones, in the order in which the network calls them, are each scaled by what they give
    for the example. The variance is the mean over the channels; the bias absorbs each channel's mean, where the layer
    has one that is not truncated (a truncated one is scaled along). Batch norm after a layer takes its scale away:
    such networks need none of this.

    The network is run once, in evaluation mode and without gradients; it keeps its mode. Tensors that are not
    truncated stay as they are, but for those biases. A weight of two layers, or of a layer called twice, is scaled at
    the first call.

    Args:
        model: a regularised network, before training.
        example_input: a batch of a few hundred different images, or what else the network takes: several tensors as a
            tuple, or by name as a dict.

    Returns:
        What each weight was multiplied by, by the tensor's name.

    Raises:
        StructureError: the model is not regularised, or no layer with a truncated weight was called.
        ArgumentError: a layer gives the same, or no finite, numbers for all inputs. The model is then unchanged.
    """
    model = source_of(model)  # a fused view runs parts of layers
    layers, given = _layers(model), example_inputs(example_input)
    before = {id(held): (held, held.detach().clone()) for layer in layers for held in _held(layer)}
    measurement = _Measurement()
    try:
        with ExitStack() as hooks, evaluating(model), torch.no_grad():
            for layer in layers:
                hooks.enter_context(layer.module.register_forward_hook(measurement.hook(layer)))
            given.run(model)
        if not measurement.factors:
            raise StructureError("the network called no layer with a truncated weight for these inputs")
    except BaseException:
        with torch.no_grad():
            for held, content in before.values():
                held.copy_(content)
        raise
    return measurement.factors


def _layers(model: nn.Module) -> list[_Layer]:
    tensors = {name: tensor for tensor in truncated_tensors(model) for name in (tensor.name, *tensor.aliases)}
    if not tensors:
        raise StructureError("the model is not regularised: call tailcut.regularize(model) first")
    found = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        weight = tensors.get(f"{prefix}weight")
        if weight is not None and isinstance(module, (nn.Linear, _ConvNd)):
            found.append(_Layer(path, module, weight, tensors.get(f"{prefix}bias")))
    return found


def _held(layer: _Layer) -> list[Tensor]:
    bias = layer.shifted_bias()
    truncated = None if layer.truncated_bias is None else layer.truncated_bias.vector
    return [layer.weight.vector, *(part for part in (bias, truncated) if part is not None)]


class _Measurement:
    """Scales layers as they are called, so that each is measured on what the scaled ones before it give."""

    def __init__(self) -> None:
        self.factors: dict[str, float] = {}

    def hook(self, layer: _Layer) -> Any:
        """Return a forward hook that scales `layer` and returns its new output."""

        def scale(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor | None:
            if layer.weight.name in self.factors:
                return None
            axis = outputs.ndim - 1 - len(getattr(module, "kernel_size", ()))  # with a batch and without
            mean, deviation = _moments(outputs.movedim(axis, -1).reshape(-1, outputs.shape[axis]), layer.name)
            for held in _held(layer):
                held.div_(deviation)
            self.factors[layer.weight.name] = 1 / deviation
            bias = layer.shifted_bias()
            if bias is None:
                return outputs / deviation
            bias.sub_((mean / deviation).to(bias))
            shape = [1] * outputs.ndim
            shape[axis] = -1
            return (outputs - mean.to(outputs).reshape(shape)) / deviation

        return scale


def _moments(outputs: Tensor, name: str) -> tuple[Tensor, float]:
    """Mean of each channel, and the root of the mean variance, of (numbers, channels)."""
    if outputs.shape[0] > 1:
        variance, mean = torch.var_mean(exact(outputs), dim=0)
        deviation = float(variance.mean().sqrt())
        rounding = ROUNDINGS * torch.finfo(outputs.dtype).eps * float(mean.square().mean().sqrt())
        if rounding < deviation < float("inf"):
            return mean, deviation
        found = f"their standard deviation is {deviation:.3g}, their mean {float(mean.abs().mean()):.3g}"
    else:
        found = "there is only one" if len(outputs) else "there are none"
    raise ArgumentError(
        f"{name or 'the network'}: expected outputs that differ from input to input, but {found}; give a batch of "
        "different inputs, and check that coefficients and biases are finite and not all zero"
    )


def initialize_norms(model: nn.Module, std: float = 1.0, *, generator: torch.Generator | None = None) -> list[str]:
    """Add normal noise to the gains and biases of batch norm (changes the model), before training.

    Each number gets independent noise. Frozen gains and biases stay as they are.

    Args:
        model: a network before training.
        std: standard deviation of the noise, above 0. By custom gains begin at 1, and what they scale has variance 1.
        generator: of the draws, on the device of the gains; torch's global one when None.

    Returns:
        Names of the layers that were changed.

    Raises:
        ArgumentError: `std` is no positive finite number.
        StructureError: there is no batch norm with gains or biases that train.
    """
    if isinstance(std, bool) or not isinstance(std, Real) or not 0 < float(std) < float("inf"):
        raise ArgumentError(f"std must be a finite number above 0, got {std!r}")
    modules = source_of(model).named_modules()
    norms = {name: _trained(module) for name, module in modules if isinstance(module, _BatchNorm)}
    changed = [name for name, parts in norms.items() if parts]
    if not changed:
        raise StructureError(
            "expected batch norm with gains or biases that train, but the network has none (truncate_norms comes after)"
        )
    with torch.no_grad():
        for name in changed:
            for part in norms[name]:
                noise = torch.empty_like(part).normal_(generator=generator)
                part.add_(noise, alpha=float(std))
    return changed


def _trained(norm: _BatchNorm) -> list[nn.Parameter]:
    # What is truncated is no parameter, but computed from its coefficients.
    parts = (part for part in (norm.weight, norm.bias) if isinstance(part, nn.Parameter) and part.requires_grad)
    return [part for part in parts if not isinstance(part, UninitializedParameter)]
