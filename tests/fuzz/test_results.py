"""The record of fuzzing; `tests/tools/docs` compares the pages with it."""

import json
from pathlib import Path

from fuzz.targets import TARGETS

import fuzz

FOLDER = Path(fuzz.__file__).parent


def test_each_target_is_recorded() -> None:
    record = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    assert set(record["targets"]) == set(TARGETS)


def test_the_page_of_promises_counts_the_corpus() -> None:
    corpus = FOLDER.parent / "conformance"
    sound, broken = (len(json.loads((corpus / f"{kind}.json").read_text("utf-8"))) for kind in ("valid", "invalid"))
    page = (FOLDER.parent / "docs" / "promises.md").read_text(encoding="utf-8")
    assert f"{sound} valid files and on {broken} that each break a rule" in page
