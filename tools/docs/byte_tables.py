"""The table of docs/accuracy-per-byte.md, from the records that `tailcut compress --json` wrote."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tailcut.format.zoo import resolve
from tailcut.reports import by_name, read_records
from tailcut.runs import Result
from tools.docs.comparisons import mean_and_spread
from tools.docs.markdown import duration, markdown_table, percent

FOLDER = Path("bytes")
ZOO = "zoo:"
# What a training is worth: network, records of the dense one compressed, how it was trained, records of the outcome.
# Names of files without .json, in docs/results/bytes and of recipes in docs/results/training-for-bytes.
WORTH = (
    ("ResNet-20 on CIFAR-10", ("resnet20-60000",), "trained for bytes", ("resnet20-32768", "resnet20-9900")),
    (
        "a vision transformer on CIFAR-10",
        ("vit-ref-1048576", "vit-ref-347728"),
        "truncated in training, then compressed",
        ("vit-157848-float16-131072", "vit-157848-float16-65536"),
    ),
)


def byte_table(results: Path) -> str:
    """Return one row for each record, the smallest files of a network last."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / FOLDER).glob("*.json"))]
    rows = [_row(record) for record in sorted(records, key=lambda record: (record["source"], -record["file_bytes"]))]
    header = ("network", "data", "before", "bytes before", "**after**", "**bytes after**", "command", "seconds")
    return markdown_table(header, rows, align="<<>>>><>")


def training_table(results: Path) -> str:
    """Return one row for each network of `WORTH`: its files without training, and smaller ones by training."""
    header = ("network", "compressed, without training", "by training", "how")
    rows = [
        (network, *("; ".join(_size_of(results, name) for name in names) for names in (compressed, trained)), how)
        for network, compressed, how, trained in WORTH
    ]
    return markdown_table(header, rows, align="<<<<")


def _size_of(results: Path, name: str) -> str:
    path = results / FOLDER / f"{name}.json"
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        return f"{percent(record['after'])} in {record['file_bytes']:,} bytes"
    runs = trained_runs(results).get(name)
    if not runs:
        return "not run"
    return f"{mean_and_spread([run.metrics['accuracy'] for run in runs])} in {largest_file(runs):,} bytes"


def trained_runs(results: Path) -> dict[str, list[Result]]:
    """Return the runs of each recipe that trains for bytes, which differ in their seeds only, by recipe and seed."""
    found = [result for result in read_records(results) if "compression" in result.recipe]
    return by_name(sorted(found, key=lambda result: result.seed))


def trained_table(results: Path) -> str:
    """Return one row for each recipe that trains for bytes, the smallest files of a network last."""
    groups = trained_runs(results).values()
    ordered = sorted(groups, key=lambda runs: (runs[0].recipe["model"]["name"], -largest_file(runs)))
    header = (
        "recipe",
        "data",
        "started from",
        "seeds",
        "**test**",
        "held out",
        "**bytes, largest file**",
        "asked",
        "epochs",
        "time",
    )
    return markdown_table(header, [_trained_row(runs) for runs in ordered], align="<<<<>>>>>>")


def largest_file(runs: Sequence[Result]) -> int:
    """Return the bytes of the largest file, which must be no more than was asked for."""
    return max(run.file_bytes for run in runs)


def _trained_row(runs: Sequence[Result]) -> tuple[str, ...]:
    first = runs[0]
    recipe = first.recipe
    metric = next(iter(first.metrics))
    held_out = [run.validation[metric] for run in runs if metric in run.validation]
    return (
        f"`{first.name}`",
        f"{recipe['data']['name']}, {'Dice' if metric == 'dice' else metric}",
        f"`{recipe['start']['file']}`" if "start" in recipe else "nothing",
        ", ".join(str(run.seed) for run in runs),
        f"**{mean_and_spread([run.metrics[metric] for run in runs])}**",
        mean_and_spread(held_out) if held_out else "",
        f"**{largest_file(runs):,}**",
        f"{recipe['compression']['target_bytes']:,}",
        str(first.epochs),
        duration(statistics.fmean(run.seconds for run in runs)),
    )


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    source, settings = record["source"], record["settings"]
    is_ours = source.startswith(ZOO)
    before = resolve(source).stat().st_size if is_ours else record["dense_bytes"]
    metric = "Dice" if record["metric"] == "dice" else "accuracy"
    words = f"`--max-bytes {settings['max_bytes']} --num-gradients {settings['num_gradients']}`"
    return (
        f"`{source}`" if is_ours else f"`{_name_of(Path(source))}`, dense",
        f"{record['data']}, {metric}",
        percent(record["before"]),
        f"{before:,}",
        f"**{percent(record['after'])}**",
        f"**{record['file_bytes']:,}**",
        words,
        f"{record['seconds']:.0f}",
    )


def _name_of(network: Path) -> str:
    """Return the name of a file; of a run's network the run's."""
    return network.parent.name if network.name == "model.tailcut" else network.name
