"""Finished runs: those of a folder, and the records of ours that come with Tailcut."""

import importlib.resources
from collections.abc import Iterable
from pathlib import Path

from tailcut.errors import ArgumentError
from tailcut.runs import Result, Run, read_result

# One folder per folder of recipes. What else lies beside them (benchmarks, for one) is no record of a training.
RECORDS = "frequency-*/*.json"


def records_folder() -> Path:
    """The folder of the records, in which each folder of recipes has one: FOLDER/NAME.json or FOLDER/NAME-SEED.json."""
    package = Path(str(importlib.resources.files("tailcut")))
    installed, checkout = package / "results", package.parents[1] / "docs" / "results"
    return installed if installed.is_dir() else checkout


def read_records(folder: str | Path) -> list[Result]:
    """All records under a folder such as `records_folder()`, by name and seed; none if it does not exist.

    Raises:
        DataError: a record is damaged.
    """
    return _sorted([read_result(path) for path in Path(folder).glob(RECORDS)])


def read_runs(folder: str | Path) -> list[Result]:
    """The results of the finished runs in a folder, by name and seed; none if it does not exist.

    Raises:
        ArgumentError: it is a file.
        DataError: a result is damaged.
    """
    place = Path(folder)
    if not place.exists():
        return []
    if not place.is_dir():
        raise ArgumentError(f"{place} is a file; expected a folder of run folders")
    runs = (Run(path) for path in sorted(place.iterdir()))
    return _sorted([run.read_result() for run in runs if run.result.is_file()])


def find_results(runs: str | Path, *, records: bool = True) -> dict[str, list[Result]]:
    """The results by recipe name: of finished runs under a folder; of recipes without any, the records of ours.

    Args:
        runs: a folder that holds run folders; it need not exist.
        records: False leaves out what comes with Tailcut.

    Raises:
        ArgumentError: `runs` is a file.
        DataError: a result is damaged.
    """
    found = by_name(read_runs(runs))
    ours = by_name(read_records(records_folder())) if records else {}
    return {**ours, **found}


def by_name(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each recipe name, in their order."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.name, []).append(result)
    return found


def _sorted(results: list[Result]) -> list[Result]:
    return sorted(results, key=lambda result: (result.name, result.seed))
