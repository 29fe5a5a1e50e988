"""The table of docs/accuracy-per-byte.md, from the records that `tailcut compress --json` wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailcut.format.zoo import resolve
from tailcut.reports import read_records
from tailcut.runs import Result
from tools.docs.markdown import duration, markdown_table, percent

FOLDER = Path("bytes")
ZOO = "zoo:"


def byte_table(results: Path) -> str:
    """Return one row for each record, the smallest files of a network last."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / FOLDER).glob("*.json"))]
    rows = [_row(record) for record in sorted(records, key=lambda record: (record["source"], -record["file_bytes"]))]
    header = ("network", "data", "before", "bytes before", "**after**", "**bytes after**", "command", "seconds")
    return markdown_table(header, rows, align="<<>>>><>")


def trained_table(results: Path) -> str:
    """Return one row for each run of a recipe that trains for bytes, the smallest files of a network last."""
    found = sorted(read_records(results), key=lambda result: (result.recipe["model"]["name"], -result.file_bytes))
    rows = [_trained_row(result) for result in found if "compression" in result.recipe]
    header = ("recipe", "data", "started from", "**test**", "held out", "**bytes**", "asked", "epochs", "time")
    return markdown_table(header, rows, align="<<<>>>>>>")


def _trained_row(result: Result) -> tuple[str, ...]:
    recipe = result.recipe
    (metric, value), *_ = result.metrics.items()
    held_out = result.validation.get(metric)
    return (
        f"`{result.name}`",
        f"{recipe['data']['name']}, {'Dice' if metric == 'dice' else metric}",
        f"`{recipe['start']['file']}`" if "start" in recipe else "nothing",
        f"**{percent(value)}**",
        "" if held_out is None else percent(held_out),
        f"**{result.file_bytes:,}**",
        f"{recipe['compression']['target_bytes']:,}",
        str(result.epochs),
        duration(result.seconds),
    )


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    source, settings = record["source"], record["settings"]
    is_ours = source.startswith(ZOO)
    before = resolve(source).stat().st_size if is_ours else record["dense_bytes"]
    metric = "Dice" if record["metric"] == "dice" else "accuracy"
    words = f"`--max-bytes {settings['max_bytes']} --num-gradients {settings['num_gradients']}`"
    return (
        f"`{source}`" if is_ours else f"`{Path(source).name}`, dense",
        f"{record['data']}, {metric}",
        percent(record["before"]),
        f"{before:,}",
        f"**{percent(record['after'])}**",
        f"**{record['file_bytes']:,}**",
        words,
        f"{record['seconds']:.0f}",
    )
