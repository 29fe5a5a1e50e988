"""Records of finished runs: those in a folder, and those that ship with Tailcut."""

import importlib.resources
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from tailcut.errors import ArgumentError, DataError
from tailcut.runs import Result, Run, read_result

# One folder per folder of recipes. What else lies beside them (benchmarks, for one) is no record of a training.
RECORDS = ("combined/*.json", "frequency-*/*.json", "training-for-bytes/*.json")

# By recipe name the data set and the split that its figures are of.
Measured = Mapping[str, tuple[str, str]]

logger = logging.getLogger(__name__)


def records_folder() -> Path:
    """Return the folder of the shipped records: FOLDER/NAME.json or FOLDER/NAME-SEED.json per folder of recipes."""
    package = Path(str(importlib.resources.files("tailcut")))
    installed, checkout = package / "results", package.parents[1] / "docs" / "results"
    return installed if installed.is_dir() else checkout


def experiment_records(name: str) -> Path | None:
    """Return the folder of the shipped records of an experiment, each VARIANT-SEED.json; None if there are none."""
    folder = records_folder() / "experiments" / name
    return folder if folder.is_dir() else None


def read_records(folder: str | Path) -> list[Result]:
    """Return all records under a folder such as `records_folder()`, by name and seed; none if it does not exist.

    Raises:
        DataError: a record is damaged.
    """
    return _sorted([read_result(path) for pattern in RECORDS for path in Path(folder).glob(pattern)])


def read_runs(folder: str | Path, measured: Measured | None = None) -> list[Result]:
    """Return the results of the finished runs in a folder, by name and seed; none if it does not exist.

    A damaged result, or one of other images than `measured` says for its name, is named in a warning and left out.

    Args:
        folder: holds run folders, and what else there may be.
        measured: the data of the recipes that have a say; results of other names are taken as they are.

    Raises:
        ArgumentError: `folder` is a file.
    """
    place = Path(folder)
    if not place.exists():
        return []
    if not place.is_dir():
        raise ArgumentError(f"{place} is a file; expected a folder of run folders")
    found = []
    for run in (Run(path) for path in sorted(place.iterdir())):
        if run.result.is_file():
            try:
                result = run.read_result()
            except DataError as error:
                logger.warning("left out: %s", error)
                continue
            if _is_of(result, measured or {}, run):
                found.append(result)
    return _sorted(found)


def find_results(
    runs: str | Path, *, records: bool = True, measured: Measured | None = None
) -> dict[str, list[Result]]:
    """Return the results by recipe name: from finished runs under a folder, else from the shipped records.

    Args:
        runs: a folder that holds run folders; it need not exist.
        records: False leaves out what comes with Tailcut.
        measured: see `read_runs`.

    Raises:
        ArgumentError: `runs` is a file.
        DataError: a record of ours is damaged.
    """
    found = by_name(read_runs(runs, measured))
    ours = by_name(read_records(records_folder())) if records else {}
    return {**ours, **found}


def by_name(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Return the results of each recipe name, in their order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.name, []).append(result)
    return found


def _is_of(result: Result, measured: Measured, run: Run) -> bool:
    """Return whether the result is for the same data as its recipe's published figures; warn if not."""
    wanted = measured.get(result.name)
    data = result.recipe.get("data", {})
    here = data.get("name"), data.get("test_split")
    if wanted is None or here == wanted:
        return True
    logger.warning(
        "left out: %s is of %s, split %s; the figures of %s are of %s, split %s",
        *(run.result, *here, result.name, *wanted),
    )
    return False


def _sorted(results: list[Result]) -> list[Result]:
    return sorted(results, key=lambda result: (result.name, result.seed))
