"""Networks under attack, from what `tailcut attack --json` said."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tailcut.tasks.attack import AttackCurve, AttackReport
from tools.docs.markdown import markdown_table

TITLES = {"fgsm": "FGSM, one step", "pgd": "PGD, {steps} steps from a random start"}


# CFDP's table 8, VGG-16-BN on CIFAR-10: percent by epsilon, before and after pruning.
PAPER = {
    "fgsm": {
        0: (93.96, 94.10),
        0.05: (61.85, 66.52),
        0.1: (55.01, 58.84),
        0.15: (50.64, 52.38),
        0.2: (46.62, 50.05),
        0.25: (41.70, 44.97),
        0.3: (36.01, 40.47),
    },
    "pgd": {
        0: (93.96, 94.10),
        0.05: (28.39, 30.92),
        0.1: (20.07, 24.99),
        0.15: (20.08, 24.99),
        0.2: (20.08, 24.99),
        0.25: (20.08, 24.99),
        0.3: (20.07, 24.99),
    },
}

_Figures = Mapping[float, tuple[float, float]]


def attack_tables(folder: Path, network: str = "", paper: Mapping[str, _Figures] | None = None) -> str:
    """Return one table per method, of FOLDER/METHOD.json; a method without that file was not run.

    Args:
        folder: of the records.
        network: of FOLDER/NETWORK-METHOD.json instead.
        paper: percent by method and epsilon, of the network before and after pruning: two further columns.
    """
    parts = []
    for method, title in TITLES.items():
        path = folder / (f"{network}-{method}.json" if network else f"{method}.json")
        if path.is_file():
            parts.append(_table(title, read_report(path), (paper or {}).get(method)))
        else:
            parts.append(f"**{title.partition(',')[0]}**: not run.")
    return "\n\n".join(parts)


def read_report(path: Path) -> AttackReport:
    """Return the report of one file."""
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return AttackReport(**{**content, "curves": [AttackCurve(**curve) for curve in content["curves"]]})


def _table(title: str, report: AttackReport, paper: _Figures | None) -> str:
    header = ["epsilon", "step size", *(f"`{curve.source}`" for curve in report.curves)]
    rows = report.cells()
    if paper is not None:
        header += ["the paper, before", "the paper, pruned"]
        figures = [tuple(f"{figure:.2f} %" for figure in paper[epsilon]) for epsilon in report.epsilons]
        rows = [(*row, *of_paper) for row, of_paper in zip(rows, figures, strict=True)]
    heading = f"**{title.format(steps=report.steps)}**, the first {report.num_images:,} test images:"
    return f"{heading}\n\n{markdown_table(header, rows, '>' * len(header))}"
