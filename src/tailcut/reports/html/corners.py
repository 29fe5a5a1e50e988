"""Maps of the kept corner of each tensor: the positions and sizes of its coefficients."""

import math
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from tailcut.printing import sizes as sizes_text
from tailcut.reports.html.drawing import INK, drawing
from tailcut.reports.html.elements import PageSection, element, figure
from tailcut.reports.html.spectrum import axis_roles
from tailcut.reports.networks import ReportedNetwork
from tailcut.weights import TruncatedTensor, truncated_tensors

# A map has about this many points a side at most; of a larger one each point is the largest of its block.
MAX_SIDE = 240
# Sizes below this part of the largest all have the darkest colour.
SMALLEST = 1e-4
NOT_KEPT = -1.0
COLORS = "viridis"


def corners_section(networks: Sequence[ReportedNetwork]) -> PageSection:
    """Return a map per truncated tensor."""
    section = PageSection(
        "Kept corners",
        "corners",
        "Each weight is stored as the first coefficients of its DCT, which lie in a corner at the lowest frequencies. "
        "Bright is large (logarithmic), grey is not kept. Axis 0 runs downwards, axis 1 to the right; where there are "
        "more axes, each tile is one frequency of them.",
    )
    for network in networks:
        tensors = [] if network.model is None else truncated_tensors(network.model)
        if network.model is None:
            section.skipped[network.name] = network.missing["model"]
        elif not tensors:
            section.skipped[network.name] = "no tensor of it is stored as coefficients"
        else:
            section.body.append(element("h3", network.name))
            roles = axis_roles(network.model)
            maps = [corner_figure(tensor, roles.get(tensor.name, ())) for tensor in tensors]
            section.body.append(element("div", *maps, class_="grid"))
    return section


def corner_figure(tensor: TruncatedTensor, roles: Sequence[str]) -> Element:
    """Return the map of one tensor with its caption; `roles` as in `axis_roles`, may be empty."""
    sizes, factor = folded_corner(tensor)
    corner = tensor.truncation.corner_shape
    counts = f"{tensor.num_kept:,} of {math.prod(tensor.shape):,}"
    label = f"coefficients of {tensor.name}: {counts}, corner {sizes_text(corner)} of {sizes_text(tensor.shape)}"
    image = drawing(label, lambda canvas: show_corner(canvas, sizes, axis_names(tensor, roles)), height=2.9)
    notes = [f": {counts}; corner {sizes_text(corner)} of {sizes_text(tensor.shape)}"]
    if factor > 1:
        notes.append(f"; each point is the largest of {factor} x {factor}")
    return figure(image, element("strong", tensor.name), *notes)


def folded_corner(tensor: TruncatedTensor) -> tuple[Tensor, int]:
    """Return the sizes of a tensor's coefficients over its corner, folded to two axes.

    Returns:
        (rows, columns): size of a coefficient; `NOT_KEPT` where none is kept, NaN between tiles. Axes 0 and 1 make
        a tile; the last axis counts tiles from left to right, those between from top to bottom. And by how much it
        was reduced: each point is the largest of so many rows and columns of a tile.
    """
    truncation = tensor.truncation
    flat = torch.full((math.prod(truncation.corner_shape),), NOT_KEPT)
    sizes = tensor.coefficients().detach().abs().float().cpu()
    flat[truncation.positions[: tensor.num_kept].cpu()] = sizes
    shape = truncation.corner_shape
    height, width, *rest = (1,) * (2 - len(shape)) + tuple(shape)
    across = rest[-1] if rest else 1
    down = math.prod(rest[:-1])
    tiles = flat.reshape(height, width, down * across).permute(2, 0, 1)
    factor = max(1, math.ceil(height * down / MAX_SIDE), math.ceil(width * across / MAX_SIDE))
    if factor > 1:
        tiles = max_pool2d(tiles[:, None], factor, ceil_mode=True)[:, 0]
    _, height, width = tiles.shape
    mosaic = torch.full((down * (height + 1) - 1, across * (width + 1) - 1), math.nan)
    for number, tile in enumerate(tiles):
        top, left = number // across * (height + 1), number % across * (width + 1)
        mosaic[top : top + height, left : left + width] = tile
    return mosaic, factor


def show_corner(canvas: Any, sizes: Tensor, names: tuple[str, str]) -> None:
    """Draw a map (see `folded_corner`), its axes named, on an empty matplotlib figure."""
    from matplotlib import colormaps

    largest = max(float(sizes.nan_to_num(nan=0.0).max()), 1e-30)
    shown = torch.where(sizes < 0, -math.inf, sizes.clamp(min=largest * SMALLEST).log10())
    shown = torch.where(sizes.isnan(), math.nan, shown)
    colors = colormaps[COLORS].with_extremes(under=(0.5, 0.5, 0.5, 0.3), bad=(0, 0, 0, 0))
    high = math.log10(largest)
    panel = canvas.subplots()
    # Finite, and below the lowest: not kept.
    values = torch.where(shown == -math.inf, high + 2 * math.log10(SMALLEST), shown).numpy()
    limits = {"vmin": high + math.log10(SMALLEST), "vmax": high}
    rows, columns = values.shape
    drawn = panel.imshow(values, cmap=colors, interpolation="none", **limits)
    if max(rows, columns) > 4 * min(rows, columns):
        panel.set_aspect("auto")
    panel.grid(visible=False)
    panel.set(xticks=[], yticks=[], xlabel=names[1], ylabel=names[0])
    panel.spines[:].set_visible(False)
    bar = canvas.colorbar(drawn, ax=panel, shrink=0.85, pad=0.02)
    bar.set_label("log10 of the size", color=INK)
    bar.outline.set_visible(False)


def axis_names(tensor: TruncatedTensor, roles: Sequence[str]) -> tuple[str, str]:
    """Return the labels of the axes of a tensor's map, given the roles of the tensor's axes."""
    if len(tensor.shape) == 1:
        return "", _axis_name(tensor, 0, roles)
    below = _axis_name(tensor, 1, roles)
    if len(tensor.shape) > 2:
        below += f"; tiles: axes 2 to {len(tensor.shape) - 1}" if len(tensor.shape) > 3 else "; tiles: axis 2"
    return _axis_name(tensor, 0, roles), below


def _axis_name(tensor: TruncatedTensor, axis: int, roles: Sequence[str]) -> str:
    role = f", {roles[axis]}" if roles else ""
    return f"axis {axis}{role}" + ("" if axis in tensor.axes else " (not transformed)")
