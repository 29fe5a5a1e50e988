"""The networks of HRank, HRankPlus, CHIP and CFDP, pruned or not.

M. Lin et al., "HRank: Filter Pruning using High-Rank Feature Map" (2020), github.com/lmbxmu/HRank and HRankPlus;
Y. Sui et al., "CHIP: CHannel Independence-based Pruning" (2021), github.com/Eclipsess/CHIP_NeurIPS2021; S. Khaki and
W. Luo, "CFDP: Common Frequency Domain Pruning" (2023), github.com/Skhaki18/CFDP. The last two took over the
networks of the first, so that one layout of names is that of all.

Their code takes normalised inputs: CIFAR-10's networks with CIFAR-10's constants, ImageNet's with ImageNet's. The
rebuilt networks do that themselves (`normalize`) and take pixels in 0..1.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import nn

from tailcut.errors import ModelMismatchError
from tailcut.format.conversion.reading import (
    Arguments,
    Layout,
    Tensors,
    expect_no_arguments_twice,
    find_layout,
    narrow_and_fill,
    num_classes,
    read_checkpoint,
    renamed,
    size_of,
)
from tailcut.format.network.building import build_for_real
from tailcut.models.mobilenet_v2 import InvertedResidual
from tailcut.models.vgg import VGG16
from tailcut.structure import Base
from tailcut.structure.wire import Value

CIFAR, IMAGENET = "cifar10", "imagenet"
RESNET_CHANNELS = (16, 16, 32, 64)  # of the first convolution and of the three stages, not pruned
_BRANCHES = {"branch1x1": "b1", "branch3x3": "b2", "branch5x5": "b3", "branch_pool": "b4"}
_DEPTHWISE_PARTS = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2"}


def convert(path: str | Path, *, model: str | None = None, arguments: Arguments | None = None) -> nn.Module:
    """Rebuild a network published with HRank, HRankPlus, CHIP or CFDP, for `save`.

    Args:
        path: their checkpoint, of the original network or of a pruned one: a torch file (read with weights_only,
            never unpickled) with the tensors by name, also under `state_dict`, also with `module.` before all names.
        model: the registered family, to be sure of it; found by the names of the tensors when None.
        arguments: of the family that the file does not determine: `normalize`, which is "cifar10" or "imagenet" as in
            their code if it is not given.

    Returns:
        The network in evaluation mode. A pruned one is narrower than its family is built, as after `prune`.

    Raises:
        ModelMismatchError: the tensors are not those of one of these networks.
        LimitError: the file holds more than a GiB.
        DataError: it is no torch file, or holds other things than tensors.
        FileNotFoundError: there is no such file.
    """
    tensors = read_checkpoint(path)
    layout = find_layout(LAYOUTS, tensors, path, model)
    chosen = expect_no_arguments_twice(layout.arguments(tensors), arguments or {})
    network = build_for_real(Base(layout.model, chosen))
    narrow_and_fill(network, renamed(tensors, layout.rename, path), path)
    _check_shortcuts(network, path)
    return network


def _vgg_names() -> dict[str, str]:
    """Their name of a layer -> ours. They count layers with their activations as one, and name the pooling."""
    names: dict[str, str] = {}
    number, place = 0, 0
    for stage in VGG16:
        for _ in stage:
            names |= {f"conv{number}": f"{place}", f"norm{number}": f"{place + 1}"}
            number, place = number + 1, place + 3
        number, place = number + 1, place + 1
    found = {f"features.{theirs}": f"features.{own}" for theirs, own in names.items()}
    linear = {"classifier.linear1": "classifier.0", "classifier.norm1": "classifier.1"}
    return found | linear | {"classifier.linear2": "classifier.3"}


def _rename_vgg(name: str, *, names: Mapping[str, str]) -> str:
    layer, _, attribute = name.rpartition(".")
    return f"{names.get(layer, layer)}.{attribute}"


def _rename_googlenet(name: str) -> str:
    parts = name.removeprefix("inception_").split(".")
    return ".".join(_BRANCHES.get(part, part) for part in parts)


def _rename_mobilenet_v1(name: str) -> str:
    if name.startswith("conv1."):
        return {"0": "conv1", "1": "bn1"}.get(name.split(".")[1], "conv1") + "." + name.split(".", 2)[-1]
    found = re.fullmatch(r"features\.(\d+)\.([0134])\.(\w+)", name)
    if found:
        return f"layers.{found[1]}.{_DEPTHWISE_PARTS[found[2]]}.{found[3]}"
    return name.replace("classifier.0.", "linear.")


def rename_inverted_residual(name: str) -> str:
    """Flat names within a block of MobileNetV2 -> those of torchvision, where a layer and its norm are one part."""
    found = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(\w+)", name)
    if found is None:
        return name
    place = int(found[2])
    is_first = found[1] == "1"
    last = 3 if is_first else 6
    if place >= last:
        return f"features.{found[1]}.conv.{last // 3 + place - last}.{found[3]}"
    return f"features.{found[1]}.conv.{place // 3}.{place % 3}.{found[3]}"


def _resnet_arguments(tensors: Tensors) -> dict[str, Value]:
    last = "fc" if "fc.weight" in tensors else "linear"  # one network has the one name, the other the other
    stages = [size_of(tensors, f"layer{stage}.0.conv2.weight", 0) for stage in (1, 2, 3)]
    channels = (size_of(tensors, "conv1.weight", 0), *stages)
    if any(count > most for count, most in zip(channels, RESNET_CHANNELS, strict=True)):
        raise ModelMismatchError(f"a ResNet of at most {RESNET_CHANNELS} channels is known, this one has {channels}")
    for name, tensor in tensors.items():
        stage = re.fullmatch(r"layer(\d)\.\d+\.conv1\.weight", name)
        if stage is not None and tensor.ndim > 0 and tensor.shape[0] > channels[int(stage[1])]:
            raise ModelMismatchError(
                f"{name} has {tensor.shape[0]} channels within a stage of {channels[int(stage[1])]}: ResNets whose "
                "blocks are wider within than their stage cannot be rebuilt here"
            )
    return _classes(last, CIFAR, tensors) | ({} if channels == RESNET_CHANNELS else {"channels": channels})


def _rename_resnet(name: str) -> str:
    return f"linear.{name.removeprefix('fc.')}" if name.startswith("fc.") else name


def _classes(last: str, normalize: str, tensors: Tensors) -> dict[str, Value]:
    return {"num_classes": num_classes(tensors, f"{last}.weight"), "normalize": normalize}


LAYOUTS = (
    Layout(
        "vgg16_bn_cifar",
        "features.conv0.weight",
        partial(_rename_vgg, names=_vgg_names()),
        partial(_classes, "classifier.linear2", CIFAR),
    ),
    Layout("googlenet_cifar", "inception_a3.branch1x1.0.weight", _rename_googlenet, partial(_classes, "linear", CIFAR)),
    Layout("densenet40", "trans1.conv1.weight", str, partial(_classes, "fc", CIFAR)),
    Layout("resnet50", "layer4.2.conv3.weight", str, partial(_classes, "fc", IMAGENET)),
    # The networks for ImageNet have a third convolution in each block; deeper ones have more blocks.
    Layout("resnet110", "layer3.17.conv2.weight", _rename_resnet, _resnet_arguments),
    Layout("resnet56", "layer3.8.conv2.weight", _rename_resnet, _resnet_arguments),
    Layout("mobilenetv1", "features.12.3.weight", _rename_mobilenet_v1, partial(_classes, "classifier.0", IMAGENET)),
    Layout(
        "mobilenetv2",
        "features.17.conv.6.weight",
        rename_inverted_residual,
        partial(_classes, "classifier.1", IMAGENET),
    ),
)


def _check_shortcuts(network: nn.Module, path: str | Path) -> None:
    """Raise where their code adds a shortcut and ours does not: widths that pruning has made equal by chance."""
    for name, module in network.named_modules():
        if isinstance(module, InvertedResidual) and not module.has_shortcut:
            layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
            if layers[0].in_channels == layers[-1].out_channels and all(layer.stride == (1, 1) for layer in layers):
                raise ModelMismatchError(
                    f"{path}: {name} has as many channels before as after it, so that the published code adds its "
                    "input there, which MobileNetV2 does not: such a network cannot be rebuilt here"
                )
