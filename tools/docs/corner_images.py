"""Images of kept corners: the order of coefficients in two to four axes, and a weight made from its vector."""

from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tailcut.data import open_dataset
from tailcut.format import load
from tailcut.transform import dct, dct_basis, idct, l1_order, l1_rank
from tailcut.weights import resample

CUT_COLOR = "0.92"
ORDER_MAP = "viridis_r"
SIZE_MAP = "YlGnBu"
CURVE_COLORS = ("tab:blue", "tab:orange", "tab:green")


def new_figure(width: float, height: float) -> Figure:
    """Return a figure on a white ground, sizes in inches of 100 pixels."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def corner_2d() -> Figure:
    """Return the canonical order in a matrix, and what a corner of a real image's coefficients gives back."""
    figure = new_figure(11, 2.7)
    grid, digit, spectrum, kept, again = figure.subplots(1, 5)
    side, num_kept = 8, 20
    rank = l1_rank((side, side)).reshape(side, side).numpy()
    grid.imshow(np.where(rank < num_kept, rank, np.nan), cmap=ORDER_MAP, vmin=-4, vmax=1.6 * num_kept)
    grid.set_facecolor(CUT_COLOR)
    for row, column in np.ndindex(side, side):
        is_kept = rank[row, column] < num_kept
        grid.text(
            column, row, rank[row, column], ha="center", va="center", fontsize=7, color="black" if is_kept else "0.65"
        )
    grid.set_title(f"the order in an 8 x 8 matrix,\nthe first {num_kept} kept", fontsize=9)

    image = open_dataset("digits", "train")[8][0][0]
    coefficients = dct(image)
    order, count = l1_order(image.shape), 60
    truncated = torch.zeros(image.numel()).index_copy(0, order[:count], coefficients.flatten()[order[:count]])
    digit.imshow(image.numpy(), cmap="gray")
    digit.set_title(f"a 28 x 28 image:\n{image.numel()} numbers", fontsize=9)
    scale: dict[str, Any] = {"cmap": SIZE_MAP, "vmin": -2.5, "vmax": 1.2}
    spectrum.imshow(coefficients.abs().clamp(min=1e-3).log10().numpy(), **scale)
    spectrum.set_title("its DCT (size, logarithmic):\n784 coefficients", fontsize=9)
    seen = truncated.abs().reshape(image.shape)
    kept.imshow(seen.log10().where(seen > 0, float("nan")).numpy(), **scale)
    kept.set_facecolor(CUT_COLOR)
    kept.set_title(f"the corner:\nthe first {count} of them", fontsize=9)
    again.imshow(idct(truncated.reshape(image.shape)).clamp(0, 1).numpy(), cmap="gray")
    again.set_title(f"the inverse DCT\nof these {count}", fontsize=9)
    for panel in (grid, digit, spectrum, kept, again):
        panel.set(xticks=[], yticks=[])
    return figure


def expansion() -> Figure:
    """Return a matrix from its vector: corner, times one truncated basis per axis."""
    rows, columns, count = 40, 60, 45
    order = l1_order((rows, columns), count)
    noise = torch.randn(count, generator=torch.Generator().manual_seed(3))
    corner_size = int(max((order // columns).max(), (order % columns).max())) + 1
    corner = torch.zeros(rows, columns).flatten().index_copy(0, order, noise).reshape(rows, columns)
    corner = corner[:corner_size, :corner_size]
    left, right = dct_basis(rows, corner_size).T, dct_basis(columns, corner_size)
    weight = left @ corner @ right
    parts = [
        (left, f"cosines of axis 0\n{rows} x {corner_size}", ""),
        (corner, f"the corner, {corner_size} x {corner_size},\nholds the {count} numbers", "x"),
        (right, f"cosines of axis 1\n{corner_size} x {columns}", "x"),
        (weight, f"the weight: {rows} x {columns}\n{weight.numel():,} numbers", "="),
    ]
    figure = new_figure(11, 3)
    panels = figure.subplots(1, len(parts), width_ratios=[16, 16, 60, 60])
    for panel, (values, title, sign) in zip(panels, parts, strict=True):
        limit = float(values.abs().max())
        shown = values.where(values != 0, float("nan")) if values is corner else values
        panel.imshow(shown.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        panel.set_facecolor(CUT_COLOR)
        panel.set(xticks=[], yticks=[])
        panel.set_title(title, fontsize=9)
        panel.set_ylabel(sign, rotation=0, fontsize=16, labelpad=12, va="center")
    return figure


def corner_3d() -> Figure:
    """Return the kept coefficients of three-axis tensors as blocks."""
    figure = new_figure(10, 4)
    shape, count = (12, 12, 5), 120
    for place, weights in enumerate(((1, 1, 1), (1, 1, 3)), start=1):
        rank = l1_rank(shape, weights=weights).reshape(shape).numpy()
        sums = sum(weight * index for weight, index in zip(weights, np.indices(shape), strict=True))
        panel = figure.add_subplot(1, 2, place, projection="3d")
        colors = colormap(sums / sums[rank < count].max())
        panel.voxels(rank < count, facecolors=colors, edgecolor="white", linewidth=0.3, shade=False)
        panel.set(xlim=(0, shape[0]), ylim=(0, shape[1]), zlim=(0, shape[2]))
        panel.set_box_aspect(shape)
        panel.set_xlabel("out", fontsize=9)
        panel.set_ylabel("in", fontsize=9)
        panel.text2D(-0.02, 0.42, "kernel", fontsize=9, rotation=90, transform=panel.transAxes)
        panel.tick_params(labelsize=7)
        panel.view_init(elev=28, azim=38)
        panel.set_title(f"order_weights={weights}: {count} of {rank.size}", fontsize=10)
    return figure


def colormap(values: np.ndarray) -> np.ndarray:
    """Colors (..., 4) for values 0..1."""
    from matplotlib import colormaps

    colors: np.ndarray = colormaps[ORDER_MAP](0.1 + 0.6 * np.clip(values, 0, 1))
    return colors


def corner_4d() -> Figure:
    """Slices of a convolution's 4-D coefficients: one panel per pair of kernel frequencies."""
    shape, count = (50, 20, 5, 5), 300
    figure = new_figure(10, 4.6)
    parts = figure.subfigures(1, 2, wspace=0.04, squeeze=False)[0]
    for part, weights in zip(parts, ((1, 1, 1, 1), (1, 1, 3, 3)), strict=True):
        rank = l1_rank(shape, weights=weights).reshape(shape).numpy()
        shown = np.where(rank < count, rank, np.nan)
        part.suptitle(f"order_weights={weights}", fontsize=10)
        panels = part.subplots(5, 5)
        for row, column in np.ndindex(5, 5):
            panel = panels[row, column]
            panel.imshow(shown[:14, :14, row, column], cmap=ORDER_MAP, vmin=-60, vmax=1.6 * count, aspect="auto")
            panel.set_facecolor(CUT_COLOR)
            panel.set(xticks=[], yticks=[])
            if column == 0:
                panel.set_ylabel(f"v = {row}", fontsize=8)
            if row == 4:
                panel.set_xlabel(f"u = {column}", fontsize=8)
    return figure


def channel_grids() -> Figure:
    """Three weights of our smallest UNet's second layer along its 64 output channels, and on grids of 16 and 8."""
    network: Any = load("zoo:unet-759-float16")
    layer = network.inc.double_conv[3]
    figure = new_figure(9, 2.8)
    panels = figure.subplots(1, 3, sharey=True)
    curves = _along_outputs(layer, 1024)
    for panel, channels in zip(panels, (64, 16, 8), strict=True):
        for curve, values, color in zip(curves, _along_outputs(layer, channels), CURVE_COLORS, strict=True):
            panel.plot(_centres(len(curve)), curve, color="0.75", zorder=1)
            panel.scatter(_centres(channels), values, s=12, color=color, zorder=2)
        panel.set(title=f"{channels} channels", xlabel="place of the output channel", xlim=(0, 1), xticks=[0, 0.5, 1])
        panel.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("weight")
    return figure


def _along_outputs(layer: torch.nn.Conv2d, channels: int) -> np.ndarray:
    """(3, channels): weights of three input channels in the middle of the kernel, on a grid of that many outputs."""
    other = torch.nn.Conv2d(layer.in_channels, channels, 3, padding=1, bias=False)
    resample(layer, other)
    weights: np.ndarray = other.weight.detach()[:, [5, 30, 60], 1, 1].T.numpy()
    return weights


def _centres(count: int) -> np.ndarray:
    return (np.arange(count) + 0.5) / count
