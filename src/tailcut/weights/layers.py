"""Layer table: the parameters of each layer type that are regularised, and the meaning of their axes.

A new layer type is one new row.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from tailcut.structure import sharing
from tailcut.structure.module_types import GEOMETRIC_LINEAR, TRANSFORMERS_CONV1D, is_of_type

_OUT_IN = ("output", "input")
_IN_OUT = ("input", "output")
_KERNEL = ("kernel", "kernel", "kernel")
_RECURRENT: dict[str, tuple[str, ...]] = {"weight_ih*": _OUT_IN, "weight_hh*": _OUT_IN, "weight_hr*": _OUT_IN}
_ATTENTION: dict[str, tuple[str, ...]] = {
    "in_proj_weight": _OUT_IN,
    "q_proj_weight": _OUT_IN,
    "k_proj_weight": _OUT_IN,
    "v_proj_weight": _OUT_IN,
}


@dataclass(frozen=True)
class Layer:
    """One row: a layer type, the roles of its weights' axes, and its biases.

    Attributes:
        type: the module class (subclasses count); of a library that is not needed here, its full name.
        weights: parameter name, or shell-style pattern -> role of each axis: "output", "input" or "kernel". The outputs
            of recurrent layers are those of their gates, one gate behind the other.
        biases: names or patterns of parameters that are regularised on request only.
        once_per_forward: the forward reads its weights more than once, or reads those of a child: they are
            computed once before it and dropped after it.
    """

    type: type[nn.Module] | str
    weights: dict[str, tuple[str, ...]]
    biases: tuple[str, ...] = ("bias",)
    once_per_forward: bool = False

    def roles(self, attribute: str) -> tuple[str, ...] | None:
        """Return the roles of the axes of one parameter, or None if it is not a weight in this row."""
        return next((axes for pattern, axes in self.weights.items() if fnmatchcase(attribute, pattern)), None)


LAYERS = (
    Layer(nn.Linear, {"weight": _OUT_IN}),
    Layer(nn.Bilinear, {"weight": ("output", "input", "input")}),
    Layer(nn.Conv1d, {"weight": _OUT_IN + _KERNEL[:1]}),
    Layer(nn.Conv2d, {"weight": _OUT_IN + _KERNEL[:2]}),
    Layer(nn.Conv3d, {"weight": _OUT_IN + _KERNEL}),
    Layer(nn.ConvTranspose1d, {"weight": _IN_OUT + _KERNEL[:1]}),
    Layer(nn.ConvTranspose2d, {"weight": _IN_OUT + _KERNEL[:2]}),
    Layer(nn.ConvTranspose3d, {"weight": _IN_OUT + _KERNEL}),
    Layer(nn.Embedding, {"weight": ("input", "output")}, biases=()),
    Layer(nn.EmbeddingBag, {"weight": ("input", "output")}, biases=()),
    Layer(nn.MultiheadAttention, _ATTENTION, biases=("in_proj_bias", "bias_k", "bias_v"), once_per_forward=True),
    Layer(nn.RNNBase, _RECURRENT, biases=("bias_*",), once_per_forward=True),
    Layer(nn.RNNCellBase, _RECURRENT, biases=("bias_*",)),
    Layer(TRANSFORMERS_CONV1D, {"weight": _IN_OUT}),
    Layer(GEOMETRIC_LINEAR, {"weight": _OUT_IN}),
)

NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_TABLES = (nn.Embedding, nn.EmbeddingBag)
# "LlamaRMSNorm" and "GlobalResponseNormalization" have it, but not "NormalDistribution" and "EnormousScale".
_NORM_NAME = re.compile(r"norm(?!ous|al(?!i[sz]))", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """One parameter of a network, as seen by `regularize`.

    Attributes:
        names: its name, and further names if it is tied.
        owners: the modules that hold it and its attribute name there, one per name.
        parameter: the tensor.
        is_weight: the layer table counts it as a weight.
        reservation: why it is left unless `include` has its full name, None if there is nothing against it.
        obstacle: why it cannot be regularised, None if it can.
    """

    names: tuple[str, ...]
    owners: tuple[tuple[nn.Module, str], ...]
    parameter: nn.Parameter
    is_weight: bool
    reservation: str | None
    obstacle: str | None


def find_layer(module: nn.Module) -> Layer | None:
    """Return the table row of `module`, or None."""
    return next((layer for layer in LAYERS if is_of_type(module, layer.type)), None)


def candidates(model: nn.Module) -> list[Candidate]:
    """Return all parameters of `model` in their order, tied ones once.

    A frozen parameter among trained ones was fixed on purpose, so there is a reservation about it. Where nothing is
    trained, or biases and normalisations only, that says nothing about any one of them.
    """
    found: dict[int, list[tuple[str, nn.Module, str, nn.Parameter]]] = {}
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{attribute}" if path else attribute
                found.setdefault(id(parameter), []).append((name, module, attribute, parameter))
    shared = sharing((places[0][0], places[0][3]) for places in found.values())
    given = [_unshared(_candidate(places), shared) for places in found.values()]
    if not any(entry.parameter.requires_grad and not _is_of_channels(entry) for entry in given):
        return given
    return [entry if entry.parameter.requires_grad else _reserved(entry) for entry in given]


def _unshared(entry: Candidate, shared: Mapping[str, str]) -> Candidate:
    """Return the candidate with an obstacle if it shares memory with another: each would be trained for itself."""
    pairs = [pair for pair in shared.items() if entry.names[0] in pair]
    if entry.obstacle is not None or not pairs:
        return entry
    other = next(name for name in pairs[0] if name != entry.names[0])
    return replace(entry, obstacle=f"in the same memory as {other}, from which it would part: hold one parameter")


def _is_of_channels(entry: Candidate) -> bool:
    """Return whether the parameter is a bias or belongs to a normalisation."""
    return _has_one_axis(entry.parameter) or any(_is_normalization(module) for module, _ in entry.owners)


def _reserved(entry: Candidate) -> Candidate:
    return replace(entry, reservation=entry.reservation or "frozen, unlike others (requires_grad=False)")


def quantized_weights(model: nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name, shape and type of each weight of `model` that is quantised and no parameter any more.

    These are the weights that torch.ao's layers pack, and buffers of integers with a weight's name and two axes or more
    (`qweight` of GPTQ and AWQ, of the shape that it is packed in). Quantised parameters are among the `candidates`.
    """
    found = []
    for path, module in model.named_modules():
        buffers = {name: value for name, value in module._buffers.items() if name.endswith("weight")}
        tensors = {name: value for name, value in buffers.items() if value is not None and _is_packed(value)}
        origin = type(module).__module__
        if origin.startswith("torch.ao.nn.") and ".quantized." in origin and callable(getattr(module, "weight", None)):
            tensors["weight"] = module.weight()
        found += [
            (f"{path}.{name}" if path else name, tuple(value.shape), value.dtype) for name, value in tensors.items()
        ]
    return found


def _is_packed(value: torch.Tensor) -> bool:
    """Return whether the tensor may hold a layer's integer weight, which has more than one number per class."""
    dtype = value.dtype
    return value.ndim > 1 and not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _candidate(places: list[tuple[str, nn.Module, str, nn.Parameter]]) -> Candidate:
    owners = tuple((module, attribute) for _, module, attribute, _ in places)
    parameter = places[0][3]
    return Candidate(
        names=tuple(name for name, *_ in places),
        owners=owners,
        parameter=parameter,
        is_weight=any(_is_weight(module, attribute) for module, attribute in owners),
        reservation=next(_reservations(owners), None),
        obstacle=next(_obstacles(owners, parameter), None),
    )


def _is_weight(module: nn.Module, attribute: str) -> bool:
    layer = find_layer(module)
    return layer is not None and layer.roles(attribute) is not None


def _is_normalization(module: nn.Module) -> bool:
    """Return whether it is one of torch's norms, or a network's own (RMSNorm), known only by its name."""
    if isinstance(module, NORMALIZATIONS):
        return True
    # A network may be called NormFreeNet: a normalisation has gains and biases only.
    is_named_so = _NORM_NAME.search(type(module).__name__) is not None
    return is_named_so and find_layer(module) is None and all(map(_has_one_axis, module.parameters()))


def _has_one_axis(parameter: nn.Parameter) -> bool:
    """Return whether it is one number per channel (or a single one), up to axes of size 1."""
    return isinstance(parameter, UninitializedParameter) or sum(size > 1 for size in parameter.shape) <= 1


def _reservations(owners: tuple[tuple[nn.Module, str], ...]) -> Iterator[str]:
    if any(_is_normalization(module) for module, _ in owners):
        yield "normalisation"
    # A layer that is tied to the table (the head of a language model) gives all its rows gradients, also that one.
    if not any(_is_weight(module, attribute) and not isinstance(module, _TABLES) for module, attribute in owners):
        for module, attribute in owners:
            if isinstance(module, _TABLES) and attribute == "weight" and module.padding_idx is not None:
                # Every coefficient moves every row, also the one that torch gives no gradient.
                yield f"its padding (padding_idx={module.padding_idx}) would not stay zero"


def _obstacles(owners: tuple[tuple[nn.Module, str], ...], parameter: nn.Parameter) -> Iterator[str]:
    if isinstance(parameter, UninitializedParameter):
        yield "not initialised yet: run one forward first"
        return
    if not parameter.dtype.is_floating_point:
        yield f"not floating point ({parameter.dtype})"
    elif parameter.dtype.itemsize < 2:
        yield f"quantised already ({parameter.dtype})"
    if parameter.layout != torch.strided:
        yield f"not a dense tensor ({parameter.layout})"
    if parameter.numel() == 0:
        yield "empty"
    if parameter.is_inference():
        yield "made under torch.inference_mode, so it cannot be changed"
    for module, _ in owners:
        if isinstance(module, _TABLES) and module.sparse:
            yield "its gradients are sparse (sparse=True), which coefficients cannot use"
        if isinstance(module, parametrize.ParametrizationList):
            yield "parametrised by something else already"
        if isinstance(module, torch.jit.ScriptModule):
            yield "scripted modules cannot be changed"
        if isinstance(module, (nn.ParameterList, nn.ParameterDict)):
            yield "lies in a ParameterList or ParameterDict, which cannot be parametrised"
