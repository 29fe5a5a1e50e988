"""`tailcut reproduce`: a paper's table, trained on this machine."""

import argparse
import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from tailcut.cli.parser import Commands, add_command, add_data_roots
from tailcut.errors import ArgumentError, DataError, DataNotFoundError, DivergedError, first_line
from tailcut.files import check_output_path, write_atomically
from tailcut.printing import Report
from tailcut.reports import ReproduceReport, Wanted, find_results, make_table, table5, table_of
from tailcut.runs import Run

logger = logging.getLogger(__name__)


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "reproduce",
        summary="train the rows of a paper's table and show them beside the paper's",
        description="Train the rows of a paper's table that have no result yet, resume those that are not finished, "
        "and show the paper's figures beside ours. Rows without a run of yours show the result that comes with "
        "Tailcut, and are not trained; with --no-records they are. Rows whose data are missing, or whose training "
        "diverges, say 'not run'.",
        example="  tailcut reproduce table1 --show\n  tailcut reproduce cfdp --only resnet56 --runs runs",
        run=run,
    )
    parser.add_argument("table", metavar="TABLE", help="table1 to table5, lfd or cfdp")
    parser.add_argument("--show", action="store_true", help="train nothing, only show the table")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder of run folders (default: runs)"
    )
    parser.add_argument(
        "--no-records", action="store_true", help="ignore the results that come with Tailcut: train those rows too"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="this row only; may be repeated")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown as well")
    add_data_roots(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Train what is missing, then show. Table 5 is a benchmark: it is only shown."""
    wanted = wanted_rows(arguments.only)
    if arguments.markdown is not None:
        check_output_path(arguments.markdown)
    report = _table(wanted, arguments)
    missing = list(dict.fromkeys(row.name for row in report.rows if row.ours is None))
    if missing and not arguments.show and arguments.table != "table5":
        for name in missing:
            _train(next(entry.recipe for entry in wanted if entry.name == name), arguments)
        report = _table(wanted, arguments)
    elif not (missing or arguments.show or arguments.no_records or arguments.table == "table5"):
        logger.info(
            "all rows have a result already, yours or Tailcut's: nothing was trained; --no-records trains yours"
        )
    if arguments.markdown is not None:
        write_atomically(arguments.markdown, report.to_markdown())
    return report


def _table(wanted: list[Wanted], arguments: argparse.Namespace) -> ReproduceReport:
    if arguments.table == "table5":
        if arguments.only or arguments.no_records:
            raise ArgumentError("table5 is a benchmark and has no runs: it takes neither --only nor --no-records")
        return table5()
    rows = [entry for entry in wanted if table_of(entry.recipe, entry.source) == arguments.table]
    measured = {entry.name: (entry.data, entry.test_split) for entry in rows}
    results = find_results(arguments.runs, records=not arguments.no_records, measured=measured)
    return make_table(arguments.table, wanted, results)


def wanted_rows(only: list[str] | None = None) -> list[Wanted]:
    """Return the rows that the shipped recipes name, or those of the recipes in `only`."""
    from tailcut.training.recipe.toml_files import load_recipe, shipped_recipes

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


def _train(name: str, arguments: argparse.Namespace) -> None:
    """Train the recipe of this name, after those whose networks it starts from."""
    from tailcut.training.recipe.toml_files import load_recipe
    from tailcut.training.setup.initial_network import needed_runs
    from tailcut.training.train import train

    recipe = load_recipe(name)
    run = Run(arguments.runs / recipe.name)
    if run.result.is_file():
        _warn_of_another(run, recipe.name)
        return
    try:
        for needed in needed_runs(recipe):
            _train(needed, arguments)
            if not Run(arguments.runs / needed).result.is_file():
                logger.warning("%s: not run: it starts from %s", recipe.name, needed)
                return
        logger.info("%s: training", recipe.name)
        train(
            recipe,
            run.path,
            resume=True,
            roots=arguments.roots,
            download=arguments.download,
            progress=True,
            command=shlex.join(["tailcut", *sys.argv[1:]]),
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
