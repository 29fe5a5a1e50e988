"""`tailcut sweep`: the variants of an experiment, each trained with several seeds, as one table."""

import argparse
from pathlib import Path

from tailcut.cli.output import check_processes
from tailcut.cli.parser import Commands, add_command, add_data_roots, add_device_arguments, devices_of
from tailcut.files import write_atomically
from tailcut.printing import Report
from tailcut.reports import experiment_records


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "sweep",
        summary="train the variants of an experiment and show their mean and spread over seeds",
        description="Train each variant of an experiment with each of its seeds that has no result yet, resume what is "
        "not finished, and show mean and spread of each variant. What has no run of yours shows the result that comes "
        "with Tailcut. Variants whose data are missing, or whose loss becomes NaN, say 'not run'.",
        example="  tailcut sweep cfdp-block-size --show\n"
        "  tailcut sweep fr-schedule --no-records --runs runs --only geometric --data-root ~/data\n"
        "  tailcut sweep my-experiment.toml --markdown table.md",
        run=run,
    )
    parser.add_argument(
        "experiment", metavar="EXPERIMENT", help="a TOML file, or the name of an experiment that comes with Tailcut"
    )
    parser.add_argument("--show", action="store_true", help="train nothing, only show the table")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="run folders are DIR/EXPERIMENT/VARIANT-SEED (default: runs)",
    )
    records = parser.add_mutually_exclusive_group()
    records.add_argument(
        "--records",
        type=Path,
        metavar="DIR",
        help="results that count as finished runs, each as VARIANT-SEED.json (default: those that come with Tailcut)",
    )
    records.add_argument(
        "--no-records", action="store_true", help="ignore the results that come with Tailcut: train those runs too"
    )
    parser.add_argument("--only", action="append", metavar="VARIANT", help="this variant only; may be repeated")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown as well")
    add_data_roots(parser)
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> Report | None:
    """Train what is missing, then show; only the first process reports."""
    from tailcut.files import check_output_path
    from tailcut.runtime.devices import is_global_zero
    from tailcut.training.experiments.definition import load_experiment, trials_of
    from tailcut.training.experiments.sweep import (
        choose_variants,
        find_results,
        make_report,
        missing_trials,
        train_trials,
    )

    if arguments.markdown is not None:
        check_output_path(arguments.markdown)
    if not arguments.show:
        check_processes("sweep", arguments.devices, arguments.num_nodes)
    experiment = load_experiment(arguments.experiment)
    chosen = choose_variants(experiment, arguments.only)
    trials = trials_of(experiment, arguments.runs)
    records = arguments.records
    if records is None and not arguments.no_records:
        records = experiment_records(experiment.name)
    results = find_results(trials, records)
    if not arguments.show:
        train_trials(
            missing_trials(trials, chosen, results),
            imports=arguments.imports,
            roots=arguments.roots,
            devices=devices_of(arguments),
            download=arguments.download,
            progress=True,
        )
        results = find_results(trials, records)
    if not is_global_zero():
        return None
    report = make_report(chosen, trials, results)
    if arguments.markdown is not None:
        write_atomically(arguments.markdown, report.to_markdown())
    return report
