"""The pages that tell of fuzzing show what `results.json` records."""

import json
import re
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

import fuzz

FOLDER = Path(fuzz.__file__).parent
PAGES = (FOLDER / "README.md", FOLDER.parent / "docs" / "promises.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_table_is_that_of_the_record(path: Path) -> None:
    record = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    page = path.read_text(encoding="utf-8")
    assert set(record["targets"]) == set(TARGETS)
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| (\d+) \|$", page, re.MULTILINE)
    assert {name: [int(minutes), int(count.replace(",", "")), int(found)] for name, minutes, count, found in rows} == {
        name: [entry["minutes"], entry["executions"], entry["findings"]] for name, entry in record["targets"].items()
    }
    assert f"| random networks | | {record['graphs']['networks']} | {record['graphs']['findings']} |" in page


def test_the_page_of_fuzzing_tells_the_day() -> None:
    record = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    assert record["date"] in PAGES[0].read_text(encoding="utf-8")


def test_the_page_of_promises_counts_the_corpus() -> None:
    corpus = FOLDER.parent / "conformance"
    sound, broken = (len(json.loads((corpus / f"{kind}.json").read_text("utf-8"))) for kind in ("valid", "invalid"))
    assert f"{sound} sound files and on {broken} that each break a rule" in PAGES[1].read_text(encoding="utf-8")
