"""The table of docs/combined.md: a network by all three papers, after each of its stages, beside each paper alone."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from tailcut.reports import by_name, read_records
from tailcut.runs import Result, read_result
from tools.docs.markdown import markdown_table

COMBINED = "imagenette-resnet18-combined"
# Title and name of the results; those of a stage have its name behind the recipe's.
ROWS = (
    ("pixels, 112 x 112, dense", "imagenette-resnet18-rgb112"),
    ("inputs alone: 24 frequency channels", "imagenette-resnet18-dct24"),
    ("channels alone: half of the MACs pruned", "imagenette-resnet18-pruned"),
    ("weights alone: 5 % of the coefficients", "imagenette-resnet18-truncated"),
    ("all three: 24 frequency channels", f"{COMBINED}-inputs"),
    ("... half of the MACs pruned", f"{COMBINED}-channels"),
    ("... 5 % of the coefficients", f"{COMBINED}-weights"),
    ("... trained for bytes", COMBINED),
)
HEADER = ("network", "seeds", "**accuracy**", "parameters", "coefficients", "**bytes**", "smaller")


def combined_table(results: Path) -> str:
    """Return one row for each network, with the mean and the spread over its seeds."""
    stages = [read_result(path) for path in (results / "stages").rglob("*.json")]
    known = by_name(sorted([*read_records(results), *stages], key=lambda result: result.seed))
    dense = known.get(ROWS[0][1])
    largest = dense[0].file_bytes if dense else None
    return markdown_table(HEADER, [_row(title, known.get(name, []), largest) for title, name in ROWS], align="<<>>>>>")


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
