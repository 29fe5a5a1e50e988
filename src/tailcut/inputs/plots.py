"""Plots of frequency channels: themselves, one value per frequency, gates, the image that a selection reconstructs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.files import all_or_nothing, make_folder
from tailcut.inputs.energy import FrequencyReport, describe_image, frequency_energy
from tailcut.inputs.selection.gate import GateActivity
from tailcut.inputs.selection.patterns import COMPONENTS, NUM_CHANNELS, NUM_FREQUENCIES
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.plotting import new_figure, write_figure
from tailcut.transform.block import BLOCK_SIZE, zigzag_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = "an image of frequency channels"  # for the error without matplotlib
TITLES = {"luma": "Y", "chroma_blue": "Cb", "chroma_red": "Cr"}
EMPTY_COLOR = "0.92"
# Errors are small; this many times as large they can be seen.
ERROR_SCALE = 4


def draw_channels(channels: Tensor, selection: Selection, path: str | Path) -> None:
    """Draw channels as a PNG: a panel per component, each map at its frequency's position in the block.

    Each map is drawn around its mean, from black (3 standard deviations below) to white (3 above).

    Args:
        channels: (n, blocks_h, blocks_w).
        selection: which channels these are.
        path: the PNG to write.

    Raises:
        ArgumentError: not one map per channel of the selection, or the folder of `path` does not exist.
        MissingExtraError: matplotlib is not installed.
    """
    if channels.ndim != 3 or channels.shape[0] != selection.num_channels:
        raise ArgumentError(
            f"expected channels ({selection.num_channels}, blocks_h, blocks_w), got shape {tuple(channels.shape)}"
        )
    shown = {name: part for name, part in selection.components().items() if part}
    corners = {name: _corner(part) for name, part in shown.items()}
    tallest = max(rows / columns for rows, columns in corners.values()) * channels.shape[1] / channels.shape[2]
    figure = new_figure(DRAWN, (4.4 * len(shown), 1 + min(4 * tallest, 13)))
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    first = 0
    for panel, (name, part) in zip(panels, shown.items(), strict=True):
        show_channels(panel, channels[first : first + len(part)], part)
        panel.set_title(f"{TITLES[name]}: {len(part)} of {NUM_FREQUENCIES} frequencies", fontsize=10)
        first += len(part)
    write_figure(figure, path)


def show_channels(panel: "Axes", maps: Tensor, indices: tuple[int, ...]) -> None:
    """Show the maps (n, blocks_h, blocks_w) of one component in a matplotlib panel; see `draw_channels`."""
    values = maps.detach().cpu().float()
    spread = values.std(dim=(-2, -1), correction=0, keepdim=True).clamp(min=1e-6)
    values = ((values - values.mean(dim=(-2, -1), keepdim=True)) / (3 * spread)).clamp(-1, 1)
    rows, columns = _corner(indices)
    height, width = values.shape[-2:]
    mosaic = torch.full((rows * (height + 1) - 1, columns * (width + 1) - 1), torch.nan, device="cpu")
    for index, value in zip(indices, values, strict=True):
        v, u = divmod(index, BLOCK_SIZE)
        top, left = v * (height + 1), u * (width + 1)
        mosaic[top : top + height, left : left + width] = value
    panel.imshow(mosaic.numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    panel.set_facecolor(EMPTY_COLOR)
    panel.set_xticks([u * (width + 1) + (width - 1) / 2 for u in range(columns)], [f"{u}" for u in range(columns)])
    panel.set_yticks([v * (height + 1) + (height - 1) / 2 for v in range(rows)], [f"{v}" for v in range(rows)])
    panel.set_xlabel("u, horizontal frequency", fontsize=9)
    panel.set_ylabel("v, vertical frequency", fontsize=9)
    panel.tick_params(length=0, labelsize=8)


def _corner(indices: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the smallest upper-left corner that holds these frequencies."""
    return max(index // BLOCK_SIZE for index in indices) + 1, max(index % BLOCK_SIZE for index in indices) + 1


def draw_frequency_map(
    values: Tensor,
    path: str | Path,
    *,
    title: str,
    selection: Selection | None = None,
    logarithmic: bool = False,
) -> None:
    """Draw one value per channel as a PNG of three 8 x 8 heat maps, as in figure 5 of the paper.

    Each box has its row-major index (8 v + u), large, and its zigzag number, which the paper's figure shows, small.

    Args:
        values: (192,), in the order Y, Cb, Cr x row-major: energies, or the probabilities of a gate.
        path: the PNG to write.
        title: what the values are.
        selection: channels to frame.
        logarithmic: colour by the logarithm of the value; values must not be negative.

    Raises:
        ArgumentError: not 192 finite numbers, negative ones with `logarithmic`, or the folder of `path` does not exist.
        MissingExtraError: matplotlib is not installed.
    """
    shown = values.detach().cpu().double()
    if tuple(shown.shape) != (NUM_CHANNELS,) or not bool(shown.isfinite().all()):
        raise ArgumentError(f"expected {NUM_CHANNELS} finite values, got shape {tuple(values.shape)}")
    if logarithmic:
        if bool((shown < 0).any()):
            raise ArgumentError("expected values that are not negative for a logarithmic map")
        # Zero is shown as what is a millionth of a millionth of the largest.
        shown = shown.clamp(min=max(float(shown.max()) * 1e-12, 1e-30)).log10()
    figure = new_figure(DRAWN, (13, 4.6))
    low = float(shown.min())
    high = max(float(shown.max()), low + 1e-12)
    panels = figure.subplots(1, len(COMPONENTS))
    for panel, name, part in zip(panels, COMPONENTS, shown.split(NUM_FREQUENCIES), strict=True):
        framed = () if selection is None else selection.components()[name]
        image = show_frequencies(panel, part, framed, (low, high))
        panel.set_title(TITLES[name], fontsize=11)
    bar = figure.colorbar(image, ax=panels, shrink=0.8, pad=0.01)
    bar.set_label(f"log10 of {title}" if logarithmic else title, fontsize=9)
    write_figure(figure, path)


def show_frequencies(panel: "Axes", values: Tensor, framed: tuple[int, ...], limits: tuple[float, float]) -> Any:
    """Show 64 values as one heat map in a matplotlib panel; see `draw_frequency_map`. Returns matplotlib's image."""
    from matplotlib.patches import Rectangle

    low, high = limits
    image = panel.imshow(values.reshape(BLOCK_SIZE, BLOCK_SIZE).numpy(), cmap="magma", vmin=low, vmax=high)
    bright = low + 0.6 * (high - low)
    zigzag = zigzag_order().argsort().tolist()
    for index, value in enumerate(values.tolist()):
        v, u = divmod(index, BLOCK_SIZE)
        color = "white" if value < bright else "black"
        for text, below, size in ((index, -0.1, 8.0), (zigzag[index], 0.28, 5.5)):
            label = panel.text(u, v + below, str(text), ha="center", va="center", fontsize=size, color=color)
            label.set_in_layout(False)  # it lies within its panel; to measure it takes long
        if index in framed:
            corner = (u - 0.46, v - 0.46)
            panel.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="cyan", linewidth=1.5))
    panel.set(xticks=[], yticks=[])
    panel.set_xlabel("large: row-major 8 v + u, small: zigzag", fontsize=8)
    return image


def draw_reconstruction(image: Tensor, rebuilt: Tensor, path: str | Path, *, title: str) -> None:
    """Draw an image, what its channels give back, and the difference, as a PNG.

    Args:
        image: RGB (3, height, width), floating point of 0 to 1.
        rebuilt: likewise; clipped for the drawing.
        path: the PNG to write.
        title: of the rebuilt image.

    Raises:
        ArgumentError: the images are not of one such shape, or the folder of `path` does not exist.
        MissingExtraError: matplotlib is not installed.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.shape != rebuilt.shape:
        raise ArgumentError(
            f"expected two images (3, height, width) of one size, got {tuple(image.shape)}, {tuple(rebuilt.shape)}"
        )
    height, width = image.shape[-2:]
    figure = new_figure(DRAWN, (13, max(1.5, min(13.0, 0.5 + 13 / 3 * height / width))))
    error = (rebuilt.clamp(0, 1) - image) * ERROR_SCALE + 0.5
    shown = {"image": image, title: rebuilt, f"difference, {ERROR_SCALE} times": error}
    for panel, (name, values) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        panel.imshow(values.detach().clamp(0, 1).permute(1, 2, 0).cpu().float().numpy())
        panel.set_title(name, fontsize=10)
        panel.set(xticks=[], yticks=[])
    write_figure(figure, path)


@torch.no_grad()
def draw_image(image: Tensor, transform: BlockDCT, folder: str | Path, *, name: str = "image") -> FrequencyReport:
    """Draw what a transform makes of an image: `channels.png`, `energy.png` and `reconstruction.png`.

    Args:
        image: RGB (3, height, width), floating point of 0 to 1.
        transform: the channels.
        folder: where to write; made if it does not exist.
        name: the image's name in the report.

    Raises:
        ArgumentError: the image is not such a tensor, or the folder cannot be made.
        MissingExtraError: matplotlib is not installed.
    """
    report = describe_image(image, transform, name=name)
    channels = transform(image)
    rebuilt = transform.inverse(channels, (report.height, report.width))
    energy = frequency_energy(image, chroma=transform.chroma)
    psnr = "exact" if report.psnr_db is None else f"{report.psnr_db:.1f} dB"
    title = f"from {report.shape[0]} of {NUM_CHANNELS} channels: {psnr}"
    with all_or_nothing():
        folder = make_folder(folder)
        files = [folder / file for file in ("channels.png", "energy.png", "reconstruction.png")]
        draw_channels(channels, transform.selection, files[0])
        draw_frequency_map(energy, files[1], title="energy", selection=transform.selection, logarithmic=True)
        draw_reconstruction(image, rebuilt, files[2], title=title)
    report.files = [str(file) for file in files]
    return report


def draw_heat_maps(
    activity: GateActivity, path: str | Path, *, selection: Selection | None = None, title: str | None = None
) -> None:
    """Draw the mean probability of each channel as a PNG of three 8 x 8 grids, Y, Cb and Cr.

    Each box has its row-major index (8 v + u), large, and its zigzag number, small: the paper numbers its figure in
    zigzag and its tables row-major. Channels that the gate does not read have the probability 0.

    Args:
        activity: of a gate, over some images.
        path: the PNG to write.
        selection: channels to frame, for example those chosen; none when None.
        title: what the values are; says how many images were seen when None.

    Raises:
        ArgumentError: the folder of `path` does not exist.
        MissingExtraError: matplotlib is not installed.
    """
    values = torch.zeros(NUM_CHANNELS, dtype=torch.float64, device="cpu")
    values[list(activity.channels)] = torch.tensor(activity.probability, dtype=torch.float64, device="cpu")
    told = title or f"probability to be open, mean of {activity.num_images:,} images"
    draw_frequency_map(values, path, title=told, selection=selection)
