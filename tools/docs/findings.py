"""What the experiments on truncated training found: each variant against the recipe, and an image of all seeds."""

from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from tailcut.training.experiments.definition import load_experiment
from tools.docs.comparisons import accuracies, variants_compared
from tools.docs.corner_images import new_figure

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "docs" / "results" / "experiments"
# Each experiment's row that the others are compared with.
AGAINST = {
    "fr-corner": "corner",
    "fr-trained-start": "fresh",
    "fr-trained-start-resnet18": "fresh",
    "fr-dimensions": "4-D-weighted",
    "fr-order-weights": "kernel-3",
    "fr-schedule": "geometric",
    "fr-initialization": "he",
    "fr-budget": "recipe",
    "fr-optimizer": "adam",
    "fr-distillation": "t3-w0.7",
    "fr-resnet18": "recipe",
    "fr-split-resnet18": "even",
    "fr-alexnet": "recipe",
    "norms-resnet18": "whole",
    "norms-vgg16": "whole",
}
ROW_HEIGHT, MARGIN = 0.27, 0.75  # inches
NEAR = 7.0  # points of accuracy below the row compared with; rows with a lower mean are not drawn to scale


def finding(name: str, experiments: Path = EXPERIMENTS) -> str:
    """Return the table of the variants that were run, against the experiment's own row."""
    base = AGAINST[name]
    others = [variant for variant, _ in finding_points(name, experiments) if variant != base]
    if not others:
        return "Not run."
    return variants_compared(experiments / name, [(base, others)])


def finding_points(name: str, experiments: Path = EXPERIMENTS) -> list[list[Any]]:
    """Variant and the accuracies of its seeds, in the order of the experiment; those not run are left out."""
    points = []
    for variant in load_experiment(name).variants:
        values = accuracies(experiments / name, variant.name)
        if values:
            points.append([variant.name, values])
    return points


def with_records(experiments: Path = EXPERIMENTS) -> list[str]:
    """Return the experiments of which something was run."""
    return [name for name in AGAINST if finding_points(name, experiments)]


def draw_finding(points: list[list[Any]], base: str) -> Figure:
    """Return a dot for each seed and a line at the mean, one row per variant; the row compared with is red.

    The axis covers what is near that row, or differences of tenths of a point could not be seen; further away, the mean
    stands as a number at the edge.
    """
    figure = new_figure(7.2, MARGIN + ROW_HEIGHT * len(points))
    panel = figure.subplots()
    percents = {variant: [100 * value for value in values] for variant, values in points}
    middle = fmean(percents[base]) if base in percents else None
    drawn = [values for values in percents.values() if middle is None or fmean(values) > middle - NEAR]
    near = [value for values in drawn for value in values]
    left = min(near) - 0.05 * (max(near) - min(near)) - 0.05
    for row, (variant, values) in enumerate(percents.items()):
        color = "tab:red" if variant == base else "tab:blue"
        mean = fmean(values)
        if mean < left:
            text = f"\N{LEFTWARDS ARROW} {mean:.1f} %"
            panel.annotate(text, (left, row), xytext=(5, 0), textcoords="offset points", verticalalignment="center")
            continue
        panel.plot([mean, mean], [row - 0.35, row + 0.35], color=color, linewidth=2)
        panel.plot(values, [row] * len(values), "o", color=color, markersize=4, alpha=0.6)
        if variant == base:
            panel.axvline(mean, color=color, linewidth=0.6, linestyle=":")
    panel.set_xlim(left=left)
    panel.set_yticks(range(len(points)), list(percents))
    panel.set_ylim(len(points) - 0.4, -0.6)
    panel.set_xlabel("accuracy on the test split, %")
    panel.grid(visible=True, axis="x", alpha=0.3)
    return figure
