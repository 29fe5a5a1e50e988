"""The table of docs/combined.md: a network by all three papers, after each of its stages, beside each paper alone."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from tailcut.runs import Result, read_result
from tools.docs.markdown import markdown_table

COMBINED = "imagenette-resnet18-combined"
ALONE = (
    ("pixels, 112 x 112, dense", "frequency-inputs/imagenette-resnet18-rgb112"),
    ("inputs alone: 24 frequency channels", "frequency-inputs/imagenette-resnet18-dct24"),
    ("channels alone: half of the MACs pruned", "combined/imagenette-resnet18-pruned"),
    ("weights alone: 2 % of the coefficients", "combined/imagenette-resnet18-truncated"),
)
STAGES = (
    ("all three: 24 frequency channels", f"stages/combined/{COMBINED}", "-inputs"),
    ("... half of the MACs pruned", f"stages/combined/{COMBINED}", "-channels"),
    ("... 2 % of the coefficients", f"stages/combined/{COMBINED}", "-weights"),
    ("... trained for bytes", f"combined/{COMBINED}", ""),
)
HEADER = ("network", "seeds", "**accuracy**", "parameters", "coefficients", "**bytes**", "smaller")


def combined_table(results: Path) -> str:
    """Return one row for each network, with the mean and the spread over its seeds."""
    found = [(title, seeds_of(results, name, "")) for title, name in ALONE]
    found += [(title, seeds_of(results, name, stage)) for title, name, stage in STAGES]
    dense = found[0][1]
    largest = dense[0].file_bytes if dense else None
    return markdown_table(HEADER, [_row(title, runs, largest) for title, runs in found], align="<<>>>>>")


def seeds_of(results: Path, name: str, stage: str) -> list[Result]:
    """Return the results NAME[-SEED]STAGE.json, by seed."""
    place = results / name
    paths = [
        path
        for path in place.parent.glob(f"{place.name}*{stage}.json")
        if path.stem.removeprefix(place.name).removesuffix(stage).removeprefix("-").isdecimal()
        or path.stem == f"{place.name}{stage}"
    ]
    return sorted((read_result(path) for path in paths), key=lambda result: result.seed)


def _row(title: str, runs: Sequence[Result], largest: int | None) -> list[str]:
    if not runs:
        return [title, "", "not run", "", "", "", ""]
    values = [100 * run.metrics["accuracy"] for run in runs]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    size = round(statistics.fmean(run.file_bytes for run in runs))
    return [
        title,
        ", ".join(str(run.seed) for run in runs),
        f"**{statistics.fmean(values):.1f}{spread} %**",
        f"{round(statistics.fmean(run.num_parameters for run in runs)):,}",
        f"{round(statistics.fmean(run.num_kept for run in runs)):,}" if runs[0].num_kept else "",
        f"**{size:,}**",
        "" if largest is None else f"{largest / size:,.0f} : 1",
    ]
