"""Draws the pictures of the pages in docs/ into docs/pictures/: `python -m docs.make_pictures`.

Run it again when what they show has changed.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from PIL import Image, PngImagePlugin
from sklearn.datasets import load_sample_image

import tailcut
from docs import build_tables
from tailcut.channels.pictures import show_maps
from tailcut.data import open_dataset
from tailcut.inputs import BlockDCT, describe_picture
from tailcut.inputs.drawing import TITLES, show_channels, show_frequencies
from tailcut.inputs.patterns import NUM_CHANNELS, NUM_FREQUENCIES
from tailcut.reports.corners import axis_names, folded_corner, show_corner
from tailcut.reports.spectrum import axis_energies, axis_roles, show_energies
from tailcut.transform import dct, dct_basis, idct, l1_order, l1_rank
from tailcut.transform.block import block_dct
from tailcut.transform.color import rgb_to_ycbcr
from tailcut.weights import truncated_tensors

GATE = build_tables.ROOT / "docs" / "results" / "gate-imagenette.json"  # `tailcut select --json`
FOLDER = build_tables.ROOT / "docs" / "pictures"
POINTS_KEY = "points"
CUT_COLOR = "0.92"
ORDER_MAP = "viridis_r"
SIZE_MAP = "YlGnBu"


def main() -> None:
    """Draw all pictures."""
    pictures: dict[str, Callable[[], Figure]] = {
        "corner-2d": corner_2d,
        "expansion": expansion,
        "corner-3d": corner_3d,
        "corner-4d": corner_4d,
        "schedule": schedule,
        "frequency-inputs": frequency_inputs,
        "channel-scores": channel_scores,
        "gate": gate,
        "run-fast": run_fast,
        "report": report,
    }
    for name, draw in pictures.items():
        write(draw(), FOLDER / f"{name}.png")
    points = result_points()
    write(results(points), FOLDER / "results.png", points=points)


def new_figure(width: float, height: float) -> Figure:
    """A figure on a white ground, sizes in inches of 100 pixels."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: Path, points: list[list[Any]] | None = None) -> None:
    """Write a figure as a small PNG; `points` are noted in the file, so that a test sees whether it is stale."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    colors = Image.open(content).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    note = PngImagePlugin.PngInfo()
    if points is not None:
        note.add_text(POINTS_KEY, json.dumps(points))
    colors.save(path, optimize=True, pnginfo=note)
    print(f"{path.name}  {path.stat().st_size:,} bytes")


def corner_2d() -> Figure:
    """The canonical order in a matrix, and what a corner of a real picture's coefficients gives back."""
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

    picture = open_dataset("digits", "train")[8][0][0]
    coefficients = dct(picture)
    order, count = l1_order(picture.shape), 60
    truncated = torch.zeros(picture.numel()).index_copy(0, order[:count], coefficients.flatten()[order[:count]])
    digit.imshow(picture.numpy(), cmap="gray")
    digit.set_title(f"a 28 x 28 picture:\n{picture.numel()} numbers", fontsize=9)
    scale: dict[str, Any] = {"cmap": SIZE_MAP, "vmin": -2.5, "vmax": 1.2}
    spectrum.imshow(coefficients.abs().clamp(min=1e-3).log10().numpy(), **scale)
    spectrum.set_title("its DCT (size, logarithmic):\n784 coefficients", fontsize=9)
    seen = truncated.abs().reshape(picture.shape)
    kept.imshow(seen.log10().where(seen > 0, float("nan")).numpy(), **scale)
    kept.set_facecolor(CUT_COLOR)
    kept.set_title(f"the corner:\nthe first {count} of them", fontsize=9)
    again.imshow(idct(truncated.reshape(picture.shape)).clamp(0, 1).numpy(), cmap="gray")
    again.set_title(f"the inverse DCT\nof these {count}", fontsize=9)
    for panel in (grid, digit, spectrum, kept, again):
        panel.set(xticks=[], yticks=[])
    return figure


def expansion() -> Figure:
    """A matrix from its vector: corner, times one truncated basis per axis."""
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
    """The kept coefficients of three-axis tensors as blocks."""
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


def schedule() -> Figure:
    """Kept coefficients over the cuts, by the library's own schedule."""
    num_steps, start, target = 200, 8000, 194
    curves: dict[str, tuple[dict[str, Any], str]] = {
        "paper, rate=0.01": ({"rate": 0.01}, "tab:blue"),
        "paper, rate=0.05": ({"rate": 0.05}, "tab:cyan"),
        f"paper, num_steps={num_steps}": ({"num_steps": num_steps}, "tab:green"),
        f"geometric, num_steps={num_steps}": ({"num_steps": num_steps, "spacing": "geometric"}, "tab:orange"),
    }
    figure = new_figure(10, 3.6)
    panels = figure.subplots(1, 2)
    for label, (settings, color) in curves.items():
        model = torch.nn.Linear(200, 100, bias=False)
        tailcut.regularize(model, num_kept=start)
        cuts = tailcut.TailTruncation(model, num_kept=target, **settings)
        counts = [start] + [cuts.step()["weight"] for _ in range(num_steps)]
        for panel in panels:
            panel.plot(counts, label=label, color=color)
    for panel, scale in zip(panels, ("linear", "log"), strict=True):
        panel.axhline(target, color="0.6", linestyle=":")
        panel.set(xlabel="cuts", yscale=scale, title=f"kept coefficients, {scale} scale")
        panel.grid(visible=True, alpha=0.3)
    panels[1].set_yticks([target, 500, 1000, 2000, 4000, start])
    panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panels[1].yaxis.set_minor_formatter(NullFormatter())
    panels[0].legend(fontsize=9)
    return figure


def frequency_inputs() -> Figure:
    """A photo on its way to 24 frequency channels, and what they hold of it."""
    side, at = 384, (160, 176)
    photo = load_sample_image("flower.jpg")[20 : 20 + side, 110 : 110 + side]
    picture = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    transform = BlockDCT(24)
    channels = transform(picture)
    luma, blue, red = rgb_to_ycbcr(picture.double())
    block = luma[at[0] : at[0] + 8, at[1] : at[1] + 8]
    figure = new_figure(8.6, 2.4)
    rows = ("rgb y cb pixels y-channels cb-channels rebuilt", "rgb y cr coefficients y-channels cr-channels rebuilt")
    panels = figure.subplot_mosaic([[*row.split()] for row in rows], width_ratios=[2, 2, 1, 1, 2, 1, 2])
    panels["rgb"].imshow(photo)
    panels["rgb"].set_title(f"RGB\n3 x {side} x {side}", fontsize=8)
    for name, plane in (("y", luma), ("cb", blue), ("cr", red)):
        step = 1 if name == "y" else 2
        panels[name].imshow(plane[::step, ::step].numpy(), cmap="gray", vmin=0, vmax=255)
        panels[name].set_title({"y": "YCbCr, not rounded\n", "cb": "Cb", "cr": "Cr"}[name], fontsize=8)
    panels["y"].add_patch(Rectangle((at[1] - 4, at[0] - 4), 16, 16, fill=False, edgecolor="red", linewidth=1.2))
    panels["pixels"].imshow(block.numpy(), cmap="gray", vmin=0, vmax=255)
    panels["pixels"].set_title("a block", fontsize=8)
    sizes = block_dct(block - 128)[0, 0].abs().clamp(min=0.1).log10()
    panels["coefficients"].imshow(sizes.numpy(), cmap=SIZE_MAP)
    panels["coefficients"].set_title("its DCT", fontsize=8)
    parts = channels.split([len(part) for part in transform.selection.components().values()])
    for name, part, indices in zip(("y", "cb", "cr"), parts, transform.selection.components().values(), strict=True):
        show_channels(panels[f"{name}-channels"], part, indices)
        panels[f"{name}-channels"].set(xlabel="", ylabel="")
        title = f"24 channels, {part.shape[1]} x {part.shape[2]}\n" if name == "y" else f"{len(part)} of {name.title()}"
        panels[f"{name}-channels"].set_title(title, fontsize=8)
    panels["rebuilt"].imshow(transform.inverse(channels).clamp(0, 1).permute(1, 2, 0).numpy())
    report = describe_picture(picture, transform)
    panels["rebuilt"].set_title(f"what they hold:\n{report.psnr_db:.0f} dB", fontsize=8)
    for panel in panels.values():
        panel.set(xticks=[], yticks=[])
    return figure


def run_fast() -> Figure:
    """Between two truncated layers: the wide map in memory, and made tile by tile."""
    figure = new_figure(11, 3.4)
    panel = figure.subplots()
    rows = [
        (2.2, "dense", ((0.0, 8.0, "64 channels\nof every pixel"), (5.0, 8.0, "written to memory,\nread again"))),
        (
            0.6,
            "fused",
            ((0.0, 0.8, "4 numbers\nof every pixel"), (5.0, 8.0, "64 channels of one tile:\nmade, used, dropped")),
        ),
    ]
    for y, name, maps in rows:
        panel.text(-1.4, y, name, ha="right", va="center", fontsize=12, weight="bold")
        for x, width, label in (*maps, (10, maps[0][1], maps[0][2])):
            in_tile = name == "fused" and width > 1
            color, edge = (CUT_COLOR, "tab:blue") if in_tile else ("tab:blue", "tab:blue")
            box = Rectangle(
                (x - width / 10, y - 0.35), width / 5, 0.7, facecolor=color, edgecolor=edge, ls="--" if in_tile else "-"
            )
            panel.add_patch(box)
            panel.text(x, y - 0.45, label, ha="center", va="top", fontsize=8)
        steps = (
            ("3 x 3 convolution", "batch norm, ReLU")
            if name == "dense"
            else ("expand by cosines,\nbatch norm, ReLU", "project on cosines,\n3 x 3 of 4 channels")
        )
        for x, text in zip((2.5, 7.5), steps, strict=True):
            panel.annotate("", (x + 0.8, y), (x - 0.8, y), arrowprops={"arrowstyle": "->"})
            panel.text(x, y + 0.1, text, ha="center", va="bottom", fontsize=8)
    panel.set(xlim=(-3, 12), ylim=(-0.4, 2.9))
    panel.set_axis_off()
    return figure


def gate() -> Figure:
    """How likely the gate of our recipe opens each channel, and those that it opens most, framed."""
    told = json.loads(GATE.read_text(encoding="utf-8"))
    values = torch.zeros(NUM_CHANNELS, dtype=torch.float64)
    for channel, probability in told["probability"].items():
        values[int(channel)] = probability
    limits = 0.0, float(values.max())
    figure = new_figure(11, 3.9)
    panels = figure.subplots(1, len(TITLES))
    for panel, (name, title), part in zip(panels, TITLES.items(), values.split(NUM_FREQUENCIES), strict=True):
        image = show_frequencies(panel, part, tuple(told["selection"][name]), limits)
        panel.set_title(title, fontsize=10)
    bar = figure.colorbar(image, ax=panels, shrink=0.8, pad=0.01)
    bar.set_label(f"probability to be open, {told['num_pictures']:,} pictures", fontsize=8)
    return figure


def channel_scores() -> Figure:
    """Maps of our LeNet-5 with high and low scores, of a handwritten digit."""
    digit, _ = open_dataset("digits", "test").batch([4])
    figure: Figure = show_maps(tailcut.load("zoo:lenet5-ref"), digit, "conv1")
    return figure


def report() -> Figure:
    """Parts of the report on our smallest LeNet-5: its kept corners, and the spectra of its weights."""
    model = tailcut.load("zoo:lenet5-776")
    tensors, energies, roles = truncated_tensors(model), dict(axis_energies(model)), axis_roles(model)
    figure = new_figure(11, 4.6)
    corners, spectra = figure.subfigures(2, len(tensors), height_ratios=[1.15, 1], squeeze=False)
    for corner, spectrum, tensor in zip(corners, spectra, tensors, strict=True):
        corner.suptitle(f"{tensor.name}: {tensor.num_kept} of {np.prod(tensor.shape):,}", fontsize=9)
        show_corner(corner, folded_corner(tensor)[0], axis_names(tensor, roles[tensor.name]))
        show_energies(spectrum, energies[tensor.name], roles[tensor.name])
        for part in (*corner.axes, *spectrum.axes):
            part.tick_params(labelsize=7)
            part.xaxis.label.set_size(8)
            part.yaxis.label.set_size(8)
        lines = spectrum.axes[0].lines
        for number, line in enumerate(lines):  # those of a page take its colours
            line.set_color(f"C{number}")
        spectrum.axes[0].legend(fontsize=7)
    return figure


def result_points() -> list[list[Any]]:
    """Method, network, bytes and accuracy of everything that the picture of the results shows."""
    points: list[list[Any]] = [
        ["the paper, numbers alone", row.network, 2 * row.num_kept, row.accuracy]
        for row in build_tables.PAPER
        if row.num_kept is not None
    ]
    points += [["TensorFlow Compression", "lenet300", 8560, 0.981], ["TensorFlow Compression", "lenet5", 2840, 0.990]]
    points += [
        ["Tailcut", build_tables.network_of(result), result.file_bytes, result.metrics["accuracy"]]
        for result in build_tables.read_results(build_tables.ROOT / build_tables.TABLE1)
        if result.num_kept and build_tables.network_of(result) in build_tables.NETWORKS
    ]
    return points


def results(points: list[list[Any]]) -> Figure:
    """Accuracy over bytes, one panel per network."""
    figure = new_figure(9, 3.6)
    styles = {
        "the paper, numbers alone": ("o", "tab:blue"),
        "TensorFlow Compression": ("s", "tab:gray"),
        "Tailcut": ("*", "tab:red"),
    }
    for panel, (network, title) in zip(figure.subplots(1, 2), build_tables.NETWORKS.items(), strict=True):
        for method, (marker, color) in styles.items():
            mine = sorted(
                (size, 100 * accuracy) for name, of, size, accuracy in points if (name, of) == (method, network)
            )
            if mine:
                panel.plot(*zip(*mine, strict=True), marker=marker, color=color, label=method, linestyle=":")
        panel.set(title=title, xlabel="bytes", ylabel="accuracy on MNIST, %")
        panel.set_xlim(left=0)
        panel.margins(y=0.15)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panel.grid(visible=True, alpha=0.3)
        panel.legend(fontsize=8, loc="best")
    return figure


if __name__ == "__main__":
    main()
