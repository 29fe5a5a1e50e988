"""Known network families: the first module that a new stem keeps, and the variants of their strides."""

from collections.abc import Mapping

from torch import nn

from tailcut.errors import ArgumentError
from tailcut.inputs.stem.edit import MAX_SIDE, Setting

VARIANTS = ("paper", "published")
_RESNET = ("conv1", "bn1", "layer1", "layer2", "layer3")


def first_kept_module(model: nn.Module) -> str | None:
    """Return the name of the first module that is kept when channels replace pixels, or None for an unknown network.

    Families are recognised by torchvision's module names: ResNet (`layer1`), MobileNetV2 (the first inverted residual,
    `features.1`) and VGG (the first convolution after the second pooling). In all of them a 448-pixel image (896 for
    MobileNetV2) gives the kept modules maps of the size that a 224-pixel RGB image gave them, so that their weights
    still fit. (VGG without the third pooling is `first="features.17"`: RGB's map size at 448, at four times the cost.)
    """
    children = dict(model.named_children())
    if all(name in children for name in _RESNET):
        return "layer1"
    features = children.get("features")
    if not isinstance(features, nn.Sequential):
        return None
    if any(type(module).__name__ == "InvertedResidual" for module in features.children()) and len(features) > 1:
        return "features.1" if type(features[1]).__name__ == "InvertedResidual" else None
    pools = [place for place, module in enumerate(features) if isinstance(module, nn.MaxPool2d)]
    convolutions = [module for module in features if isinstance(module, nn.Conv2d)]
    is_vgg = len(pools) > 2 and all(layer.kernel_size == (3, 3) and layer.stride == (1, 1) for layer in convolutions)
    return f"features.{pools[1] + 1}" if is_vgg else None


def stride_settings(model: nn.Module, strides: str | Mapping[str, int]) -> tuple[Setting, ...]:
    """Return the strides to set for a variant.

    Args:
        model: the network; it is not changed.
        strides: "paper" changes none. "published" sets stride 1 in `layer2` of a ResNet, as the published code does:
            3.3 times the multiplications, which the paper does not mention. Or a dict: name of a convolution ->
            its stride.

    Raises:
        ArgumentError: no such variant, not for this network, or no such convolution.
    """
    if isinstance(strides, Mapping):
        return tuple(_setting(model, name, stride) for name, stride in strides.items())
    if strides not in VARIANTS:
        raise ArgumentError(f"strides must be {' or '.join(VARIANTS)} or a dict of convolutions, got {strides!r}")
    if strides == "paper":
        return ()
    if first_kept_module(model) != "layer1":
        raise ArgumentError('strides="published" is for ResNets; for others give a dict of convolutions and strides')
    stage = model.get_submodule("layer2")
    return tuple(
        Setting(f"layer2.{name}", "stride", 1)
        for name, layer in stage.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)
    )


def is_known(model: nn.Module) -> bool:
    """Return whether the family of `model` is known, so that new layers are initialised like its own."""
    return first_kept_module(model) is not None


def _setting(model: nn.Module, name: str, stride: int) -> Setting:
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, nn.Conv2d):
        raise ArgumentError(f"strides: the model has no convolution {name!r}")
    if isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride <= MAX_SIDE:
        raise ArgumentError(f"strides: {name} needs a stride of 1 to {MAX_SIDE}, got {stride!r}")
    return Setting(name, "stride", stride)
