"""Messages on the command line name what helps there."""

import ast
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tailcut as package
from tailcut.cli.advice import ADVICE, for_command_line
from tailcut.format import load, save
from tailcut.structure import create_model
from tailcut.tasks import list_models

Tailcut = Callable[..., Any]
SOURCES = Path(package.__file__).parent
PYTHON = re.compile(r"\b[a-z_]+=(True|False|N\b)|\b(into|max_[a-z]+)=|\bload\(|^give max_")

# Messages that no command meets: what they speak of can be given in Python only.
PYTHON_ONLY = (
    "into= must be a fresh network",
    "into= lies on the meta device",
    "into= has a fused view in it",
    "into= was made under torch.inference_mode",
    "into= is a {}, a wrapper",
    "which into= is not",
    "in Python tailcut.load(path, into=",  # said by the advice itself
    "tailcut.load(path, into=YourClass()); or register",  # this one too
    "unet: with bilinear=True",  # --set-argument takes arguments of models by these names
    "min_size={}, max_size={}",
)


def texts(tree: ast.AST) -> Iterator[str]:
    """All texts of some code, f-strings as one, with {} where something is put in."""
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part != node
    }
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def modules() -> Iterator[ast.Module]:
    for path in SOURCES.rglob("*.py"):
        if path != SOURCES / "cli" / "advice.py":
            yield ast.parse(path.read_text())


def test_each_advice_stands_in_the_code() -> None:
    every = [text for module in modules() for text in texts(module)]
    assert [advice for advice in ADVICE if not any(advice in text for text in every)] == []


def test_errors_that_commands_meet_name_no_arguments_of_python() -> None:
    raised = [
        for_command_line(text)
        for module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.Raise)
        for text in texts(node)
    ]
    assert len(raised) > 500
    assert [text for text in raised if PYTHON.search(text) and not any(known in text for known in PYTHON_ONLY)] == []


@pytest.fixture
def with_nan(tmp_path: Path) -> Path:
    """A LeNet-300-100 that has a NaN among its biases."""
    model = create_model("lenet300")
    with torch.no_grad():
        model.get_parameter("fc1.bias")[0] = torch.nan
    save(model, tmp_path / "nan.tailcut", allow_non_finite=True)
    return tmp_path / "nan.tailcut"


def test_an_option_allows_to_read_numbers_that_are_not_finite(with_nan: Path, tailcut: Tailcut, tmp_path: Path) -> None:
    out = tmp_path / "dense.safetensors"
    refused = tailcut("unpack", with_nan, "-o", out)
    assert refused.code == 1
    assert "fc1.bias has numbers that are not finite; --allow-non-finite takes them" in refused.err
    assert not out.exists()
    assert tailcut("unpack", with_nan, "-o", out, "--allow-non-finite").code == 0
    assert load_file(out)["fc1.bias"][0].isnan()
    assert tailcut("unpack", with_nan, "-o", out).code == 1, "the option holds for one command"


def test_an_option_allows_to_write_numbers_that_are_not_finite(
    with_nan: Path, tailcut: Tailcut, tmp_path: Path
) -> None:
    checkpoint, out = tmp_path / "nan.pt", tmp_path / "again.tailcut"
    torch.save(load(with_nan, allow_non_finite=True).state_dict(), checkpoint)
    words = ("pack", checkpoint, "--model", "lenet300", "-o", out)
    refused = tailcut(*words)
    assert refused.code == 2
    assert "fc1.bias has numbers that are not finite" in refused.err
    assert "; --allow-non-finite writes them all the same" in refused.err
    assert not out.exists()
    assert tailcut(*words, "--allow-non-finite").code == 0
    assert load(out, allow_non_finite=True).get_parameter("fc1.bias")[0].isnan()


def test_a_class_of_ones_own_names_ways_that_commands_have(tailcut: Tailcut, tmp_path: Path) -> None:
    save(nn.Linear(2, 2), tmp_path / "own.tailcut")
    outcome = tailcut("evaluate", tmp_path / "own.tailcut", "--data", "digits")
    assert "no command can build" in outcome.err
    assert "--import FILE.py" in outcome.err


def test_advice_in_the_log_is_translated(tailcut: Tailcut, monkeypatch: pytest.MonkeyPatch) -> None:
    def say() -> None:
        logging.getLogger("tailcut.x").warning("allow_non_finite=True writes them all the same")

    monkeypatch.setattr(list_models, "list_models", say)
    assert "warning: --allow-non-finite writes them all the same\n" in tailcut("models").err
