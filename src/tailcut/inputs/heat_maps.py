"""Heat maps of a gate: the probability that each frequency channel is used (the paper's figure 5)."""

from pathlib import Path

import torch

from tailcut.inputs.plots import draw_frequency_map
from tailcut.inputs.selection.gate import GateActivity
from tailcut.inputs.selection.patterns import NUM_CHANNELS
from tailcut.inputs.selection.selection import Selection


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
    values = torch.zeros(NUM_CHANNELS, dtype=torch.float64)
    values[list(activity.channels)] = torch.tensor(activity.probability, dtype=torch.float64)
    told = title or f"probability to be open, mean of {activity.num_images:,} images"
    draw_frequency_map(values, path, title=told, selection=selection)
