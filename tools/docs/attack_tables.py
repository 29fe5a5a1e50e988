"""Networks under attack, from what `tailcut attack --json` said."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailcut.tasks.attack import AttackCurve, AttackReport
from tools.docs.markdown import markdown_table

TITLES = {"fgsm": "FGSM, one step", "pgd": "PGD, {steps} steps from a random start"}


def attack_tables(folder: Path) -> str:
    """Return one table per method, of FOLDER/METHOD.json; a method without that file was not run."""
    parts = []
    for method, title in TITLES.items():
        path = folder / f"{method}.json"
        if path.is_file():
            parts.append(_table(title, read_report(path)))
        else:
            parts.append(f"**{title.partition(',')[0]}**: not run.")
    return "\n\n".join(parts)


def read_report(path: Path) -> AttackReport:
    """Return the report of one file."""
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return AttackReport(**{**content, "curves": [AttackCurve(**curve) for curve in content["curves"]]})


def _table(title: str, report: AttackReport) -> str:
    header = ["epsilon", "step size", *(f"`{curve.source}`" for curve in report.curves)]
    heading = f"**{title.format(steps=report.steps)}**, the first {report.num_images:,} test images:"
    return f"{heading}\n\n{markdown_table(header, report.cells(), '>' * len(header))}"
