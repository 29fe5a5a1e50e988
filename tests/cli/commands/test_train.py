import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailcut.runtime.devices import Devices
from tailcut.training.recipe.toml_files import find_recipe

Tailcut = Callable[..., Any]

SHORT = ["--set", "training.epochs=1", "--set", "data.batch_size=256", "--accelerator", "cpu"]


pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_recipe_is_trained_by_its_name(tailcut: Tailcut, tmp_path: Path) -> None:
    outcome = tailcut("train", "demo/digits", "--out", tmp_path / "run", *SHORT, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json == json.loads((tmp_path / "run" / "result.json").read_text())
    assert outcome.json["epochs"] == 1
    assert outcome.json["command"] == (
        f"tailcut train demo/digits --out {tmp_path / 'run'} --set training.epochs=1 --set data.batch_size=256"
    )
    assert "epoch 1/1" in outcome.err

    outcome = tailcut("train", "demo/digits", "--out", tmp_path / "run", *SHORT)
    assert outcome.code == 2
    assert "--resume" in outcome.err
    outcome = tailcut("train", find_recipe("demo/digits"), "--out", tmp_path / "run", *SHORT, "--resume")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0].split() == ["digits", "here"]

    outcome = tailcut("pack", tmp_path / "run", "-o", tmp_path / "again.tailcut", "--json")
    assert outcome.code == 0
    assert (tmp_path / "again.tailcut").read_bytes() == (tmp_path / "run" / "model.tailcut").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-recipe"], "no recipe of that name"),
        (["demo/digits", "--set", "optimizer.speed=1"], "optimizer.speed: is no key of a recipe"),
        (["demo/digits", "--set", "nonsense"], "expected KEY=VALUE"),
        (["demo/digits", "--devices", "0"], "--devices and --num-nodes must be at least 1"),
        (["demo/digits", "--accelerator", "toaster"], "cannot run on"),
    ],
)
def test_bad_usage_leaves_no_folder(words: list[str], message: str, tailcut: Tailcut, tmp_path: Path) -> None:
    outcome = tailcut("train", *words, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "run").exists()


def test_missing_data_fail_the_job(tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAILCUT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    outcome = tailcut("train", "lenet300-ref", "--out", tmp_path / "run", "--data-root", tmp_path, "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["type"] == "DataNotFoundError"
    assert "mnist" in outcome.err


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_no_option_counts_are_refused(
    variable: str, tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "2")
    outcome = tailcut("train", "demo/digits", "--out", tmp_path / "run", *SHORT)
    assert outcome.code == 2
    assert "started 2 processes of tailcut train" in outcome.err
    assert not (tmp_path / "run").exists()


def test_every_option_of_train_arrives(tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("tailcut.training.train.train", lambda recipe, out, **settings: given.append((out, settings)))
    words = ["--resume", "--data-root", tmp_path, "--download", "--set", "training.epochs=1"]
    more = ["--accelerator", "cpu", "--devices", 2, "--num-nodes", 3, "--strategy", "ddp"]
    assert tailcut("train", "demo/digits", "--out", tmp_path / "run", *words, *more).code == 0
    ((out, settings),) = given
    assert out == str(tmp_path / "run")
    assert settings.pop("command").startswith("tailcut train demo/digits ")
    assert settings == {
        "resume": True,
        "roots": [str(tmp_path)],
        "devices": Devices("cpu", 2, 3, "ddp"),
        "download": True,
        "progress": True,
    }
