"""Tables of the papers: one row per recipe, the paper's figures beside those of finished runs."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from tailcut.errors import ArgumentError, DataError
from tailcut.format import fingerprint, load, zoo_names
from tailcut.format.zoo import PREFIX
from tailcut.printing import Report, difference_text, figure_text, markdown_table, spread_text, table
from tailcut.reports.dense_sizes import FLOAT32_BYTES, SECONDS_PER_HOUR, dense_parameters
from tailcut.reports.tables.seeds import SeedMean, seed_means
from tailcut.runs import Result


def start_of(result: Result) -> str | None:
    """Return the trained network that the run started from, as its recipe names it; None for fresh parameters."""
    file: str | None = result.recipe.get("start", {}).get("file")
    return file


def start_is_older(result: Result) -> bool | None:
    """Return whether the name that the run started from now means another network of the zoo.

    None where that is not known: for fresh parameters, other files, and records without a fingerprint.
    """
    start = start_of(result)
    if start is None or not result.start_fingerprint or start not in [PREFIX + name for name in zoo_names()]:
        return None
    return result.start_fingerprint != _present_fingerprint(start)


@cache
def _present_fingerprint(file: str) -> str:
    return fingerprint(load(file))


TABLES = ("table1", "table2", "table3", "table4", "table5", "lfd", "cfdp")
_FOLDERS = {"frequency-inputs": "lfd", "frequency-pruning": "cfdp"}
_LOWER_IS_BETTER = ("fid", "seconds")


@dataclass(frozen=True)
class Wanted:
    """Row of a table that a recipe asks for.

    Attributes:
        recipe: its name with folder, `frequency-regularization/lenet5-776`.
        name: its name alone.
        source: where the paper's figures stand; empty if the paper has no such row.
        metrics: the paper's figures, 0 to 1.
        num_kept: the paper's number of coefficients.
        why_not: why ours and the paper's cannot be compared; empty if they can.
        measured: the chief metric of its task, for a row without figures of the paper that was not run.
        data: the data set that its figures are of.
        test_split: the split of it.
    """

    recipe: str
    name: str
    source: str = ""
    metrics: Mapping[str, float] | None = None
    num_kept: int | None = None
    why_not: str = ""
    measured: str = "accuracy"
    data: str = ""
    test_split: str = ""


@dataclass(frozen=True)
class ReproducedRow(Report):
    """One figure of one run, or of a row that was not run (then `ours` and what follows it are None).

    Attributes:
        name: the recipe's name.
        metric: what is measured.
        paper: the paper's figure, None if it has none.
        ours: that of the packed file on the whole test set.
        comparable: whether the two are figures of the same data and the same measure.
        why_not: why they are not.
        lower_is_better: for this metric.
        num_kept: coefficients of the packed file; None for networks without.
        file_bytes: its size.
        compression_ratio: float32 bytes of the dense network over those of the file.
        epochs: trained.
        seed: of everything random.
        device: it was trained on.
        hours: of training.
        start: the trained network that it went on from (`zoo:NAME`, `run:NAME`, a file), whose epochs and hours are not
            in the row; None for fresh parameters.
        start_is_older: whether that name now means another network of the zoo; None if unknown.
    """

    name: str
    metric: str
    paper: float | None
    ours: float | None
    comparable: bool
    why_not: str | None
    lower_is_better: bool
    num_kept: int | None = None
    file_bytes: int | None = None
    compression_ratio: float | None = None
    epochs: int | None = None
    seed: int | None = None
    device: str | None = None
    hours: float | None = None
    start: str | None = None
    start_is_older: bool | None = None


@dataclass(frozen=True)
class ReproduceReport(Report):
    """A paper's table beside ours.

    Attributes:
        table: its name.
        rows: one per recipe, metric and run.
        means: of recipes that were run with several seeds.
    """

    table: str
    rows: tuple[ReproducedRow, ...]
    means: tuple[SeedMean, ...] = ()

    def __str__(self) -> str:
        """Aligned columns; a row that was not run says so, and below those of several seeds stands their mean."""
        shown = table(_COLUMNS, list(self._lines()), align=_ALIGN)
        why_not = _notes("not to be compared", [(row, row.why_not) for row in self.rows])
        starts = _notes("on top come the epochs and hours of the start", [(row, row.start) for row in self.rows])
        older = [(row, row.start if row.start_is_older else None) for row in self.rows]
        notes = [*why_not, *starts, *_notes("went on from an earlier network than is there now", older)]
        return "\n".join([shown, "", *notes]) if notes else shown

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        return markdown_table(_COLUMNS, list(self._lines()), _ALIGN) + "\n"

    def _lines(self) -> Iterator[list[str]]:
        """Yield the cells of all rows, and of the means behind the rows of their recipe."""
        for name, rows in groupby(self.rows, key=lambda row: row.name):
            of_metric = {}
            for row in rows:
                of_metric[row.metric] = row
                yield _cells(row)
            yield from (_mean_cells(mean, of_metric[mean.metric]) for mean in self.means if mean.name == name)


def _notes(opening: str, said: Sequence[tuple[ReproducedRow, str | None]]) -> list[str]:
    """Return one line per remark, with the rows that it applies to: by name, and metric if not to all of the name."""
    remarks = dict.fromkeys(what for _, what in said if what)
    return [f"{opening}, {what}: {', '.join(_rows_with(what, said))}" for what in remarks]


def _rows_with(what: str, said: Sequence[tuple[ReproducedRow, str | None]]) -> list[str]:
    others = {row.name for row, other in said if other != what}
    names = (f"{row.name} ({row.metric})" if row.name in others else row.name for row, other in said if other == what)
    return list(dict.fromkeys(names))


_COLUMNS = ("recipe", "metric", "paper", "ours", "difference", "kept", "bytes", "smaller by", "epochs", "seed", "hours")
_ALIGN = "<<" + ">" * (len(_COLUMNS) - 2)


def table_of(recipe: str, source: str) -> str | None:
    """Return the table that has a row for a recipe, or None.

    Args:
        recipe: its name with folder.
        source: of its `paper` section, for example "IEEE Access 2023, Table 1, LeNet5-v1".
    """
    folder = recipe.partition("/")[0]
    if folder in _FOLDERS:
        return _FOLDERS[folder]
    found = re.search(r"\bTable (\d)\b", source)
    return f"table{found[1]}" if found and folder == "frequency-regularization" else None


def make_table(name: str, wanted: Sequence[Wanted], results: Mapping[str, Sequence[Result]]) -> ReproduceReport:
    """Return the table with this name.

    Args:
        name: one of `TABLES`.
        wanted: the recipes that come with Tailcut; those of other tables are left out.
        results: see `find_results`.

    Raises:
        ArgumentError: there is no such table, or none of the recipes is a row of it.
        DataError: a result has no figures.
    """
    if name not in TABLES:
        raise ArgumentError(f"unknown table {name!r}; there are {', '.join(TABLES)}")
    mine = sorted((entry for entry in wanted if table_of(entry.recipe, entry.source) == name), key=_place)
    if not mine:
        raise ArgumentError(_no_row(name, wanted))
    found = [(entry, results.get(entry.name, ())) for entry in mine]
    rows = tuple(row for entry, runs in found for row in _rows(entry, runs))
    return ReproduceReport(name, rows, tuple(mean for _, runs in found for mean in seed_means(runs)))


def _place(wanted: Wanted) -> tuple[str, float, str]:
    """Return the order of the papers' tables: network by network, the reference first and the smallest last."""
    num_kept = math.inf if wanted.num_kept is None else wanted.num_kept
    return wanted.name.partition("-")[0], -num_kept, wanted.name


def _no_row(name: str, wanted: Sequence[Wanted]) -> str:
    """Return the error message for recipe names without a row in the table; it lists those with one."""
    places = [(entry.name, table_of(entry.recipe, entry.source)) for entry in wanted]
    said = (
        f"{recipe} is a row of {place or 'no table'}{f', not of {name}' if place else ''}" for recipe, place in places
    )
    return "; ".join(said) or f"there is no recipe for {name}"


def _rows(wanted: Wanted, results: Sequence[Result]) -> list[ReproducedRow]:
    figures = dict(wanted.metrics or {})
    if not results:
        return [_row(wanted, metric, figures.get(metric), None) for metric in figures or (wanted.measured,)]
    rows = []
    for result in results:
        if not result.metrics:
            raise DataError(f"the result of {result.name} has no metrics")
        rows += [_row(wanted, metric, figures.get(metric), result) for metric in result.metrics]
    return rows


def _row(wanted: Wanted, metric: str, paper: float | None, result: Result | None) -> ReproducedRow:
    lower = metric.startswith(_LOWER_IS_BETTER)
    why_not = wanted.why_not or ("" if paper is not None else "the paper has no such row")
    if result is None:
        return ReproducedRow(wanted.name, metric, paper, None, not why_not, why_not or None, lower)
    dense_bytes = FLOAT32_BYTES * dense_parameters(result)
    return ReproducedRow(
        wanted.name,
        metric,
        paper,
        result.metrics[metric],
        not why_not,
        why_not or None,
        lower,
        result.num_kept or None,
        result.file_bytes,
        round(dense_bytes / result.file_bytes, 2),
        result.epochs,
        result.seed,
        result.device,
        round(result.seconds / SECONDS_PER_HOUR, 4),
        start_of(result),
        start_is_older(result),
    )


def _cells(row: ReproducedRow) -> list[str]:
    if row.ours is None:
        return [row.name, row.metric, _figure(row.metric, row.paper), "not run", *[""] * (len(_COLUMNS) - 4)]
    return [
        row.name,
        row.metric,
        _figure(row.metric, row.paper),
        figure_text(row.metric, row.ours),
        difference_text(row.metric, row.ours, row.paper if row.comparable else None),
        "" if row.num_kept is None else f"{row.num_kept:,}",
        "" if row.file_bytes is None else f"{row.file_bytes:,}",
        "" if row.compression_ratio is None else f"{row.compression_ratio:,.0f} x",
        "" if row.epochs is None else f"{row.epochs}",
        "" if row.seed is None else f"{row.seed}",
        "" if row.hours is None else f"{row.hours:.2f}",
    ]


def _mean_cells(mean: SeedMean, row: ReproducedRow) -> list[str]:
    """Return the row of the mean below the runs, of which `row` is the last."""
    ours = spread_text(mean.metric, mean.mean, mean.spread)
    what = f"mean of {len(mean.seeds)} seeds"
    return [
        what,
        mean.metric,
        _figure(row.metric, row.paper),
        ours,
        difference_text(row.metric, mean.mean, row.paper if row.comparable else None),
        *[""] * (len(_COLUMNS) - 5),
    ]


def _figure(metric: str, value: float | None) -> str:
    return "" if value is None else figure_text(metric, value)
