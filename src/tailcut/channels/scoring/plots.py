"""Plots of scores: the sorted scores of layers (figure 1 of the paper), and maps with high and low scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.channels.scoring.blocks import BlockTransform
from tailcut.channels.scoring.formulas import Formula, map_scores
from tailcut.channels.scoring.forward import layer_maps
from tailcut.channels.scoring.scores import Scores
from tailcut.errors import ArgumentError
from tailcut.plotting import new_figure, write_figure

MAX_PANELS = 12
PANELS_PER_ROW = 4


def draw_scores(scores: Scores, path: str | Path, *, layers: Sequence[str] | None = None) -> None:
    """Draw the scores of a few layers as a PNG, a panel each, channels sorted.

    For spectral scores the panels are those of figure 1: the frequency part (by which the channels are sorted), the
    spatial part, and the score. Each layer's curves share one axis.

    Args:
        scores: of any method.
        path: the image to write.
        layers: which; at most 12 spread over the network when None.

    Raises:
        ArgumentError: there are no scores of such a layer.
        MissingExtraError: matplotlib is not installed.
    """
    chosen = _spread(list(scores)) if layers is None else list(layers)
    missing = [name for name in chosen if name not in scores]
    if missing or not chosen:
        raise ArgumentError(f"there are no scores of layer {missing[0] if missing else '(none given)'}")
    num_columns = min(PANELS_PER_ROW, len(chosen))
    num_rows = -(-len(chosen) // num_columns)
    figure, panels = _grid(num_rows, num_columns, (3.4 * num_columns, 2.6 * num_rows + 0.4))
    shown = "" if len(chosen) == len(scores) else f", {len(chosen)} of {len(scores)} layers"
    figure.suptitle(f"scores by {scores.method}{shown}")
    for panel, name in zip(panels, chosen, strict=False):
        for label, values in _curves(scores, name):
            panel.plot(values.numpy(), label=label, linewidth=1.2)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("channel, sorted", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(visible=True, alpha=0.3)
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    if chosen[0] in scores.parts:
        panels[0].legend(fontsize=7)
    write_figure(figure, path)


def draw_maps(
    model: nn.Module,
    image: Tensor,
    layer: str,
    path: str | Path,
    *,
    formula: Formula | None = None,
    num_maps: int = 5,
) -> None:
    """Draw a layer's highest and lowest scored maps of one image as a PNG. The model is not changed.

    Above the maps, below each the size of its DCT coefficients (logarithmic), block by block, and its score.

    Args:
        model: a network.
        image: one input, (1, channels, height, width).
        layer: name of a convolution whose maps have two axes.
        path: the image to write.
        formula: how maps are scored; the paper's when None.
        num_maps: how many of either kind.

    Raises:
        ArgumentError: there is no such layer, it did not run, or the input is no batch of one.
        MissingExtraError: matplotlib is not installed.
    """
    write_figure(show_maps(model, image, layer, formula=formula, num_maps=num_maps), path)


def show_maps(model: nn.Module, image: Tensor, layer: str, *, formula: Formula | None = None, num_maps: int = 5) -> Any:
    """Return the matplotlib figure of `draw_maps`, with the same arguments and errors. Does not change the model."""
    formula = formula or Formula()
    maps = layer_maps(model, image, layer)
    if len(maps) != 1:
        raise ArgumentError(f"maps are drawn of one image, got {len(maps)}")
    values = map_scores(maps, formula)[0].cpu()
    order = values.argsort(descending=True, stable=True)
    num = min(num_maps, len(order))
    columns = [("high", index) for index in order[:num].tolist()] + [("low", index) for index in order[-num:].tolist()]
    transform = BlockTransform(maps.shape[2], maps.shape[3], formula.blocks, torch.float32, maps.device)
    num_rows = formula.blocks.num_coefficients(maps.shape[2])
    figure, panels = _grid(2, len(columns), (1.6 * len(columns), 4.0))
    figure.suptitle(f"maps of {layer} that score highest and lowest, and their coefficients")
    shown = maps[0, [index for _, index in columns]].float().contiguous()
    lowest, highest = float(shown.min()), float(shown.max())  # one scale for all, or a weak map would look strong
    largest = float(transform(shown).abs().max().log1p())
    for column, (kind, index) in enumerate(columns):
        one = maps[0, index].float()
        coefficients = transform(one[None].contiguous()).view(num_rows, -1)
        panels[column].imshow(one.cpu().numpy(), cmap="gray", vmin=lowest, vmax=highest)
        panels[column].set_title(f"{kind}: {float(values[index]):.3g}", fontsize=8)
        panels[len(columns) + column].imshow(
            coefficients.abs().log1p().cpu().numpy(), cmap="magma", vmin=0, vmax=largest
        )
        panels[len(columns) + column].set_title(f"channel {index}", fontsize=8)
    for panel in panels:
        panel.set_axis_off()
    return figure


def _curves(scores: Scores, name: str) -> list[tuple[str, Tensor]]:
    if name not in scores.parts:
        return [(scores.method, scores[name].sort().values)]
    parts = scores.parts[name]
    order = parts.frequency.argsort(stable=True)
    return [
        ("spatial only", parts.spatial[order]),
        ("frequency only", parts.frequency[order]),
        ("score", scores[name][order]),
    ]


def _spread(names: list[str]) -> list[str]:
    """At most `MAX_PANELS` of the names, the first and the last among them."""
    if len(names) <= MAX_PANELS:
        return names
    return [names[round(place * (len(names) - 1) / (MAX_PANELS - 1))] for place in range(MAX_PANELS)]


def _grid(num_rows: int, num_columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    figure = new_figure("drawing scores", size)
    return figure, list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
