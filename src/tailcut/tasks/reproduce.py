"""A paper's table, trained on this machine."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tailcut.data import Roots
from tailcut.errors import ArgumentError, DataError, DataNotFoundError, DivergedError, first_line
from tailcut.files import check_output_path, write_atomically
from tailcut.reports import ReproduceReport, Wanted, find_results, make_table, table5, table_of
from tailcut.runs import Run
from tailcut.training.recipe.toml_files import load_recipe, shipped_recipes
from tailcut.training.setup.initial_network import needed_runs

TABLE5 = "table5"

logger = logging.getLogger(__name__)


def reproduce(
    table: str,
    *,
    runs: str | Path = "runs",
    show: bool = False,
    no_records: bool = False,
    only: Sequence[str] | None = None,
    markdown: str | Path | None = None,
    roots: Roots = None,
    download: bool = False,
    command: str = "",
) -> ReproduceReport:
    """Train the rows of a paper's table that have no result, and return them all. Table 5 is a benchmark: only shown.

    Args:
        table: "table1" to "table5", "lfd" or "cfdp".
        runs: the folder of run folders; unfinished ones are resumed.
        show: train nothing.
        no_records: leave out the results that come with Tailcut: those rows are trained too.
        only: names of recipes, whose rows are the only ones.
        markdown: a file for the table as Markdown.
        roots: data roots to try first.
        download: fetch a data set if it lies nowhere.
        command: the command line, for the records of the runs.

    Raises:
        ArgumentError: there is no such table or recipe, or a file cannot be written.
    """
    wanted = wanted_rows(only)
    if markdown is not None:
        check_output_path(markdown)
    asked = _Asked(table, Path(runs), no_records, bool(only))
    report = asked.rows(wanted)
    missing = list(dict.fromkeys(row.name for row in report.rows if row.ours is None))
    if missing and not show and table != TABLE5:
        training = _Training(Path(runs), roots, download, command)
        for name in missing:
            training.run(next(entry.recipe for entry in wanted if entry.name == name))
        report = asked.rows(wanted)
    elif not (missing or show or no_records or table == TABLE5):
        logger.info(
            "all rows have a result already, yours or Tailcut's: nothing was trained; --no-records trains yours"
        )
    if markdown is not None:
        write_atomically(markdown, report.to_markdown())
    return report


def wanted_rows(only: Sequence[str] | None = None) -> list[Wanted]:
    """Return the rows that the shipped recipes name, or those of the recipes in `only`."""
    found = []
    for name in shipped_recipes():
        recipe = load_recipe(name)
        paper = recipe.paper
        metric = "accuracy" if recipe.detection is None else "box_AP"
        data, split = recipe.data.name, recipe.data.test_split
        entry = Wanted(name, recipe.name, measured=metric, data=data, test_split=split or "")
        if paper is not None:
            entry = replace(
                entry, source=paper.source, metrics=paper.metrics, num_kept=paper.num_kept, why_not=paper.why_not
            )
        found.append(entry)
    unknown = set(only or ()) - {entry.name for entry in found}
    if unknown:
        raise ArgumentError(f"--only: there is no recipe {sorted(unknown)[0]!r}")
    return [entry for entry in found if only is None or entry.name in only]


@dataclass(frozen=True)
class _Asked:
    """The table that was asked for."""

    table: str
    runs: Path
    no_records: bool
    has_only: bool

    def rows(self, wanted: Sequence[Wanted]) -> ReproduceReport:
        """Return the table with what is there now."""
        if self.table == TABLE5:
            if self.has_only or self.no_records:
                raise ArgumentError("table5 is a benchmark and has no runs: it takes neither --only nor --no-records")
            return table5()
        rows = [entry for entry in wanted if table_of(entry.recipe, entry.source) == self.table]
        measured = {entry.name: (entry.data, entry.test_split) for entry in rows}
        results = find_results(self.runs, records=not self.no_records, measured=measured)
        return make_table(self.table, wanted, results)


@dataclass(frozen=True)
class _Training:
    """Trains recipes into folders of their names."""

    runs: Path
    roots: Roots
    download: bool
    command: str

    def run(self, name: str) -> None:
        """Train the recipe of this name, after those whose networks it starts from."""
        from tailcut.training.train import train  # which takes seconds, and a table that is only shown needs none

        recipe = load_recipe(name)
        run = Run(self.runs / recipe.name)
        if run.result.is_file():
            _warn_of_another(run, recipe.name)
            return
        try:
            for needed in needed_runs(recipe):
                self.run(needed)
                if not Run(self.runs / needed).result.is_file():
                    logger.warning("%s: not run: it starts from %s", recipe.name, needed)
                    return
            logger.info("%s: training", recipe.name)
            train(
                recipe,
                run.path,
                resume=True,
                roots=self.roots,
                download=self.download,
                progress=True,
                command=self.command,
            )
        except (DataNotFoundError, DivergedError) as error:
            logger.warning("%s: not run: %s", recipe.name, first_line(error))


def _warn_of_another(run: Run, name: str) -> None:
    """Say so if the folder that a recipe trains into holds the result of another one."""
    try:
        found = run.read_result().name
    except DataError:
        return  # the table shows it already
    if found != name:
        logger.warning(
            "%s: not run: %s is the result of %s; move that folder away, or choose another with --runs",
            *(name, run.result, found),
        )
