"""What torchvision's published wheel lacks beside torch's CPU build: import this before torchvision.

The compiled part of that wheel needs CUDA libraries. Where it cannot be loaded, its operators are declared here, and
the two that detectors use, `nms` and `roi_align`, are given in plain torch. Where it can be loaded nothing is done.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better one overlaps by more than the threshold, best first.

    boxes (n, 4) as left, top, right, bottom; scores (n,). Returns int64 (kept,).
    """
    order = scores.argsort(descending=True, stable=True)
    left, top, right, bottom = boxes[order].detach().T.double().numpy()
    areas = (right - left) * (bottom - top)
    alive = np.ones(len(order), dtype=bool)
    for place in range(len(order)):
        if alive[place]:
            rest = slice(place + 1, None)
            across = np.minimum(right[place], right[rest]) - np.maximum(left[place], left[rest])
            down = np.minimum(bottom[place], bottom[rest]) - np.maximum(top[place], top[rest])
            common = across.clip(min=0) * down.clip(min=0)
            alive[rest] &= common <= iou_threshold * (areas[place] + areas[rest] - common)
    return order[torch.from_numpy(alive)]


def roi_align(
    maps: Tensor, regions: Tensor, scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Regions of feature maps, resampled bilinearly to one size; Mask R-CNN's RoIAlign.

    maps (images, channels, h, w); regions (n, 5) as image, left, top, right, bottom. Returns (n, channels,
    height, width).
    """
    corners = regions[:, 1:].float() * scale - (0.5 if aligned else 0.0)
    sizes = corners[:, 2:] - corners[:, :2]
    sizes = sizes if aligned else sizes.clamp(min=1)
    bins = sizes / torch.tensor([width, height], dtype=sizes.dtype)
    counts = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.ceil()
    keys = torch.cat([regions[:, :1].float(), counts], dim=1)
    # No shortcut by `new_zeros`, so that the result has a gradient if the maps have one.
    result = maps.float().sum() * 0 + torch.zeros(len(regions), maps.shape[1], height, width)
    for key in keys.unique(dim=0):
        mine = (keys == key).all(dim=1)
        image, across, down = (int(value) for value in key)
        if across > 0 and down > 0:
            x = _places(corners[mine, 0], bins[mine, 0], width, across)
            y = _places(corners[mine, 1], bins[mine, 1], height, down)
            pooled = avg_pool2d(_bilinear(maps[image].float(), y, x), (down, across))
            result = result.index_put((mine,), pooled)
    return result.to(maps.dtype)


def _places(start: Tensor, bin_size: Tensor, num_bins: int, per_bin: int) -> Tensor:
    """Sample coordinates (n, num_bins * per_bin) along one axis."""
    steps = (torch.arange(num_bins * per_bin) + 0.5) / per_bin
    return start[:, None] + bin_size[:, None] * steps


def _bilinear(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values (n, channels, rows, columns) of maps (channels, h, w) at y (n, rows), x (n, columns); 0 far outside."""
    (num, rows), columns = y.shape, x.shape[1]
    height, width = maps.shape[1:]
    inside = ((y >= -1) & (y <= height))[:, :, None] & ((x >= -1) & (x <= width))[:, None, :]
    y = y.clamp(0, height - 1) / max(height - 1, 1) * 2 - 1
    x = x.clamp(0, width - 1) / max(width - 1, 1) * 2 - 1
    grid = torch.stack([x[:, None, :].expand(num, rows, columns), y[:, :, None].expand(num, rows, columns)], dim=-1)
    found = grid_sample(
        maps[None], grid.reshape(1, num * rows, columns, 2), mode="bilinear", padding_mode="border", align_corners=True
    )
    return found.view(-1, num, rows, columns).transpose(0, 1) * inside[:, None]


def _is_complete(folder: Path) -> bool:
    """Whether the compiled part of torchvision in that folder can be loaded here."""
    try:
        for library in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
            torch.ops.load_library(library)
            return True
    except OSError:
        pass
    return False


def _supply() -> torch.library.Library | None:
    """Declare what is missing, then import torchvision. Returns the declarations, which must be kept."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _is_complete(Path(spec.origin).parent):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        library.define(operator)
    library.impl("nms", nms, "CPU")
    library.impl("roi_align", roi_align, "CompositeImplicitAutograd")
    importlib.import_module("torchvision")
    for name in ("torchvision.extension", "torchvision.ops.roi_align"):
        sys.modules[name]._has_ops = lambda: True  # type: ignore[attr-defined]
    return library


supplied = _supply()
