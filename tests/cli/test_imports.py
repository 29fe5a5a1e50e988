"""Networks of one's own on the command line."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tailcut.errors import ArgumentError
from tailcut.runs import Run
from tailcut.structure import create_model

Tailcut = Callable[..., Any]

MODULE = """
import tailcut
from torch import nn

@tailcut.register_model("net_of_{name}", example_shape=(1, 1, 28, 28))
class Net(nn.Sequential):
    def __init__(self, *, width: int = 8) -> None:
        super().__init__(nn.Conv2d(1, width, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(width * 144, 10))
"""
RECIPE = """
[model]
name = "net_of_{name}"
arguments = {{ width = 4 }}
[data]
name = "digits"
batch_size = 128
[optimizer]
name = "adam"
lr = 0.01
[training]
epochs = 1
"""


@pytest.fixture(autouse=True)
def same_path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def write(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(MODULE.format(name=name), encoding="utf-8")
    return path


def test_a_network_of_a_file_trains_is_pruned_and_read(tailcut: Tailcut, tmp_path: Path) -> None:
    mine = write(tmp_path / "code", "mine_a")
    recipe, run = tmp_path / "my.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(name="mine_a"), encoding="utf-8")
    trained = tailcut("train", recipe, "--out", run, "--import", mine, "--json")
    assert trained.code == 0
    assert f"--import {mine}" in trained.json["command"]
    file, slim = run / "model.tailcut", tmp_path / "slim.tailcut"
    assert tailcut("inspect", file, "--import", mine, "--json").json["model"] == "net_of_mine_a"
    assert "net_of_mine_a" in tailcut("models", "--import", mine).out
    pruned = tailcut("prune", file, "--method", "l1", "--rates", "0.5", "-o", slim, "--import", mine)
    assert pruned.code == 0
    assert slim.stat().st_size < 0.7 * file.stat().st_size


def test_a_sweep_says_which_file_its_network_comes_from(tailcut: Tailcut, tmp_path: Path) -> None:
    mine = write(tmp_path / "code", "mine_c")
    (tmp_path / "my.toml").write_text(RECIPE.format(name="mine_c"), encoding="utf-8")
    experiment = tmp_path / "rates.toml"
    experiment.write_text('question = "Which?"\nrecipe = "my.toml"\n[[variant]]\nname = "a"\n', encoding="utf-8")
    swept = tailcut("sweep", experiment, "--runs", tmp_path / "runs", "--import", mine)
    assert swept.code == 0, swept.err
    assert f"--import {mine}" in Run(tmp_path / "runs" / "rates" / "a-0").read_result().command


def test_a_module_is_found_beside(tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "mine_b")
    monkeypatch.chdir(tmp_path)
    assert "net_of_mine_b" in tailcut("models", "--import", "mine_b").out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.py", None, "--import: there is no file"),
        ("no_such_module", None, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("bad_a.py", "import math\n\n1 / 0", "ZeroDivisionError: division by zero (bad_a.py, line 3)"),
        ("bad_b.py", "def", "SyntaxError: invalid syntax (bad_b.py, line 1)"),
        ("bad_c.py", "import json\njson.loads('')", "line 1 column 1 (char 0) (bad_c.py, line 2)"),
        ("json.py", "", "another module is called 'json'"),
    ],
)
def test_what_cannot_be_imported_is_said(
    name: str, content: str | None, message: str, tailcut: Tailcut, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    told = tailcut("models", "--import", path if name.endswith(".py") else name)
    assert told.code == 2
    assert message in told.err


def test_an_unknown_model_names_the_option_here_and_the_decorator_in_python(tailcut: Tailcut, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.pt")
    outcome = tailcut("pack", tmp_path / "a.pt", "-o", tmp_path / "a.tailcut", "--model", "mine")
    assert outcome.code == 2
    assert "unknown model 'mine'" in outcome.err
    assert "--import FILE.py" in outcome.err
    assert "tailcut.register_model" not in outcome.err
    with pytest.raises(ArgumentError, match=r"tailcut\.register_model"):
        create_model("mine")


def test_an_error_of_ones_own_network_has_its_traceback_and_is_json_too(
    tailcut: Tailcut, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write(tmp_path, "mine_e")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.pt")
    words = ["--model", "net_of_mine_e", "--set-argument", "width=-1", "--import", mine, "--json"]
    with pytest.raises(RuntimeError, match="negative dimension"):
        tailcut("pack", tmp_path / "a.pt", "-o", tmp_path / "a.tailcut", *words)
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "RuntimeError"
    assert "negative dimension" in error["message"]


def test_what_a_network_of_the_user_s_prints_is_not_in_the_json(tailcut: Tailcut, tmp_path: Path) -> None:
    mine = write(tmp_path / "code", "mine_p")
    text = mine.read_text(encoding="utf-8")
    text += "        print('built')\n\nprint('imported')\n"
    mine.write_text(text, encoding="utf-8")
    recipe, run = tmp_path / "my.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(name="mine_p"), encoding="utf-8")
    trained = tailcut("train", recipe, "--out", run, "--import", mine, "--json")
    assert json.loads(trained.out)["metrics"]["accuracy"] > 0.3
    assert "imported" in trained.err
    assert "built" in trained.err
    failed = tailcut("inspect", tmp_path / "none.tailcut", "--import", mine, "--json")
    assert "no such file" in json.loads(failed.out)["error"]["message"]
