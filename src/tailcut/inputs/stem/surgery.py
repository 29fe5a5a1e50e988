"""Module surgery: layers with other numbers of channels, and replaced modules; everything changes the model."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tailcut.errors import StructureError

# Attributes under which blocks keep their shortcut: torchvision's and the common CIFAR implementations'.
SHORTCUTS = ("downsample", "shortcut")


class FinerConvolution(nn.Module):
    """A convolution whose maps are sorted into fewer, finer ones (`nn.PixelShuffle`).

    (batch, C, h, w) to (batch, out_channels, h r / stride, w r / stride) with r = `factor`. Not an `nn.Sequential`, so
    that it may have further children.
    """

    def __init__(self, convolution: nn.Conv2d, factor: int) -> None:
        super().__init__()
        self.convolution = convolution
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps at the higher resolution."""
        y: Tensor = self.shuffle(self.convolution(x))
        return y


def takes_channels(layer: nn.Module) -> int | None:
    """Return the number of input channels that `layer` is built for, or None if it takes any number."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels
    if isinstance(layer, _NormBase):
        return layer.num_features
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels
    if isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
        return layer.num_parameters
    return None


def new_widths(layer: nn.Module, num_channels: int) -> tuple[int, int, int]:
    """Input channels, output channels and groups of `layer` when `num_channels` enter it; the layer is not changed.

    A depthwise convolution (one group per input channel) keeps its number of outputs per channel; any other
    convolution keeps its outputs. Layers that are no convolution have 0 groups.

    Raises:
        StructureError: the groups of a convolution do not divide the channels.
    """
    if not isinstance(layer, nn.Conv2d):
        return num_channels, num_channels, 0
    if layer.groups == layer.in_channels and layer.groups > 1:
        return num_channels, layer.out_channels // layer.in_channels * num_channels, num_channels
    return num_channels, layer.out_channels, layer.groups


def check_widths(name: str, layer: nn.Module, widths: tuple[int, int, int]) -> None:
    """Raise `StructureError` unless `layer` can be given these input channels, output channels and groups."""
    in_channels, out_channels, groups = widths
    if takes_channels(layer) is None:
        raise StructureError(f"{name} is a {type(layer).__name__}, whose channels cannot be changed")
    if isinstance(layer, nn.Conv2d) != (groups > 0):
        raise StructureError(f"{name} is a {type(layer).__name__}, recorded is another kind of layer")
    divisor = layer.num_groups if isinstance(layer, nn.GroupNorm) else max(groups, 1)
    if in_channels % divisor or out_channels % divisor:
        raise StructureError(
            f"{name} has {divisor} groups, which do not divide {in_channels} and {out_channels} channels; choose a "
            "number of channels that they divide, or another first module"
        )


def resize(layer: nn.Module, widths: tuple[int, int, int]) -> None:
    """Give `layer` other input channels, output channels and groups (changes it); its tensors start anew."""
    in_channels, out_channels, groups = widths
    if isinstance(layer, nn.Conv2d):
        layer.in_channels, layer.out_channels, layer.groups = in_channels, out_channels, groups
        layer.weight = _fresh(layer.weight, (out_channels, in_channels // groups, *layer.kernel_size))
        if layer.bias is not None:
            layer.bias = _fresh(layer.bias, (out_channels,))
        layer.reset_parameters()
        return
    if isinstance(layer, nn.GroupNorm):
        layer.num_channels = in_channels
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = in_channels
    elif isinstance(layer, _NormBase):
        layer.num_features = in_channels
    for name, parameter in layer._parameters.items():
        if parameter is not None:
            setattr(layer, name, _fresh(parameter, (in_channels,)))
    for name, buffer in layer._buffers.items():
        if buffer is not None and buffer.ndim == 1:
            layer._buffers[name] = buffer.new_zeros(in_channels)
    reset = getattr(layer, "reset_parameters", None)
    if callable(reset):
        reset()


def initialize(layer: nn.Module) -> None:
    """Start a convolution as ResNet, MobileNetV2 and VGG start theirs: He et al., fan out (changes it)."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Replace the module `name` by `new` everywhere it is used (changes `model`)."""
    old = model.get_submodule(name)
    new.train(old.training)
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new


def empty_shortcut(block: nn.Module) -> str | None:
    """Return the attribute under which `block` keeps an identity shortcut, or None without one."""
    for attribute in SHORTCUTS:
        if hasattr(block, attribute):
            found = getattr(block, attribute)
            is_empty = isinstance(found, nn.Sequential) and len(found) == 0
            return attribute if found is None or isinstance(found, nn.Identity) or is_empty else None
    return None


def projection(in_channels: int, out_channels: int, like: Tensor) -> nn.Sequential:
    """Return a shortcut that changes the number of channels: 1 x 1 convolution and batch norm (He et al., option B)."""
    device, dtype = like.device, like.dtype  # made there: on the meta device a file's numbers take no memory
    convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False, device=device, dtype=dtype)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels, device=device, dtype=dtype))


def like_model(model: nn.Module) -> Tensor:
    """Return an empty tensor with the device and type of the first floating-point parameter, or torch's defaults."""
    found = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.empty(0))
    return torch.empty(0, device=found.device, dtype=found.dtype)


def _fresh(parameter: Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device=parameter.device, dtype=parameter.dtype))
