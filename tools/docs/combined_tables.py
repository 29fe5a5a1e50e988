"""Table and plot of docs/combined.md: a network by all three papers after each stage, beside each paper alone."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from tailcut.reports import by_name, read_records
from tailcut.runs import Result, read_result
from tools.docs.byte_tables import largest_file
from tools.docs.corner_images import new_figure
from tools.docs.markdown import markdown_table

COMBINED = "imagenette-resnet18-combined"
CIFAR = "cifar10-resnet20-combined"
Rows = tuple[tuple[str, str], ...]
# Title and name of the results; those of a stage have its name behind the recipe's. First the dense network.
ROWS: Rows = (
    ("pixels, 112 x 112, dense", "imagenette-resnet18-rgb112"),
    ("inputs alone: 24 frequency channels", "imagenette-resnet18-dct24"),
    ("channels alone: half of the MACs pruned", "imagenette-resnet18-pruned"),
    ("weights alone: 5 % of the coefficients", "imagenette-resnet18-truncated"),
    ("all three: 24 frequency channels", f"{COMBINED}-inputs"),
    ("... half of the MACs pruned", f"{COMBINED}-channels"),
    ("... 5 % of the coefficients", f"{COMBINED}-weights"),
    ("... trained for bytes", COMBINED),
)
CIFAR_ROWS: Rows = (
    ("24 frequency channels, dense", f"{CIFAR}-inputs"),
    ("... half of the MACs pruned", f"{CIFAR}-channels"),
    ("... 20 % of the coefficients", f"{CIFAR}-weights"),
    ("... trained for bytes", CIFAR),
)
PLACES = ((8, -10), (8, 5), (8, 17), (8, -22), (8, 29), (8, -34))  # of words beside a point, in points
MARK = 4  # pixels around the middle of a point
HEADER = (
    "network",
    "seeds",
    "epochs in all",
    "**accuracy**",
    "parameters",
    "coefficients",
    "**bytes, largest file**",
    "smaller",
)


def combined_table(results: Path, rows: Rows = ROWS) -> str:
    """Return one row for each network: accuracy as mean and spread over its seeds, and the largest of their files."""
    known = _known(results)
    dense = known.get(rows[0][1])
    dense_bytes = largest_file(dense) if dense else None
    cells, before = [], 0
    for title, name in rows:
        runs = known.get(name, [])
        is_stage = name.startswith((f"{COMBINED}-", f"{CIFAR}-"))
        # Those of a finished recipe are in all, and those of a stage its own.
        before = (before if title.startswith("...") else 0) + (runs[0].epochs if runs and is_stage else 0)
        cells.append(_row(title, runs, dense_bytes, before if is_stage or not runs else runs[0].epochs))
    return markdown_table(HEADER, cells, align="<<>>>>>>")


def _known(results: Path) -> dict[str, list[Result]]:
    stages = [read_result(path) for path in (results / "stages").rglob("*.json")]
    return by_name(sorted([*read_records(results), *stages], key=lambda result: result.seed))


def combined_points(results: Path) -> list[list[Any]]:
    """Return title, bytes of the largest file and mean accuracy of each network that was trained."""
    known = _known(results)
    return [
        [
            title,
            largest_file(known[name]),
            statistics.fmean(run.metrics["accuracy"] for run in known[name]),
        ]
        for title, name in ROWS
        if name in known
    ]


def combined_plot(points: list[list[Any]]) -> Figure:
    """Draw the stages of the network by all three papers as a path, and the other networks beside it.

    Args:
        points: those of `combined_points`.
    """
    figure = new_figure(8, 3.8)
    panel = figure.subplots()
    of_chain = {title for title, name in ROWS if name.startswith(COMBINED)}
    labels: list[tuple[str, tuple[float, float], str]] = []
    for is_chain in (False, True):
        mine = [(title, size, 100 * accuracy) for title, size, accuracy in points if (title in of_chain) == is_chain]
        color, line = ("tab:red", "-") if is_chain else ("tab:gray", "")
        panel.plot(
            [size for _, size, _ in mine], [value for *_, value in mine], marker="o", color=color, linestyle=line
        )
        labels += [(title.removeprefix("... "), (size, value), color) for title, size, value in mine]
    panel.set(xlabel="bytes of the file", ylabel="accuracy on Imagenette, %", xscale="log")
    panel.invert_xaxis()
    panel.margins(x=0.28, y=0.2)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.grid(visible=True, alpha=0.3)
    _write_apart(panel, labels)
    return figure


def _write_apart(panel: Axes, labels: Sequence[tuple[str, tuple[float, float], str]]) -> None:
    """Write words in a colour beside each point, at the first of `PLACES` that neither points nor words take."""
    marks = [panel.transData.transform(point) for _, point, _ in labels]
    taken = [Bbox.from_extents(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in marks]
    for words, point, color in labels:
        for place in PLACES:
            text = panel.annotate(words, point, place, textcoords="offset points", fontsize=8, color=color)
            box = text.get_window_extent()
            if place == PLACES[-1] or not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _row(title: str, runs: Sequence[Result], dense_bytes: int | None, epochs: int) -> list[str]:
    if not runs:
        return [title, "", "", "not run", "", "", "", ""]
    values = [100 * run.metrics["accuracy"] for run in runs]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    size = largest_file(runs)
    return [
        title,
        ", ".join(str(run.seed) for run in runs),
        f"{epochs}",
        f"**{statistics.fmean(values):.1f}{spread} %**",
        f"{round(statistics.fmean(run.num_parameters for run in runs)):,}",
        f"{round(statistics.fmean(run.num_kept for run in runs)):,}" if runs[0].num_kept else "",
        f"**{size:,}**",
        "" if dense_bytes is None else f"{dense_bytes / size:,.0f} : 1",
    ]
