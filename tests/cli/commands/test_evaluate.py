from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailcut.format import save
from tailcut.structure import create_model, registry

Tailcut = Callable[..., Any]


def test_json_has_exactly_the_promised_keys(tailcut: Tailcut, packed: Path) -> None:
    outcome = tailcut("evaluate", packed, "--data", "digits", "--split", "train", "--json")
    assert outcome.code == 0
    assert list(outcome.json) == ["source", "data", "split", "num_images", "metrics", "seconds"]
    assert outcome.json["source"] == str(packed)
    assert outcome.json["data"] == "digits"
    assert outcome.json["split"] == "train"
    assert outcome.json["num_images"] == 1442
    assert 0 <= outcome.json["metrics"]["accuracy"] <= 1


def test_integers_are_close_to_floats(tailcut: Tailcut) -> None:
    words = ("evaluate", "zoo:lenet5-776", "--data", "digits", "--json")
    floats, integers = tailcut(*words), tailcut(*words, "--arithmetic", "integer")
    assert integers.json["source"] == "zoo:lenet5-776, integer"
    accuracies = [outcome.json["metrics"]["accuracy"] for outcome in (floats, integers)]
    assert abs(accuracies[0] - accuracies[1]) < 0.01
    assert accuracies[0] > 0.2


def test_a_row_is_shown(tailcut: Tailcut, packed: Path) -> None:
    outcome = tailcut("evaluate", packed, "--data", "digits", "--device", "cpu", "--batch-size", "50")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0].split() == ["model", "data", "split", "images", "accuracy", "seconds"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--data", "nothing"], 2, "unknown data set 'nothing'"),
        (["--data", "digits", "--split", "third"], 2, "no split 'third'"),
        (["--data", "digits", "--device", "toaster"], 2, "no device 'toaster'"),
        (["--data", "digits", "--accelerator", "toaster"], 2, "cannot run on --accelerator toaster, --devices 1, "),
        (
            ["--data", "digits", "--arithmetic", "integer", "--dense"],
            2,
            "--dense has no meaning for --arithmetic integer",
        ),
        (["--data", "digits", "--devices", "0"], 2, "--devices and --num-nodes must be at least 1"),
        (["--data", "digits", "--devices", "2", "--device", "cpu"], 2, "one device is named (cpu)"),
        (["--data", "carvana", "--split", "published", "--data-root", "."], 1, "carvana/published"),
        (["--data", "digits", "--data-root", "nodir"], 2, "--data-root nodir: there is no such folder"),
    ],
)
def test_failures_say_what_is_wrong(
    words: list[str], code: int, message: str, tailcut: Tailcut, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TAILCUT_DATA", raising=False)
    outcome = tailcut("evaluate", packed, *words)
    assert outcome.code == code
    assert message in outcome.err


def test_a_level_of_a_progressive_file_is_measured(tailcut: Tailcut, packed: Path, levels: Path, part: Path) -> None:
    """As the beginning of the file is that `tailcut cut` writes; also where the rest of the file is missing."""
    words = ["--data", "digits", "--device", "cpu", "--json"]
    expected = tailcut("evaluate", part, *words).json["metrics"]
    shown = tailcut("evaluate", levels, *words, "--level", 1)
    assert (shown.code, shown.json["metrics"]) == (0, expected)
    assert shown.json["source"] == f"{levels}, level 1"
    levels.write_bytes(levels.read_bytes()[:-1])
    assert tailcut("evaluate", levels, *words).code == 1
    assert tailcut("evaluate", levels, *words, "--level", 1).json["metrics"] == expected
    refused = tailcut("evaluate", packed, "--data", "digits", "--level", 2)
    assert (refused.code, "no levels" in refused.err) == (2, True)


def test_data_roots_are_tried_in_their_order(tailcut: Tailcut, packed: Path, mnist_root: Path, tmp_path: Path) -> None:
    words = ["--data", "mnist", "--data-root", tmp_path, "--data-root", mnist_root, "--json"]
    outcome = tailcut("evaluate", packed, *words)
    assert outcome.code == 0
    assert outcome.json["num_images"] == 10000


def test_a_network_that_makes_images_gets_a_distance(tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    save(create_model("vae", hidden=8), tmp_path / "vae.tailcut")
    words = ("evaluate", tmp_path / "vae.tailcut", "--data", "digits", "--num-samples", "20", "--device", "cpu")
    outcome = tailcut(*words, "--json")
    assert outcome.code == 0
    assert outcome.json["metrics"].keys() == {"fid", "elbo"}
    assert (outcome.json["num_generated"], outcome.json["features"]) == (20, "zoo:lenet5-ref")
    assert "fid: 20 made images" in tailcut(*words).out
    outcome = tailcut("evaluate", packed, "--data", "digits", "--num-samples", "20")
    assert outcome.code == 2
    assert "makes none" in outcome.err


@pytest.mark.parametrize(("launcher", "variable"), [("torchrun", "WORLD_SIZE"), ("srun", "SLURM_STEP_NUM_TASKS")])
def test_processes_that_no_option_counts_are_refused_once(
    launcher: str, variable: str, tailcut: Tailcut, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "2")
    outcome = tailcut("evaluate", packed, "--data", "digits")
    assert outcome.code == 2
    assert f"{launcher} started 2 processes of tailcut evaluate" in outcome.err
    assert "--devices" in outcome.err
    assert "--num-nodes" in outcome.err
    monkeypatch.setenv("RANK", "1")
    outcome = tailcut("evaluate", packed, "--data", "digits")
    assert (outcome.code, outcome.err) == (2, "")


def test_a_batch_script_outside_of_srun_is_one_process(
    tailcut: Tailcut, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert tailcut("evaluate", packed, "--data", "digits", "--device", "cpu").code == 0


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_damaged_file_is_named(command: str, tailcut: Tailcut, packed: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tailcut"
    damaged.write_bytes(packed.read_bytes()[:-10])
    outcome = tailcut(command, damaged, *(["--data", "digits"] if command == "evaluate" else [packed]))
    assert outcome.code == 1
    assert f"{damaged}: the checksum does not match" in outcome.err


@pytest.mark.parametrize("command", ["evaluate", "predict", "inspect"])
def test_a_file_of_a_network_that_is_not_registered_is_named(
    command: str, tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.tailcut"
    save(create_model("lenet300"), path)
    monkeypatch.delitem(registry._families, "lenet300")
    words: dict[str, list[Any]] = {"evaluate": ["--data", "digits"], "predict": [path], "inspect": []}
    outcome = tailcut(command, path, *words[command])
    assert outcome.code == 1
    assert (
        f"{path}: the file names the model 'lenet300', which is not registered here: give --import FILE.py"
        in outcome.err
    )


def test_every_option_of_evaluate_arrives(
    tailcut: Tailcut, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        "tailcut.evaluation.files.evaluate_file", lambda *words, **settings: given.append((words, settings))
    )
    words = ["--split", "train", "--data-root", tmp_path, "--download", "--batch-size", 7, "--dense", "--seed", 3]
    more = ["--max-input-pixels", 99, "--source", "coefficients", "--num-samples", 5, "--features", "inception"]
    last = ["--arithmetic", "integer", "--level", 2, "--device", "cpu"]
    assert tailcut("evaluate", packed, "--data", "digits", *words, *more, *last).code == 0
    assert given == [
        (
            (str(packed), "digits", "train"),
            {
                "roots": [str(tmp_path)],
                "batch_size": 7,
                "device": "cpu",
                "devices": None,
                "download": True,
                "dense": True,
                "progress": True,
                "max_input_pixels": 99,
                "source": "coefficients",
                "arithmetic": "integer",
                "level": 2,
                "num_samples": 5,
                "seed": 3,
                "features": "inception",
            },
        )
    ]
