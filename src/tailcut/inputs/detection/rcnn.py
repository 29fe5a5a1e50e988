"""Torchvision's parts of Faster and Mask R-CNN. Only this module imports torchvision.

S. Ren, K. He, R. Girshick, J. Sun: "Faster R-CNN" (2015); K. He, G. Gkioxari, P. Dollar, R. Girshick: "Mask R-CNN"
(2017); T.-Y. Lin et al.: "Feature Pyramid Networks for Object Detection" (2017).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import faster_rcnn, mask_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from tailcut.errors import ArgumentError
from tailcut.inputs.detection.inputs import DetectorBatch, Size
from tailcut.inputs.selection.gate import FrequencyGate

STAGES = ("layer1", "layer2", "layer3", "layer4")
STRIDES = (4, 8, 16, 32)
LEVEL_STRIDES = (*STRIDES, 64)  # those of the maps, and of every second pixel of the last one
ANCHOR_SIZES = (32, 64, 128, 256, 512)
ANCHOR_RATIOS = (0.5, 1.0, 2.0)
BOX_SIDE, MASK_SIDE = 7, 14  # pixels of a pooled region
MASK_LAYERS = 4


class MovedAnchors(AnchorGenerator):  # type: ignore[misc]
    """The usual anchors, moved from the corner of their cells by a part of the stride.

    The strides are those of the levels. torchvision divides the size of the batch by that of the map, which is another
    number where it does not go without rest (in the coarsest level).
    """

    def __init__(self, offset: float) -> None:
        super().__init__(tuple((size,) for size in ANCHOR_SIZES), (ANCHOR_RATIOS,) * len(ANCHOR_SIZES))
        cells: list[Tensor] = vars(self)["cell_anchors"]
        self.cell_anchors = [cell + offset * stride for cell, stride in zip(cells, LEVEL_STRIDES, strict=True)]

    def grid_anchors(self, grid_sizes: Any, strides: Any) -> list[Tensor]:
        """Return the anchors of each level's cells, for any `strides`."""
        found: list[Tensor] = super().grid_anchors(grid_sizes, [(stride, stride) for stride in LEVEL_STRIDES])
        return found


def make_backbone(network: nn.Module, pyramid_channels: int) -> nn.Module:
    """Return a residual network without head, under a feature pyramid. Reuses the network's modules.

    Its output: a dict of maps "0" to "3" with strides 4 to 32, and "pool", of every second pixel of "3".
    """
    names = {stage: str(place) for place, stage in enumerate(STAGES)}
    widths = [_num_outputs(network.get_submodule(stage)) for stage in STAGES]
    backbone: nn.Module = BackboneWithFPN(network, names, widths, pyramid_channels)
    return backbone


def make_heads(
    backbone: nn.Module,
    *,
    masks: bool,
    num_classes: int,
    head_features: int,
    score_threshold: float,
    proposals: int,
    regions: int,
    anchor_offset: float = 0.0,
) -> tuple[nn.Module, nn.Module]:
    """Return the region proposal network and the heads for classes, boxes and, if wanted, masks; see `Detector`.

    Raises:
        ArgumentError: `anchor_offset` is not from 0 up to 1.
    """
    if not 0 <= anchor_offset < 1:
        raise ArgumentError(f"anchor_offset must be from 0 up to 1, not included, got {anchor_offset}")
    channels: Any = backbone.out_channels
    settings: dict[str, Any] = {
        "box_roi_pool": _pool(BOX_SIDE),
        "box_head": faster_rcnn.TwoMLPHead(channels * BOX_SIDE**2, head_features),
        "box_predictor": faster_rcnn.FastRCNNPredictor(head_features, num_classes),
        "box_score_thresh": score_threshold,
        "box_batch_size_per_image": regions,
        "rpn_post_nms_top_n_test": proposals,
        "rpn_post_nms_top_n_train": 2 * proposals,
    }
    if masks:
        settings |= {
            "mask_roi_pool": _pool(MASK_SIDE),
            "mask_head": mask_rcnn.MaskRCNNHeads(channels, (channels,) * MASK_LAYERS, 1),
            "mask_predictor": mask_rcnn.MaskRCNNPredictor(channels, channels, num_classes),
        }
    if anchor_offset:
        settings["rpn_anchor_generator"] = MovedAnchors(anchor_offset)
    kind = mask_rcnn.MaskRCNN if masks else faster_rcnn.FasterRCNN
    parts = kind(backbone, **settings)
    return parts.rpn, parts.roi_heads


def run(
    backbone: nn.Module, rpn: nn.Module, heads: nn.Module, batch: DetectorBatch
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Return the detections of a batch, in the detector's coordinates, and in training the losses."""
    features = backbone(batch.maps)
    # The heads ask the batch for its size only, from which they take the strides: a tensor without channels has it.
    shown = ImageList(batch.maps.new_empty(len(batch.sizes), 0, *batch.padded), batch.sizes)
    proposals, proposal_losses = rpn(shown, features, batch.targets)
    found, losses = heads(features, proposals, batch.sizes, batch.targets)
    return found, {**losses, **proposal_losses}


def freeze_batch_norm(network: nn.Module) -> None:
    """Replace each batch norm, except in a gate, by one with fixed statistics (changes the module)."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(network, name, frozen.to(child.weight.device))
        elif not isinstance(child, FrequencyGate):
            freeze_batch_norm(child)


def whole_masks(found: Mapping[str, Tensor], size: Size) -> Tensor:
    """Masks of whole images, float (objects, height, width) in 0..1, of those found for boxes in pixels."""
    masks: Tensor = paste_masks_in_image(found["masks"], found["boxes"], size)
    return masks[:, 0]


def _pool(side: int) -> nn.Module:
    """RoIAlign over the pyramid, for maps of these strides.

    torchvision guesses the strides, for good, from the first batch it sees, wrongly if that is one small image in
    much padding. So it is shown a batch that leaves no doubt.
    """
    pool: nn.Module = MultiScaleRoIAlign([str(place) for place in range(len(STRIDES))], side, sampling_ratio=2)
    with torch.device("cpu"):  # also where a model is built on the meta device
        largest = STRIDES[-1]
        maps = {str(place): torch.zeros(1, 1, *[largest // stride] * 2) for place, stride in enumerate(STRIDES)}
        pool(maps, [torch.tensor([[0.0, 0.0, largest, largest]])], [(largest, largest)])
    return pool


def _num_outputs(stage: nn.Module) -> int:
    """Channels that a residual stage gives: those of its last convolution, whether it is in the shortcut or not."""
    return [module.out_channels for module in stage.modules() if isinstance(module, nn.Conv2d)][-1]
