"""Tables of measured values: aligned text for people, plain rows for JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailcut.files import write_atomically
from tailcut.printing import table

Row = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: one line above it.
        columns: key in the rows -> format of the number (as in `format`; empty for text), in order. The keys
            are the titles.
        rows: one mapping per row; None where there is nothing to show.
        notes: sentences below it.
    """

    title: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Title, rows and notes as plain values."""
        return {"title": self.title, "rows": [dict(row) for row in self.rows], "notes": list(self.notes)}

    def __str__(self) -> str:
        cells = [[_cell(row[key], form) for key, form in self.columns.items()] for row in self.rows]
        align = "".join(">" if form else "<" for form in self.columns.values())
        lines = [self.title, "", table(list(self.columns), cells, align=align)]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def _cell(value: str | int | float | None, form: str) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else format(value, form)


def write_topic(path: str | Path, scale: str, topic: str, tables: Sequence[Table]) -> None:
    """Write the tables of one topic as JSON, as far as `python -m bench TOPIC --json` does without its machine."""
    content = {"scale": scale, "topics": {topic: [table.to_dict() for table in tables]}}
    write_atomically(path, json.dumps(content, indent=1) + "\n")
