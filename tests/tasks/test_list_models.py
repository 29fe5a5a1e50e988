import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.example_result import RESULT

from tailcut.errors import MissingExtraError
from tailcut.format import save, zoo
from tailcut.runs import Run
from tailcut.structure import create_model, model_names
from tailcut.tasks import list_models as module
from tailcut.tasks.list_models import list_models
from tailcut.weights import regularize


def test_all_registered_networks_are_listed() -> None:
    report = list_models()
    assert [entry.name for entry in report.models] == model_names()
    lenet5 = next(entry for entry in report.models if entry.name == "lenet5")
    assert lenet5.num_parameters == 431_080
    assert lenet5.example_shape == (1, 1, 28, 28)
    assert lenet5.arguments["bias"] is True
    assert "lenet5" in str(report)
    table = str(report).partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 120
    assert "anchor_offset=0.0" in table


def test_the_zoo_is_listed_with_its_committed_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("lenet300", bias=False)
    regularize(model, num_kept=100)
    for name in ("with", "without"):
        save(model, tmp_path / f"{name}.tailcut", dtype="float16")
    file_bytes = (tmp_path / "with.tailcut").stat().st_size
    result = replace(
        RESULT,
        name="with",
        metrics={"accuracy": 0.97},
        num_kept=300,
        num_parameters=266_200,
        file_bytes=file_bytes,
        paper={},
    )
    run = Run.create(tmp_path / "run")
    run.write_result(result)
    shutil.copy(run.result, tmp_path / "with.json")
    monkeypatch.setattr(zoo, "zoo_folder", lambda: tmp_path)

    report = list_models()
    assert [entry.name for entry in report.zoo] == ["with", "without"]
    with_result, without = report.zoo
    assert (with_result.data, with_result.metrics) == ("mnist", {"accuracy": 0.97})
    assert (without.data, without.metrics) == (None, {})
    assert replace(without, name="with", data="mnist", metrics=with_result.metrics) == with_result
    assert with_result.num_kept == 300
    assert with_result.num_parameters == 266_200
    assert with_result.arguments == {"bias": False}
    assert with_result.file_bytes == (tmp_path / "with.tailcut").stat().st_size
    assert "zoo:with" in str(report)
    assert "97.00 %" in str(report)


def test_json_has_both_kinds_by_name() -> None:
    values = json.loads(list_models().to_json())
    assert list(values) == ["models", "zoo"]
    assert all(entry["name"] for entry in (*values["models"], *values["zoo"]))


def test_a_network_that_needs_a_missing_package_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(base: Any) -> Any:
        raise MissingExtraError("a detector", "torchvision", "detection")

    monkeypatch.setattr(module, "on_meta", missing)
    report = module.list_models()
    assert {entry.num_parameters for entry in report.models} == {None}
    row = next(line.split() for line in str(report).splitlines() if line.startswith("lenet5 "))
    assert row[:7] == ["lenet5", "1", "x", "1", "x", "28", "x"]
    assert row[8] == "?"
