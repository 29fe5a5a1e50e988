"""Plot of a run: loss, metric and kept coefficients over the epochs."""

import logging
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from tailcut.errors import ArgumentError, MissingExtraError
from tailcut.plotting import new_figure, write_figure
from tailcut.printing import is_fraction

logger = logging.getLogger(__name__)
METRIC_COLORS = ("tab:green", "tab:purple", "tab:brown", "tab:cyan")


def draw_curves(lines: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draw the lines of a `metrics.jsonl` as a PNG of three panels.

    Args:
        lines: one per epoch, as `Run.read_metrics` gives them; at least one.
        path: the image to write.
        title: stands above it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure("the plot of a run", (12, 3.6))
    figure.suptitle(title)
    epochs = [line["epoch"] for line in lines]
    loss, metric, kept = figure.subplots(1, 3)
    losses = [line["loss"] for line in lines]
    loss.plot(epochs, losses, color="tab:blue")
    # Of a single class it is zero, which has no logarithm.
    loss.set(title="training loss", xlabel="epoch", yscale="log" if min(losses) > 0 else "linear")
    measured = [line for line in lines if line["metrics"]]
    colors = cycle(METRIC_COLORS)
    for name in measured[0]["metrics"] if measured else ():
        factor, unit = (100, "%") if is_fraction(name) else (1, "")
        values = [factor * line["metrics"][name] for line in measured]
        metric.plot([line["epoch"] for line in measured], values, color=next(colors), label=name)
        metric.set(title=f"{measured[0]['split']} {name}", xlabel="epoch", ylabel=unit)
    if measured and len(measured[0]["metrics"]) > 1:
        metric.set(title=measured[0]["split"])
        metric.legend()
    kept.plot(epochs, [line["num_kept"] for line in lines], color="tab:orange")
    kept.set(title="kept coefficients", xlabel="epoch", yscale="log")
    for panel in (loss, metric, kept):
        panel.grid(visible=True, alpha=0.3)
    write_figure(figure, path)


def try_to_draw_curves(lines: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """`draw_curves` if there is anything to draw; what prevents it is told, and is no reason to lose a training."""
    if not lines:
        return
    try:
        draw_curves(lines, path, title=title)
    except (MissingExtraError, ArgumentError, OSError) as error:
        logger.warning("%s was not drawn: %s", path.name, error)
