"""Draws the images of the pages in docs/ into docs/images/: `python -m tools.docs.make_images`.

Run it again when what they show has changed.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter
from PIL import Image, PngImagePlugin
from sklearn.datasets import load_sample_image

import tailcut
from tailcut.channels.scoring.plots import show_maps
from tailcut.data import open_dataset
from tailcut.errors import DataNotFoundError
from tailcut.evaluation.generation import Sampler, latent_codes
from tailcut.format import fingerprint
from tailcut.inputs import BlockDCT, describe_image
from tailcut.inputs.plots import TITLES, show_channels, show_frequencies
from tailcut.inputs.selection.patterns import NUM_CHANNELS, NUM_FREQUENCIES
from tailcut.reports.html.corners import axis_names, folded_corner, show_corner
from tailcut.reports.html.spectrum import axis_energies, axis_roles, show_energies
from tailcut.tasks.prediction.sample import sheet
from tailcut.transform.block import block_dct
from tailcut.transform.color import rgb_to_ycbcr
from tailcut.weights import truncated_tensors
from tools.docs import build_tables, findings, peers
from tools.docs.combined_tables import combined_plot, combined_points
from tools.docs.corner_images import (
    CUT_COLOR,
    SIZE_MAP,
    channel_grids,
    corner_2d,
    corner_3d,
    corner_4d,
    expansion,
    new_figure,
)
from tools.docs.peers import accuracy_per_byte

GATE = build_tables.ROOT / "docs" / "results" / "gate-imagenette.json"  # `tailcut select --json`
FOLDER = build_tables.ROOT / "docs" / "images"
POINTS_KEY = "points"
# Drawn by a command on their page, from networks that are not in the repository.
BY_COMMAND = ("grad-cam.png", "browser.png")
NEEDS_DATA = ("masks.png",)  # drawn where the data lies under a data root, else left as it is
# The networks of the zoo that an image shows.
SHOWN = {
    "channel-grids": ("unet-759-float16",),
    "channel-scores": ("lenet5-ref",),
    "digits": ("vae-ref", "vae-97134"),
    "masks": ("unet-759-float16",),
    "report": ("lenet5-776",),
}


def main() -> None:
    """Draw all images."""
    images: dict[str, Callable[[], Figure]] = {
        "corner-2d": corner_2d,
        "expansion": expansion,
        "corner-3d": corner_3d,
        "corner-4d": corner_4d,
        "channel-grids": channel_grids,
        "schedule": schedule,
        "frequency-inputs": frequency_inputs,
        "channel-scores": channel_scores,
        "gate": gate,
        "digits": digits,
        "run-fast": run_fast,
        "report": report,
    }
    for name, draw in images.items():
        write(draw(), FOLDER / f"{name}.png", points=network_points(name))
    try:
        write(masks(), FOLDER / "masks.png", points=network_points("masks"))
    except DataNotFoundError as error:
        print(f"masks.png  left as it is: {str(error).splitlines()[0]}")
    for name in findings.with_records():
        points = findings.finding_points(name)
        write(findings.draw_finding(points, findings.AGAINST[name]), FOLDER / f"{name}.png", points=points)
    points = result_points()
    write(results(points), FOLDER / "results.png", points=points)
    points = combined_points(build_tables.ROOT / build_tables.RESULTS)
    write(combined_plot(points), FOLDER / "combined.png", points=points)
    points = byte_points()
    write(accuracy_per_byte(points), FOLDER / "accuracy-per-byte.png", points=points)


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


def network_points(name: str) -> list[list[Any]] | None:
    """Name and fingerprint of each network that an image shows, None for an image of no network."""
    if name not in SHOWN:
        return None
    return [[network, fingerprint(tailcut.load(f"zoo:{network}"))] for network in SHOWN[name]]


def schedule() -> Figure:
    """Kept coefficients over the cuts, by the library's own schedule."""
    num_steps, start, target = 200, 8000, 194
    curves: dict[str, tuple[dict[str, Any], str]] = {
        "paper, gamma=0.01": ({"gamma": 0.01}, "tab:blue"),
        "paper, gamma=0.05": ({"gamma": 0.05}, "tab:cyan"),
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
    panels[1].yaxis.set_major_formatter("{x:,.0f}")
    panels[1].yaxis.set_minor_formatter(NullFormatter())
    panels[0].legend(fontsize=9)
    return figure


def frequency_inputs() -> Figure:
    """Return a photo on its way to 24 frequency channels, and what they hold of it."""
    side, at = 384, (160, 176)
    photo = load_sample_image("flower.jpg")[20 : 20 + side, 110 : 110 + side]
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    transform = BlockDCT(24)
    channels = transform(image)
    luma, blue, red = rgb_to_ycbcr(image.double())
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
    report = describe_image(image, transform)
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
    bar.set_label(f"probability to be open, {told['num_images']:,} images", fontsize=8)
    return figure


def channel_scores() -> Figure:
    """Draw maps of our LeNet-5 with high and low scores, of a handwritten digit."""
    digit, _ = open_dataset("digits", "test").batch([4])
    figure: Figure = show_maps(tailcut.load("zoo:lenet5-ref"), digit, "conv1")
    return figure


def digits() -> Figure:
    """Digits that the dense VAE makes of random codes, and those of the truncated one."""
    figure = new_figure(11, 3.9)
    for panel, name in zip(figure.subplots(1, 2), SHOWN["digits"], strict=True):
        model = tailcut.load(f"zoo:{name}")
        kept = sum(tensor.num_kept for tensor in truncated_tensors(model))
        weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
        sampler = Sampler(model)
        made = sheet(sampler(latent_codes(sampler, 36, 0)))
        panel.imshow(made[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(f"{name}: {kept or weights:,} {'coefficients' if kept else 'weights'}", fontsize=10)
        panel.set_axis_off()
    return figure


def masks() -> Figure:
    """Masks that our smallest UNet draws of photos of other cars than it has seen; the photos are not ours to show."""
    model, photos = tailcut.fuse(tailcut.load("zoo:unet-759-float16")), open_dataset("carvana", "val")
    figure = new_figure(11, 2.0)
    for panel, index in zip(figure.subplots(1, 4), range(0, len(photos), len(photos) // 4), strict=True):
        with torch.no_grad():
            logits = model(photos.batch([index])[0])
        panel.imshow(logits.argmax(1)[0, ::2, ::2].numpy(), cmap="gray", interpolation="nearest")
        panel.set_axis_off()
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
    """Return method, network, bytes and accuracy of every point in the image of the results."""
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


def byte_points() -> list[list[Any]]:
    """Return every point in the image of accuracy per byte, as `peers.Point` has it."""
    return [list(point) for point in peers.points(build_tables.ROOT / build_tables.RESULTS)]


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
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.grid(visible=True, alpha=0.3)
        panel.legend(fontsize=8, loc="best")
    return figure


if __name__ == "__main__":
    main()
