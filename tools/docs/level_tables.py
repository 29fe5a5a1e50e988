"""Measures progressive files of the zoo, level by level, and the table of docs/progressive-files.md.

    python -m tools.docs.level_tables lenet5-levels --data mnist --start lenet5-7668

writes docs/results/levels/lenet5-levels.json: of each level its coefficients, bytes and metric on the test split, and
the metric of the network that the training started from, cut to the same coefficients.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tailcut
from tailcut.data import Dataset, open_dataset
from tailcut.evaluation.evaluate import evaluate
from tailcut.files import write_atomically
from tools.docs.markdown import markdown_table, percent

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
FOLDER = "levels"


def main(words: Sequence[str] | None = None) -> int:
    """Measure a network. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a network of the zoo with levels")
    parser.add_argument("--data", required=True, help="the data set")
    parser.add_argument("--split", help="its part; the test split if not given")
    parser.add_argument("--start", required=True, help="the network of the zoo that its training started from")
    arguments = parser.parse_args(words)
    record = measure(arguments.name, arguments.start, open_dataset(arguments.data, arguments.split))
    record["command"] = f"python -m tools.docs.level_tables {' '.join(sys.argv[1:] if words is None else words)}"
    path = RESULTS / FOLDER / f"{arguments.name}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    print(path)
    return 0


def measure(name: str, start: str, data: Dataset) -> dict[str, Any]:
    """Return the figures of each level of `zoo:NAME`, and of `zoo:START` with as many coefficients."""
    file, metric = f"zoo:{name}", "dice" if data.task == "segmentation" else "accuracy"
    levels = tailcut.inspect(file).levels
    fractions = [level.num_kept / levels[-1].num_kept for level in levels[:-1]]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "start.tailcut"
        tailcut.save(tailcut.load(f"zoo:{start}"), cut, dtype="float16", levels=fractions)
        for level in levels:
            of_levels, of_start = (
                evaluate(tailcut.load(path, level=level.level), data)[metric] for path in (file, cut)
            )
            rows.append(
                {"num_kept": level.num_kept, "file_bytes": level.file_bytes, "metric": of_levels, "start": of_start}
            )
    return {"name": name, "start": start, "data": data.name, "split": data.split, "metric": metric, "levels": rows}


def level_table(results: Path) -> str:
    """Return one row for each level of each network that was measured."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / FOLDER).glob("*.json"))]
    rows = [_row(record, number, level) for record in records for number, level in enumerate(record["levels"], start=1)]
    if not rows:
        return "No network is measured yet."
    header = ("file", "level", "coefficients", "bytes", "**metric**", "the same coefficients, not trained for it")
    return markdown_table(header, rows, align="<>>>>>")


def _row(record: Mapping[str, Any], number: int, level: Mapping[str, Any]) -> tuple[str, ...]:
    metric = "Dice" if record["metric"] == "dice" else "accuracy"
    return (
        f"`zoo:{record['name']}`, {record['data']}, {metric}",
        str(number),
        f"{level['num_kept']:,}",
        f"{level['file_bytes']:,}",
        f"**{percent(level['metric'])}**",
        percent(level["start"]),
    )


if __name__ == "__main__":
    raise SystemExit(main())
