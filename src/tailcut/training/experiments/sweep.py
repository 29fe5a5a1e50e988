"""Sweeps: run the trainings of an experiment that have no result yet, and tabulate all."""

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tailcut.errors import ArgumentError, DataNotFoundError, DivergedError, TrainingError, first_line
from tailcut.printing import Report, figure_text, markdown_table, mean_and_spread, spread_text, table
from tailcut.runs import Result, read_result
from tailcut.runtime.devices import Devices
from tailcut.training.experiments.definition import Experiment, Trial, Variant
from tailcut.training.recipe.toml_files import changed_since, training_command
from tailcut.training.setup.initial_network import check_data_files
from tailcut.training.train import train

SECONDS_PER_HOUR = 3600
NOT_RUN = "not run"

Results = Mapping[tuple[str, int], Result]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepRow(Report):
    """One figure of a variant over its seeds; of one that was not run, what is measured is None.

    Attributes:
        variant: its name.
        metric: what is measured; None if nothing of the experiment was run.
        paper: the paper's figure for it, None if it has none; of several metrics the first has it.
        mean: of the runs' figures: of the packed file on the whole test split.
        spread: sample standard deviation of the runs' figures; None for less than two runs.
        num_seeds: trainings wanted of it.
        seeds: of the runs.
        values: the figure of each run, in the order of `seeds`.
        num_kept: coefficients of the packed file, None for networks without; this and the numbers below are means.
        num_parameters: numbers of the dense network.
        file_bytes: size of the packed file.
        epochs: trained in each run.
        hours: of training one run.
    """

    variant: str
    metric: str | None
    paper: float | None
    mean: float | None
    spread: float | None
    num_seeds: int
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    num_kept: int | None
    num_parameters: int | None
    file_bytes: int | None
    epochs: int
    hours: float | None


@dataclass(frozen=True)
class SweepReport(Report):
    """An experiment's table.

    Attributes:
        experiment: its name.
        question: in one sentence.
        paper_source: where the figures of the paper stand; empty if there are none.
        rows: one per variant and metric.
    """

    experiment: str
    question: str
    paper_source: str
    rows: tuple[SweepRow, ...]

    def __str__(self) -> str:
        """Return the question and an aligned table; variants that were not run are marked."""
        header, *rows = self._cells()
        note = [f"the paper's figures: {self.paper_source}"] if self.paper_source else []
        shown = table(header, rows, align="<<" + ">" * (len(header) - 2))
        return "\n\n".join([self.question, shown, *note])

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        header, *rows = self._cells()
        return markdown_table(header, rows, "<<" + ">" * (len(header) - 2)) + "\n"

    def _cells(self) -> list[list[str]]:
        """Header and rows; the paper's column only where it has figures."""
        paper = ["paper"] if self.paper_source else []
        cells = [["variant", "metric", *paper, "ours", "runs", "kept", "parameters", "bytes", "epochs", "hours"]]
        for row in self.rows:
            figures = ["" if row.paper is None else figure_text(row.metric or "", row.paper)] if paper else []
            cells.append([row.variant, row.metric or "", *figures, *self._measured(row)])
        return cells

    def _measured(self, row: SweepRow) -> list[str]:
        if row.mean is None or row.metric is None:
            return [NOT_RUN, "", "", "", "", f"{row.epochs}", ""]
        single = row.spread is None
        return [
            figure_text(row.metric, row.mean) if single else spread_text(row.metric, row.mean, row.spread or 0.0),
            f"{len(row.seeds)} of {row.num_seeds}",
            "" if row.num_kept is None else f"{row.num_kept:,}",
            f"{row.num_parameters:,}",
            f"{row.file_bytes:,}",
            f"{row.epochs}",
            f"{row.hours:.2f}",
        ]


def choose_variants(experiment: Experiment, only: Sequence[str] | None) -> Experiment:
    """Return the experiment with these variants only, all of them when None; its trainings stay the same.

    Raises:
        ArgumentError: there is no such variant.
    """
    if only is None:
        return experiment
    known = [variant.name for variant in experiment.variants]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ArgumentError(f"{experiment.name} has no variant {unknown[0]!r}; it has {', '.join(known)}")
    return experiment.model_copy(update={"variants": tuple(item for item in experiment.variants if item.name in only)})


def find_results(trials: Sequence[Trial], records: str | Path | None = None) -> Results:
    """Return the existing results by variant and seed: from finished runs, else from the records.

    A result counts for the recipe that it was trained with: one of other settings is named in a warning and left out,
    and a run's does not hide the record.

    Args:
        trials: see `trials_of`.
        records: a folder of results, each as VARIANT-SEED.json.

    Raises:
        ArgumentError: there is no folder `records`.
        DataError: a result is damaged.
    """
    if records is not None and not Path(records).is_dir():
        raise ArgumentError(f"there is no folder {records}; expected results of runs, each as VARIANT-SEED.json")
    found = {}
    for trial in trials:
        places = [trial.run.result] + ([] if records is None else [Path(records) / f"{trial.run.path.name}.json"])
        result = next(filter(None, (_valid_result(place, trial) for place in places if place.is_file())), None)
        if result is not None:
            found[trial.variant, trial.seed] = result
    return found


def _valid_result(path: Path, trial: Trial) -> Result | None:
    """Return the result in the folder, or None, with a warning, if its settings are not the trial's."""
    result = read_result(path)
    changed = changed_since(result.recipe, trial.recipe, aside=trial.needs)  # where runs lie may differ
    if changed:
        logger.warning("%s is of other settings and does not count; there and here: %s", path, "; ".join(changed))
        return None
    return result


def missing_trials(trials: Sequence[Trial], chosen: Experiment, results: Results) -> list[Trial]:
    """Return the trainings still to run: chosen variants without a result, each after the runs that it needs.

    A run that another one needs must have its network; a result kept elsewhere is not enough.
    """
    by_place = {(trial.variant, trial.seed): trial for trial in trials}
    order: dict[tuple[str, int], Trial] = {}

    @cache  # several variants may need one run
    def is_trained(place: tuple[str, int]) -> bool:
        trial = by_place[place]
        return trial.run.result.is_file() and _valid_result(trial.run.result, trial) is not None

    def add(trial: Trial) -> None:
        for place in trial.needs.values():
            needed = by_place[place]
            if not is_trained(place):
                add(needed)  # one that was trained by other settings then ends the sweep
        order.setdefault((trial.variant, trial.seed), trial)

    names = [variant.name for variant in chosen.variants]
    for place, trial in by_place.items():
        if trial.variant in names and place not in results:
            add(trial)
    return list(order.values())


def train_trials(trials: Sequence[Trial], imports: Sequence[str] = (), **settings: Any) -> None:
    """Train each of them, or go on with what was begun.

    One whose data lies nowhere, whose loss is no number, or that needs such a one, is left out with a warning.

    Args:
        trials: in an order in which each follows those that it needs.
        imports: the modules that register their networks, for the record.
        settings: arguments of `tailcut.training.train`: `roots`, `devices`, `download`, `progress`.

    Raises:
        RecipeError: a run was begun with other settings, or a recipe does not fit its network or data.
        TrainingError: Ctrl-C was pressed; the next sweep continues from there.
    """
    left_out: set[tuple[str, int]] = set()
    for number, trial in enumerate(trials, start=1):
        what = f"variant {trial.variant}, seed {trial.seed}"
        logger.info("%d of %d to train: %s", number, len(trials), what)
        missing = [place[0] for place in trial.needs.values() if place in left_out]
        try:
            reason = f"it needs variant {missing[0]}" if missing else _train(trial, imports, settings)
        except TrainingError as error:
            raise TrainingError(f"{what}: {error} (a sweep resumes by itself)") from error
        if reason is not None:
            logger.warning("%s: not run: %s", what, reason)
            left_out.add((trial.variant, trial.seed))


def _train(trial: Trial, imports: Sequence[str], settings: Mapping[str, Any]) -> str | None:
    """Train one; why it has no result, where another attempt on this machine would end the same way."""
    devices = settings.get("devices") or Devices()
    command = training_command(
        trial.source,
        trial.run.path.as_posix(),
        overrides=trial.overrides,
        imports=imports,
        devices=devices.devices,
        num_nodes=devices.num_nodes,
    )
    try:
        if not trial.run.has_finished_epochs():
            # Of several processes only the first opens the start's file: here all find that it lies nowhere.
            check_data_files(trial.recipe, settings.get("roots"))
        train(trial.recipe, trial.run.path, resume=True, command=command, **settings)
    except DataNotFoundError as error:
        return first_line(error)
    except DivergedError as error:
        return str(error)
    return None


def make_report(chosen: Experiment, trials: Sequence[Trial], results: Results) -> SweepReport:
    """Return the table of the chosen variants.

    `trials` are those of the whole experiment; `results` come from `find_results`.
    """
    metrics = list(dict.fromkeys(name for result in results.values() for name in result.metrics))
    rows = []
    for variant in chosen.variants:
        mine = [trial for trial in trials if trial.variant == variant.name]
        found = [results[trial.variant, trial.seed] for trial in mine if (trial.variant, trial.seed) in results]
        rows += _rows(variant, mine, metrics, found)
    return SweepReport(chosen.name, chosen.question, chosen.paper_source, tuple(rows))


def _rows(
    variant: Variant, trials: Sequence[Trial], metrics: Sequence[str], results: Sequence[Result]
) -> list[SweepRow]:
    """Return one row per metric of the results; the paper's figure is that of the first."""
    empty = SweepRow(
        variant=variant.name,
        metric=metrics[0] if metrics else None,
        paper=variant.paper,
        mean=None,
        spread=None,
        num_seeds=len(trials),
        seeds=(),
        values=(),
        num_kept=None,
        num_parameters=None,
        file_bytes=None,
        epochs=trials[0].recipe.training.epochs,
        hours=None,
    )
    measured = [metric for metric in metrics if any(metric in result.metrics for result in results)]
    papers = [variant.paper] + [None] * len(measured)
    rows = [replace(empty, metric=metric, paper=paper) for metric, paper in zip(measured, papers, strict=False)]
    return [_measured(row, results) for row in rows] or [empty]


def _measured(row: SweepRow, results: Sequence[Result]) -> SweepRow:
    """Return the row with what the results have of its metric."""
    metric = row.metric or ""
    found = [result for result in results if metric in result.metrics]
    values = [result.metrics[metric] for result in found]
    mean, spread = mean_and_spread(values) if len(values) > 1 else (values[0], None)
    return replace(
        row,
        mean=mean,
        spread=spread,
        seeds=tuple(result.seed for result in found),
        values=tuple(values),
        num_kept=_mean([result.num_kept for result in found]) or None,
        num_parameters=_mean([result.num_parameters for result in found]),
        file_bytes=_mean([result.file_bytes for result in found]),
        hours=round(statistics.fmean(result.seconds for result in found) / SECONDS_PER_HOUR, 4),
    )


def _mean(counts: Sequence[int]) -> int:
    return round(statistics.fmean(counts))
