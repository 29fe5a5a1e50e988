"""The page of experiments and their records: of the experiments that ship, and of nothing else."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from tailcut.runs import read_result
from tailcut.training.experiments.definition import Experiment, Variant, load_experiment, shipped_experiments, trials_of
from tailcut.training.experiments.sweep import SweepReport, SweepRow, find_results
from tools.docs import build_tables

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / build_tables.EXPERIMENTS
PAGE = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def test_every_experiment_has_its_part_of_the_page() -> None:
    assert re.findall(r"^## ([\w-]+)$", build_tables.experiment_tables(RECORDS), re.MULTILINE) == list(
        shipped_experiments()
    )


def test_every_record_is_of_a_trial() -> None:
    for folder in sorted(RECORDS.glob("*")):
        names = {trial.run.path.name for trial in trials_of(load_experiment(folder.name), "runs")}
        for path in folder.glob("*.json"):
            assert path.stem in names, f"{path} is of no variant and seed"


@pytest.mark.parametrize("folder", sorted(RECORDS.glob("*")), ids=lambda folder: folder.name)
def test_every_record_is_of_the_settings_that_ship(folder: Path) -> None:
    results = find_results(trials_of(load_experiment(folder.name), "runs-elsewhere"), folder)
    assert len(results) == len(list(folder.glob("*.json")))


def test_rows_come_from_the_records(tmp_path: Path) -> None:
    name = next(iter(shipped_experiments()))
    trial = trials_of(load_experiment(name), "runs")[0]
    known = read_result(sorted((ROOT / build_tables.TABLE1).glob("*.json"))[0])
    recipe = trial.recipe.model_dump(mode="json", exclude_none=True)
    (tmp_path / name).mkdir()
    before = build_tables.experiment_tables(tmp_path)
    result = dataclasses.replace(
        known, name=trial.recipe.name, recipe=recipe, seed=trial.seed, metrics={"accuracy": 0.75}
    )
    (tmp_path / name / f"{trial.run.path.name}.json").write_text(json.dumps(result.to_dict()), encoding="utf-8")
    assert "75.00 %" not in before
    assert f"| {trial.variant} | accuracy | 75.00 % | 1 of " in build_tables.experiment_tables(tmp_path)


def test_every_key_of_an_experiment_is_explained() -> None:
    fields = [*Experiment.model_fields.items(), *Variant.model_fields.items()]
    assert [field.alias or name for name, field in fields if f"| `{field.alias or name}` |" not in PAGE] == []


def test_every_key_of_the_json_is_named() -> None:
    found = re.search(r"^## sweep\n(.*?)(?=^## |\Z)", COMMAND_LINE, re.MULTILINE | re.DOTALL)
    assert found is not None
    keys = {field.name for report in (SweepReport, SweepRow) for field in dataclasses.fields(report)}
    assert [key for key in sorted(keys) if f"`{key}`" not in found[1]] == []
