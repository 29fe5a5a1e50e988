"""The table of what fuzzing tried, from `fuzz/results.json`."""

import json
from pathlib import Path

from tools.docs.markdown import markdown_table

HOUR = 60
"""Minutes that each target is to have."""


def fuzz_table(path: Path) -> str:
    """Return the day, the machine, which targets still lack their hour, and a row for each target."""
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [f"`{name}`", str(entry["minutes"]), f"{entry['executions']:,}", str(entry["findings"])]
        for name, entry in record["targets"].items()
    ]
    graphs = record["graphs"]
    rows.append(["random networks", "", f"{graphs['networks']:,}", str(graphs["findings"])])
    behind = [f"`{name}`" for name, entry in record["targets"].items() if entry["minutes"] < HOUR]
    hours = f"Less than an hour so far: {', '.join(behind)}." if behind else "Each target ran for an hour or longer."
    table = markdown_table(["target", "minutes", "contents tried", "findings"], rows, "<>>>")
    return f"Until {record['date']}, on {record['machine']}. {hours}\n\n{table}"
