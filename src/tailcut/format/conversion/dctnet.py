"""The networks of "Learning in the Frequency Domain": github.com/calmevtime/DCTNet, classification and detection.

K. Xu et al. (2020). Their ResNet-50 reads 24, 48, 64 or 192 channels of images of 448 x 448 and has stride 1 in its
second stage, which the paper does not say; their MobileNetV2 reads 6, 12, 24 or 32 channels of 896 x 896. Channels are
normalised with their statistics, which stand in their source code and not in their checkpoints.

Their detectors are mmdetection 1's. Boxes there end at the last pixel and here behind it, which is the same region;
anchors there lie in the middle of their cells (`anchor_offset`); classes there are numbered without gaps. One thing
differs: they pad images with black before the DCT, here what lies beyond an image is zero in every channel.
"""

import re
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tailcut.data.datasets.coco_categories import CATEGORIES, NUM_CLASSES
from tailcut.errors import ArgumentError, ModelMismatchError
from tailcut.format.conversion.checkpoints import fill_in
from tailcut.format.conversion.dctnet_statistics import read_statistics
from tailcut.format.conversion.hrank import rename_inverted_residual
from tailcut.format.conversion.reading import (
    Arguments,
    Layout,
    Tensors,
    expect_no_arguments_twice,
    find_layout,
    num_classes,
    read_checkpoint,
    renamed,
    size_of,
)
from tailcut.format.network.building import build_for_real
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.stem.replace import replace_stem
from tailcut.structure import Base
from tailcut.structure.wire import Value

RESNET, MOBILENET = "resnet50", "mobilenetv2"
IMAGE_SIZE = {RESNET: 448, MOBILENET: 896}
RESNET_ENTRY, MOBILENET_ENTRY = "model.0.0.conv1.weight", "features.0.conv.0.weight"
DETECTOR_ENTRY = "backbone.layer1.0.conv1.weight"
MASK_HEAD = "mask_head.conv_logits.weight"
GATE = "inp_GM."
NEVER = -1e4  # the logit of numbers that no category has
# The stem, which their detectors keep without using it.
_UNUSED = re.compile(r"backbone\.(conv1|bn1)\.")
_DETECTOR_NAMES = (
    (r"backbone\.layer", "backbone.body.layer"),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
    (r"rpn_head\.rpn_conv\.", "rpn.head.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", "rpn.head.cls_logits."),
    (r"rpn_head\.rpn_reg\.", "rpn.head.bbox_pred."),
    (r"bbox_head\.shared_fcs\.0\.", "roi_heads.box_head.fc6."),
    (r"bbox_head\.shared_fcs\.1\.", "roi_heads.box_head.fc7."),
    (r"bbox_head\.fc_cls\.", "roi_heads.box_predictor.cls_score."),
    (r"bbox_head\.fc_reg\.", "roi_heads.box_predictor.bbox_pred."),
    (r"mask_head\.convs\.(\d)\.conv\.", r"roi_heads.mask_head.\1.0."),
    (r"mask_head\.upsample\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"mask_head\.conv_logits\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)
# Rows per class of the last layers.
_BY_CLASS = {"cls_score": 1, "bbox_pred": 4, "mask_fcn_logits": 1}


def convert(
    path: str | Path,
    *,
    statistics: str | Path | None = None,
    model: str | None = None,
    arguments: Arguments | None = None,
) -> nn.Module:
    """Rebuild a network published with "Learning in the Frequency Domain", for `save`.

    Args:
        path: their checkpoint: a torch file (read with weights_only, never unpickled) with the tensors by name, also
            under `state_dict`, also with `module.` before all names.
        statistics: see `read_statistics`; the networks give nothing sensible without them.
        model: "resnet50", "mobilenetv2", "faster_rcnn" or "mask_rcnn", to be sure of it; found by the names of the
            tensors when None.
        arguments: further arguments of the family; `channels` of a detector, if they are not one of the tables.

    Returns:
        The network in evaluation mode, reading pixels through its transform, with their statistics.

    Raises:
        ModelMismatchError: the tensors are not those of one of these networks.
        ArgumentError: there are no statistics, the number of channels is none of their tables, or an argument does not
            fit.
        LimitError: the file holds more than a GiB.
        DataError: it is no torch file, or holds other things than tensors.
        FileNotFoundError: there is no such file.
        MissingExtraError: a detector needs the extra `detection`.
    """
    tensors = read_checkpoint(path)
    if any(name.startswith(GATE) for name in tensors):
        raise ModelMismatchError(
            f"{path} has a gate before its network ({GATE}*), which chooses channels by chance in evaluation too; only "
            "networks on fixed channels are rebuilt"
        )
    layout = find_layout(LAYOUTS, tensors, path, model)
    if statistics is None:
        raise ArgumentError(
            "the networks of DCTNet need the channel statistics that they were trained with, which their checkpoints "
            "lack: give statistics= (--statistics), the file of DCTNet's source code that defines them "
            "(classification/datasets/__init__.py, for detectors segmentation/configs/mean_std.py)"
        )
    mean, spread = read_statistics(statistics)
    chosen = expect_no_arguments_twice(layout.arguments(tensors), arguments or {})
    own = renamed({name: x for name, x in tensors.items() if not _UNUSED.match(name)}, layout.rename, path)
    network = build_for_real(Base(layout.model, chosen))
    if layout.model in IMAGE_SIZE:
        selection, place = Selection.of(_num_channels(tensors)), "input_transform"
        strides = "published" if layout.model == RESNET else "paper"
        replace_stem(network, selection, strides=strides, image_size=IMAGE_SIZE[layout.model])
    else:
        own = {name: _by_category(name, x) for name, x in own.items()}
        selection, place = network.transform.dct.selection, "transform.dct"  # type: ignore[union-attr, assignment]
    indices = list(selection.indices)
    own |= {f"{place}.mean": torch.tensor(mean)[indices], f"{place}.std": torch.tensor(spread)[indices]}
    known = network.state_dict(keep_vars=True)
    # Frozen batch norm counts nothing.
    fill_in(network, {k: v for k, v in own.items() if k in known or not k.endswith("num_batches_tracked")}, path)
    return network.eval()


def _num_channels(tensors: Tensors) -> int:
    if RESNET_ENTRY in tensors:
        return size_of(tensors, RESNET_ENTRY, 1)
    if DETECTOR_ENTRY in tensors:
        return size_of(tensors, DETECTOR_ENTRY, 1)
    if size_of(tensors, MOBILENET_ENTRY, 1) != 1:
        raise ModelMismatchError(
            "the MobileNetV2 of 192 channels has a grouped convolution, 6 channels to one, in the place of a depthwise "
            "one; only those of up to 32 channels are rebuilt"
        )
    return size_of(tensors, MOBILENET_ENTRY, 0)


def _rename_resnet(name: str) -> str:
    found = re.match(r"model\.([0-3])\.", name)
    return name if found is None else f"layer{int(found[1]) + 1}.{name[found.end() :]}"


def _rename_mobilenet(name: str) -> str:
    found = re.match(r"features\.(\d+)\.", name)
    if found:  # without their first layer, and numbered anew
        return rename_inverted_residual(f"features.{int(found[1]) + 1}.{name[found.end() :]}")
    return re.sub(r"^conv\.", "features.18.", name).replace("classifier.", "classifier.1.")


def _rename_detector(name: str) -> str:
    for pattern, own in _DETECTOR_NAMES:
        changed, count = re.subn(f"^{pattern}", own, name)
        if count:
            return changed
    return name


def _detector_arguments(tensors: Tensors) -> dict[str, Value]:
    classes = num_classes(tensors, "bbox_head.fc_cls.weight")
    if classes != len(CATEGORIES) + 1:
        raise ModelMismatchError(f"expected a detector of COCO's {len(CATEGORIES)} categories, this has {classes - 1}")
    return {"channels": _num_channels(tensors), "num_classes": NUM_CLASSES, "anchor_offset": 0.5}


def _by_category(name: str, tensor: Tensor) -> Tensor:
    """Rows without gaps of a last layer put at COCO's numbers, which have gaps; other tensors as they are."""
    layer, _, attribute = name.rpartition(".")
    rows = _BY_CLASS.get(layer.rpartition(".")[2])
    if rows is None or layer.startswith("rpn."):
        return tensor
    places = torch.tensor([0, *CATEGORIES])
    if tensor.ndim == 0 or tensor.shape[0] != len(places) * rows or not tensor.is_floating_point():
        raise ModelMismatchError(
            f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected floating-point numbers in "
            f"{len(places) * rows} rows"
        )
    spread = tensor.new_zeros(NUM_CLASSES, rows, *tensor.shape[1:])
    if attribute == "bias" and rows == 1:
        spread.fill_(NEVER)
    spread[places] = tensor.reshape(len(places), rows, *tensor.shape[1:])
    return spread.flatten(0, 1)


def _classes(last: str, tensors: Tensors) -> dict[str, Value]:
    channels = _num_channels(tensors)
    try:
        Selection.of(channels)
    except ArgumentError as error:
        raise ModelMismatchError(f"the network reads {channels} channels: {error}") from error
    return {"num_classes": num_classes(tensors, f"{last}.weight")}


LAYOUTS = (
    Layout("mask_rcnn", MASK_HEAD, _rename_detector, _detector_arguments),
    Layout("faster_rcnn", DETECTOR_ENTRY, _rename_detector, _detector_arguments),
    Layout(RESNET, RESNET_ENTRY, _rename_resnet, partial(_classes, "fc")),
    Layout(MOBILENET, MOBILENET_ENTRY, _rename_mobilenet, partial(_classes, "classifier")),
)
