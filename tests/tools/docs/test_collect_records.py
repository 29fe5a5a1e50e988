"""What is copied from run folders made here, and what is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.tools.docs.test_recipe_tables import record
from tools.docs.collect_records import collect, is_ours, main

from tailcut.errors import ArgumentError, DataError
from tailcut.reports import same_training
from tailcut.runs import Run, read_result
from tailcut.training.experiments.definition import load_experiment, trials_of
from tailcut.training.recipe.stages import stages_of
from tailcut.training.recipe.toml_files import load_recipe
from tools.docs import collect_records


def a_run(place: Path, name: str, seed: int = 0, *overrides: str, **changes: Any) -> Run:
    record(place.parent / "made", name, seed, {"accuracy": 0.9}, *overrides, **changes)
    made = next((place.parent / "made").rglob(f"*-{seed}.json"))
    run = Run(place)
    place.mkdir(parents=True)
    made.rename(run.result)
    run.model.write_bytes(b"xxx")
    return run


def collected(name: str, folder: Path) -> list[str]:
    files = collect(name, folder / "runs", folder / "results", folder / "zoo")
    return [file.relative_to(folder).as_posix() for file in files]


def test_a_recipe_s_record_and_its_small_network(tmp_path: Path) -> None:
    run = a_run(tmp_path / "runs/vae-ref", "vae-ref")
    assert collected("vae-ref", tmp_path) == [
        "results/frequency-regularization/vae-ref.json",
        "zoo/vae-ref.tailcut",
        "zoo/vae-ref.json",
    ]
    assert (tmp_path / "results/frequency-regularization/vae-ref.json").read_bytes() == run.result.read_bytes()
    assert (tmp_path / "zoo/vae-ref.tailcut").read_bytes() == b"xxx"


def test_results_of_stages_lie_apart(tmp_path: Path) -> None:
    run = a_run(tmp_path / "runs/imagenette-resnet18-pruned", "imagenette-resnet18-pruned")
    run.stage("rgb").path.mkdir(parents=True)
    run.stage("rgb").result.write_bytes(run.result.read_bytes())
    assert collected("imagenette-resnet18-pruned", tmp_path) == [
        "results/combined/imagenette-resnet18-pruned.json",
        "results/stages/combined/imagenette-resnet18-pruned-rgb.json",
        "zoo/imagenette-resnet18-pruned.tailcut",
        "zoo/imagenette-resnet18-pruned.json",
    ]


def test_older_records_of_stages_get_newer_keys(tmp_path: Path) -> None:
    stage = stages_of(load_recipe("combined/imagenette-resnet18-pruned"))["rgb"]
    for seed in (0, 1):
        run = a_run(tmp_path / f"runs/imagenette-resnet18-pruned-{seed}", "imagenette-resnet18-pruned", seed)
        values = json.loads(run.result.read_text())
        values["recipe"] = stage.model_dump(mode="json", exclude_none=True)
        if seed == 0:
            del values["recipe"]["training"]["checkpoint_every"]
        run.stage("rgb").path.mkdir(parents=True)
        run.stage("rgb").result.write_text(json.dumps(values))
    collected("imagenette-resnet18-pruned", tmp_path)
    records = [read_result(path) for path in (tmp_path / "results/stages").rglob("*.json")]
    assert len(records) == 2
    assert all(
        record.recipe["training"] == stage.training.model_dump(mode="json", exclude_none=True) for record in records
    )


def test_a_large_network_does_not_ship(tmp_path: Path) -> None:
    a_run(tmp_path / "runs/vae-ref", "vae-ref", file_bytes=collect_records.ZOO_BYTES).model.unlink()
    assert collected("vae-ref", tmp_path) == ["results/frequency-regularization/vae-ref.json"]


def test_other_seeds_have_their_own_records(tmp_path: Path) -> None:
    a_run(tmp_path / "runs/vae-ref-1", "vae-ref", 1)
    assert collected("vae-ref", tmp_path) == ["results/frequency-regularization/vae-ref-1.json"]


def test_older_records_get_newer_keys(tmp_path: Path) -> None:
    a_run(tmp_path / "runs/vae-ref", "vae-ref")
    collected("vae-ref", tmp_path)
    old, new = (tmp_path / "results/frequency-regularization" / f"{name}.json" for name in ("vae-ref", "vae-ref-1"))
    values = json.loads(old.read_text())
    del values["recipe"]["stage"], values["recipe"]["data"]["workers"]
    old.write_text(json.dumps(values))
    shutil.rmtree(tmp_path / "runs/vae-ref")
    a_run(tmp_path / "runs/vae-ref-1", "vae-ref", 1)
    written = collected("vae-ref", tmp_path)
    assert written == [f"results/frequency-regularization/{path.name}" for path in (new, old)]
    assert len(same_training([read_result(old), read_result(new)])) == 1
    assert collected("vae-ref", tmp_path) == written[:1]


def test_other_settings_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path / "runs/vae-ref", "vae-ref", 0, "optimizer.lr=0.5")
    with pytest.raises(ArgumentError, match="vae-ref: no finished run of its settings"):
        collected("vae-ref", tmp_path)
    assert "its settings differ: optimizer.lr: 0.5 and" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_an_experiment_s_finished_runs(tmp_path: Path) -> None:
    trial = trials_of(load_experiment("fr-corner"), tmp_path / "runs")[1]
    values = json.loads((collect_records.RESULTS / "experiments/fr-trained-start/fresh-1.json").read_text())
    values |= {"name": trial.recipe.name, "recipe": trial.recipe.model_dump(mode="json", exclude_none=True)}
    trial.run.path.mkdir(parents=True)
    trial.run.result.write_text(json.dumps(values))
    assert collected("fr-corner", tmp_path) == ["results/experiments/fr-corner/corner-1.json"]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("lenet5-776", True),  # its teacher is in the zoo
        ("resnet18-2688-float16", True),  # goes on from a run of ours
        ("resnet20-spectral", False),  # prunes another's network
    ],
)
def test_whose_network_it_is(name: str, ours: bool) -> None:
    assert is_ours(load_recipe(name)) is ours


def test_bad_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing", "--runs", str(tmp_path)]) == 1
    assert "there is no recipe and no experiment 'nothing'" in capsys.readouterr().err
    assert main(["vae-ref", "--runs", str(tmp_path)]) == 1
    assert f"vae-ref: no finished run of its settings in {tmp_path}" in capsys.readouterr().err


def test_a_damaged_result_is_an_error(tmp_path: Path) -> None:
    run = a_run(tmp_path / "runs/vae-ref", "vae-ref")
    run.result.write_text("{")
    with pytest.raises(DataError):
        collected("vae-ref", tmp_path)
