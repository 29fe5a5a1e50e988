"""The table of docs/accuracy-per-byte.md, from the records that `tailcut compress --json` wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailcut.format.zoo import resolve
from tools.docs.markdown import markdown_table, percent

FOLDER = Path("bytes")
ZOO = "zoo:"


def byte_table(results: Path) -> str:
    """Return one row for each record, the smallest files of a network last."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / FOLDER).glob("*.json"))]
    rows = [_row(record) for record in sorted(records, key=lambda record: (record["source"], -record["file_bytes"]))]
    header = ("network", "data", "before", "bytes before", "**after**", "**bytes after**", "command", "seconds")
    return markdown_table(header, rows, align="<<>>>><>")


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
