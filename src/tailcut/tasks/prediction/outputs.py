"""What predictions for images have in common: reading on past broken ones, the report, files named like them."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tailcut.data import leave_out
from tailcut.errors import ArgumentError, DataError, first_line
from tailcut.evaluation.evaluate import PROGRESS_INTERVAL
from tailcut.files import write_atomically
from tailcut.printing import Report, table
from tailcut.runtime.progress import live_progress

TABLE_FILE = "predictions.json"


@dataclass
class PredictReport(Report):
    """Report of the predictions for images.

    Attributes:
        source: the file (or `zoo:NAME`), as it was given.
        task: `classification` or `segmentation`.
        predictions: one dict per image. For classes: `image`, `class_number`, `class_name` (None where the network
            was not told it), `probability` and `best` (the three likeliest classes, likewise). For masks: `image`,
            `mask` (the file) and `foreground_ratio`.
        seconds: time of it all.
        skipped: `image` and `reason` of those that were left out since they cannot be read.
    """

    source: str
    task: str
    predictions: list[dict[str, Any]]
    seconds: float
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        """Return one row per image."""
        if self.task == "segmentation":
            rows = [
                (item["image"], item["mask"], f"{100 * item['foreground_ratio']:.1f} %") for item in self.predictions
            ]
            return table(["image", "mask", "foreground"], rows, align="<<>")
        rows = [
            (item["image"], shown_class(item["class_number"], item["class_name"]), f"{100 * item['probability']:.1f} %")
            for item in self.predictions
        ]
        return table(["image", "class", "probability"], rows, align="<<>")


def shown_class(number: int, name: str | None) -> str:
    """Return a class as text: `3 cat`, or `3` if the network has no class names."""
    return f"{number} {name}" if name else str(number)


def read_each(
    paths: Sequence[Path], read: Callable[[Path], Tensor], skipped: list[dict[str, Any]]
) -> Iterator[tuple[Path, Tensor]]:
    """Yield the images, and show how far it is; those that cannot be read are left out, or raise, see `leave_out`.

    Raises:
        DataError: all of them were left out.
    """
    with live_progress(True, "images", len(paths), interval=PROGRESS_INTERVAL) as bar:
        for number, path in enumerate(paths, start=1):
            try:
                image = read(path)
            except DataError as error:
                leave_out(path, error)
                skipped.append({"image": str(path), "reason": first_line(error)})
                continue
            yield path, image
            bar.show(number)
    if paths and len(skipped) == len(paths):
        first = skipped[0]["reason"]
        raise DataError(f"none of the {len(paths)} images could be read; the first: {first}")


def check_table(folder: Path) -> None:
    """Raise `ArgumentError` if a folder has a table of predictions that `write_table` did not write."""
    path = folder / TABLE_FILE
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text())
    except ValueError:  # no JSON, or no text
        content = None
    if not isinstance(content, dict) or "predictions" not in content:
        raise ArgumentError(f"{path} is no table of predictions, and would be replaced: choose another folder")


def write_table(folder: Path, report: PredictReport) -> None:
    """Write the table of the predictions into a folder."""
    write_atomically(folder / TABLE_FILE, report.to_json() + "\n")


def paths_of_output(images: Sequence[Path], folder: Path, what: str) -> dict[Path, Path]:
    """Return for each image the PNG in a folder that is named like it; `what` the PNG is, for messages.

    Raises:
        ArgumentError: two would have one name, or one would replace its image.
    """
    twice = [stem for stem, count in Counter(path.stem for path in set(images)).items() if count > 1]
    if twice:
        raise ArgumentError(f"several images are named {twice[0]}: their {what}s would have one name; run them apart")
    outputs = {path: folder / f"{path.stem}.png" for path in images}
    for path, output in outputs.items():
        if output.exists() and path.exists() and output.samefile(path):
            raise ArgumentError(f"the {what} of {path} would replace it; choose another folder")
    return outputs
