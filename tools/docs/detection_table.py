"""Table of docs/detection.md: the detector that was trained to its end, on few images, which also measure it."""

from pathlib import Path

from tailcut.reports import read_records
from tools.docs.markdown import duration, markdown_table, percent

OVERFIT = "faster-rcnn-overfit"
FIGURES = ("box_AP", "box_AP50", "box_AP75", "box_APS", "box_APM", "box_APL")


def detection_table(results: Path) -> str:
    """Return COCO's figures of each run of the recipe, or that it was not run."""
    runs = [result for result in read_records(results) if result.name == OVERFIT]
    header = ["recipe", "seed", "images", "epochs", "time", *(name.removeprefix("box_") for name in FIGURES)]
    rows = [
        [
            f"`{OVERFIT}`",
            f"{run.seed}",
            f"{run.split_sizes['train']}",
            f"{run.epochs}",
            duration(run.seconds),
            *(percent(run.metrics[name]) if name in run.metrics else "" for name in FIGURES),
        ]
        for run in runs
    ]
    return markdown_table(header, rows or [[f"`{OVERFIT}`", "", "not run", *[""] * (len(header) - 3)]], "<<" + ">" * 9)
