"""Prunable layer types: their size attributes, and the tensor shapes that follow from these sizes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tailcut.structure.module_types import TRANSFORMERS_CONV1D, keeps_forward

Sizes = Mapping[str, int]
Shape = tuple[int, ...]


def _has_own_forward(module: nn.Module) -> bool:
    """Return whether a forward was set on the module itself, in place of its class's."""
    return not {"forward", "_conv_forward"}.isdisjoint(vars(module))


class LayerKind(ABC):
    """One row of the table.

    Attributes:
        number: stands for the kind in files; never changed.
        types: the classes; a subclass counts as long as it keeps their forward, unless the row says otherwise.
        attributes: the sizes that pruning may change, in the order of the file.
        any_forward: whether one with a forward of its own is a layer of this kind too.
    """

    number: ClassVar[int]
    types: ClassVar[tuple[type[nn.Module], ...]]
    attributes: ClassVar[tuple[str, ...]]
    any_forward: ClassVar[bool] = False

    def fits(self, module: nn.Module) -> bool:
        """Return whether `module` is a layer of this kind."""
        return isinstance(module, self.types) if self.any_forward else self.keeps_forward(module)

    def keeps_forward(self, module: nn.Module) -> bool:
        """Return whether `module` has one of the types and their forward."""
        return not _has_own_forward(module) and any(keeps_forward(module, kind) for kind in self.types)

    def sizes(self, module: nn.Module) -> dict[str, int]:
        """Return the current sizes of a layer."""
        return {name: int(getattr(module, name)) for name in self.attributes}

    def set_sizes(self, module: nn.Module, sizes: Sizes) -> None:
        """Write the sizes on the layer (changes its attributes, not its tensors)."""
        for name in self.attributes:
            setattr(module, name, sizes[name])

    def narrowed(self, module: nn.Module, num_inner: int, num_outer: int) -> dict[str, int]:
        """Return the sizes for so many input and output channels."""
        return dict.fromkeys(self.attributes, num_outer)

    @abstractmethod
    def shapes(self, module: nn.Module, sizes: Sizes) -> dict[str, Shape]:
        """Attribute -> shape of each tensor that the layer may have, for these sizes."""

    def failure_reason(self, module: nn.Module, sizes: Sizes) -> str | None:
        """Return the reason why a layer cannot take these sizes, or None if it can; sizes only shrink."""
        own = self.sizes(module)
        for name in self.attributes:
            if not 1 <= sizes[name] <= own[name]:
                return f"{name} must be from 1 to {own[name]}, it is {sizes[name]}"
        return None


class Convolution(LayerKind):
    """Convolutions, transposed ones too. For those with a custom forward see custom_forwards.py."""

    number = 1
    types = (_ConvNd,)
    attributes = ("in_channels", "out_channels", "groups")
    any_forward = True

    def keeps_forward(self, module: nn.Module) -> bool:
        """Return whether its forward is torch's."""
        return (
            isinstance(module, _ConvNd)
            and not _has_own_forward(module)
            and type(module).forward in _CONVOLUTION_FORWARDS
            and getattr(type(module), "_conv_forward", None) in _INNER_FORWARDS
        )

    def narrowed(self, module: nn.Module, num_inner: int, num_outer: int) -> dict[str, int]:
        """Depthwise ones have as many groups as channels, others keep theirs."""
        own = self.sizes(module)
        groups = num_inner if own["groups"] == own["in_channels"] > 1 else own["groups"]
        return {"in_channels": num_inner, "out_channels": num_outer, "groups": groups}

    def shapes(self, module: nn.Module, sizes: Sizes) -> dict[str, Shape]:
        """Weight (out, in / groups, kernel...), of a transposed one (in, out / groups, kernel...), and bias."""
        inner, outer = sizes["in_channels"], sizes["out_channels"]
        pair = (outer, inner // sizes["groups"])
        if isinstance(module, _ConvTransposeNd):
            pair = (inner, outer // sizes["groups"])
        return {"weight": (*pair, *module.kernel_size), "bias": (outer,)}  # type: ignore[misc]

    def failure_reason(self, module: nn.Module, sizes: Sizes) -> str | None:
        """Return whether the groups divide the channels."""
        groups = sizes["groups"]
        why = super().failure_reason(module, sizes)
        if why is None and (sizes["in_channels"] % groups or sizes["out_channels"] % groups):
            why = f"{groups} groups do not divide {sizes['in_channels']} and {sizes['out_channels']} channels"
        if why is None:
            own = self.shapes(module, self.sizes(module))["weight"]
            made = self.shapes(module, sizes)["weight"]
            if any(size > there for size, there in zip(made, own, strict=True)):
                why = f"the weight would grow from {own} to {made}"
        return why


class Dense(LayerKind):
    """Linear layers. For those with a custom forward see custom_forwards.py."""

    number = 2
    types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)
    attributes = ("in_features", "out_features")
    any_forward = True

    output_axis: ClassVar[int] = 0
    """Of the weight; the inputs lie along its other axis."""

    def features(self, sizes: Sizes) -> tuple[int, int]:
        """Return the number of inputs and outputs."""
        inner, outer = self.attributes
        return sizes[inner], sizes[outer]

    def narrowed(self, module: nn.Module, num_inner: int, num_outer: int) -> dict[str, int]:
        """Return one size per attribute."""
        return dict(zip(self.attributes, (num_inner, num_outer), strict=True))

    def shapes(self, module: nn.Module, sizes: Sizes) -> dict[str, Shape]:
        """Weight, (out, in) or turned, and bias."""
        inner, outer = self.features(sizes)
        return {"weight": (inner, outer) if self.output_axis else (outer, inner), "bias": (outer,)}


class Norm(LayerKind):
    """Norms. Those with a custom forward, which may pad, rotate or activate as well, are followed by operations."""

    any_forward = True

    def num_channels(self, module: nn.Module) -> int:
        """Return the number of channels that the layer scales."""
        return self.sizes(module)[self.attributes[-1]]


class ChannelNorm(Norm):
    """Batch norm and instance norm: each channel by itself."""

    number = 3
    types = (_NormBase,)
    attributes = ("num_features",)

    def keeps_forward(self, module: nn.Module) -> bool:
        """Return whether its forward is torch's."""
        is_torchs = type(module).forward.__module__.startswith("torch.nn.modules.")
        return isinstance(module, _NormBase) and is_torchs and not _has_own_forward(module)

    def shapes(self, module: nn.Module, sizes: Sizes) -> dict[str, Shape]:
        """Scale, shift and running statistics."""
        shape = (sizes["num_features"],)
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), shape)


class FeatureNorm(Norm):
    """Layer norm and RMS norm over one axis: the last one, unless a subclass turns its input first."""

    number = 4
    types = (nn.LayerNorm, nn.RMSNorm)
    attributes = ("normalized_shape",)

    def fits(self, module: nn.Module) -> bool:
        """Return whether it normalises one axis."""
        return super().fits(module) and len(module.normalized_shape) == 1  # type: ignore[arg-type]

    def sizes(self, module: nn.Module) -> dict[str, int]:
        """Return the only size."""
        return {"normalized_shape": int(module.normalized_shape[0])}  # type: ignore[index]

    def set_sizes(self, module: nn.Module, sizes: Sizes) -> None:
        """Set the one size as a tuple."""
        module.normalized_shape = (sizes["normalized_shape"],)  # type: ignore[assignment]

    def shapes(self, module: nn.Module, sizes: Sizes) -> dict[str, Shape]:
        """Scale and shift."""
        return dict.fromkeys(("weight", "bias"), (sizes["normalized_shape"],))


class GroupedNorm(Norm):
    """Group norm."""

    number = 5
    types = (nn.GroupNorm,)
    attributes = ("num_groups", "num_channels")

    def narrowed(self, module: nn.Module, num_inner: int, num_outer: int) -> dict[str, int]:
        """Return the sizes for so many channels; depthwise groups shrink with them, other groups keep their number."""
        own = self.sizes(module)
        groups = num_outer if own["num_groups"] == own["num_channels"] else own["num_groups"]
        return {"num_groups": groups, "num_channels": num_outer}

    def shapes(self, module: nn.Module, sizes: Sizes) -> dict[str, Shape]:
        """Scale and shift."""
        return dict.fromkeys(("weight", "bias"), (sizes["num_channels"],))

    def failure_reason(self, module: nn.Module, sizes: Sizes) -> str | None:
        """Return whether the groups divide the channels."""
        why = super().failure_reason(module, sizes)
        if why is None and sizes["num_channels"] % sizes["num_groups"]:
            why = f"{sizes['num_groups']} groups do not divide {sizes['num_channels']} channels"
        return why


class ChannelSlope(LayerKind):
    """PReLU."""

    number = 6
    types = (nn.PReLU,)
    attributes = ("num_parameters",)

    def shapes(self, module: nn.Module, sizes: Sizes) -> dict[str, Shape]:
        """Return the shape of the slopes."""
        return {"weight": (sizes["num_parameters"],)}


class Table(LayerKind):
    """Embeddings."""

    number = 7
    types = (nn.Embedding,)
    attributes = ("embedding_dim",)

    def shapes(self, module: nn.Module, sizes: Sizes) -> dict[str, Shape]:
        """(entries, channels)."""
        return {"weight": (int(module.num_embeddings), sizes["embedding_dim"])}  # type: ignore[arg-type]


class PaddedShortcut(LayerKind):
    """A shortcut that puts channels of zeros before and after those of its input (ResNet's option A).

    Any module without tensors that has integer attributes `pad_before` and `pad_after` and gives
    pad_before + channels + pad_after channels along axis 1.
    """

    number = 8
    types = ()
    attributes = ("pad_before", "pad_after")

    def fits(self, module: nn.Module) -> bool:
        """Return whether it has both attributes, and neither tensors nor children."""
        has_both = all(type(getattr(module, name, None)) is int for name in self.attributes)
        return has_both and not any((module._parameters, module._buffers, module._modules))

    def keeps_forward(self, module: nn.Module) -> bool:
        """Return True: only the output of the layer shows the axis of its channels."""
        return True

    def narrowed(self, module: nn.Module, num_inner: int, num_outer: int) -> dict[str, int]:
        """As they are: what is padded follows from the channels on both sides, see pruning/surgery.py."""
        return self.sizes(module)

    def shapes(self, module: nn.Module, sizes: Sizes) -> dict[str, Shape]:
        """Return no shapes: the layer has no tensors."""
        return {}

    def failure_reason(self, module: nn.Module, sizes: Sizes) -> str | None:
        """Return None: the module itself cannot know. A shortcut from fewer channels pads more; the edit bounds it."""
        return None


class TransposedDense(Dense):
    """Linear layers whose weight is (in, out): transformers' `Conv1D`, of GPT-2."""

    number = 9
    types = ()
    attributes = ("nx", "nf")
    any_forward = False
    output_axis = 1

    def keeps_forward(self, module: nn.Module) -> bool:
        """Return whether it is one, and has both sizes, which it had not in all versions."""
        has_forward = keeps_forward(module, TRANSFORMERS_CONV1D)
        has_sizes = all(type(getattr(module, name, None)) is int for name in self.attributes)
        return has_forward and has_sizes and not _has_own_forward(module)


KINDS: tuple[LayerKind, ...] = (
    Convolution(),
    Dense(),
    ChannelNorm(),
    FeatureNorm(),
    GroupedNorm(),
    ChannelSlope(),
    Table(),
    PaddedShortcut(),
    TransposedDense(),
)
_POSSIBLE: WeakKeyDictionary[type[nn.Module], tuple[LayerKind, ...]] = WeakKeyDictionary()
KIND_BY_NUMBER: dict[int, LayerKind] = {kind.number: kind for kind in KINDS}

# Layers that mix their channels in ways that pruning does not support, and why.
WHOLE_LAYERS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.MultiheadAttention, "attention heads share the width of nn.MultiheadAttention, which is kept whole"),
    (nn.RNNBase, "recurrent layers are kept whole"),
    (nn.RNNCellBase, "recurrent layers are kept whole"),
    (nn.Bilinear, "bilinear layers are kept whole"),
    (nn.EmbeddingBag, "bags of embeddings are kept whole"),
    (nn.LayerNorm, "layer norm over several axes"),
    (nn.RMSNorm, "RMS norm over several axes"),
)


def layer_kind(module: nn.Module) -> LayerKind | None:
    """Return the table row of `module`, or None."""
    return next((kind for kind in _possible_kinds(type(module)) if kind.fits(module)), None)


def is_dense(module: nn.Module) -> bool:
    """Return whether it is a linear layer."""
    return isinstance(layer_kind(module), Dense)


def _possible_kinds(kind_of_module: type[nn.Module]) -> tuple[LayerKind, ...]:
    """Return the rows for a module's class; cached per class."""
    found = _POSSIBLE.get(kind_of_module)
    if found is None:
        found = tuple(kind for kind in KINDS if not kind.types or issubclass(kind_of_module, kind.types))
        _POSSIBLE[kind_of_module] = found
    return found


def is_traced_through(module: nn.Module) -> bool:
    """Return whether it is a layer with a custom forward, whose operations assign its tensors to channels."""
    kind = layer_kind(module)
    return kind is not None and not kind.keeps_forward(module)


def channel_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a layer whose shapes follow from its sizes, by attribute."""
    kind = layer_kind(module)
    names = () if kind is None else kind.shapes(module, kind.sizes(module))
    found = {name: getattr(module, name, None) for name in names}
    return {name: x for name, x in found.items() if isinstance(x, Tensor)}


def whole_layer(module: nn.Module) -> str | None:
    """Return the reason why this layer must keep its width, or None if it may be narrowed or is unknown."""
    return next((reason for kind, reason in WHOLE_LAYERS if isinstance(module, kind)), None)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTION_FORWARDS = {kind.forward for kind in _CONVOLUTIONS}
_INNER_FORWARDS = {getattr(kind, "_conv_forward", None) for kind in _CONVOLUTIONS}
