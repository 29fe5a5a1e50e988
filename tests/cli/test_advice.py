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
from tailcut.cli.advice import ADVICE, for_command_line, option_names
from tailcut.cli.parser import Parser
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
    "made with other arguments than into=",
    "in Python tailcut.load(path, into=",  # said by the advice itself
    "tailcut.load(path, into=YourClass()); or register",  # this one too
    "unet: with bilinear=True",  # --set-argument takes arguments of models by these names
    "min_size={}, max_size={}",
    "expected a network, got {}; give tailcut.load({})",  # commands load what they are given
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


def test_options_go_by_their_names_in_python() -> None:
    parser = Parser()
    parser.add_argument("-o", "--out-file")
    parser.add_argument("--data-root", dest="roots")
    parser.add_argument("--no-test", dest="test_split", action="store_false")
    parser.add_argument("source")
    names = option_names(parser)
    assert {name: names[name] for name in ("out_file", "data_root", "roots", "no_test")} == {
        "out_file": "--out-file",
        "data_root": "--data-root",
        "roots": "--data-root",
        "no_test": "--no-test",
    }
    assert not {"test_split", "source"} & names.keys()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("keep_ratio must be at most 1, got 2", "--keep-ratio must be at most 1, got 2"),
        ("keep all (keep_ratio=1), or allow_it=True.", "keep all (--keep-ratio 1), or --allow-it."),
        ('step is for dtype="quantized"', "step is for --dtype quantized"),
        ("a step of keep_ratio. More", "a step of --keep-ratio. More"),
        ("give levels=", "give --levels"),
        ("the network's layer 'keep_ratio' has keep_ratio", "the network's layer 'keep_ratio' has --keep-ratio"),
        (
            "Devices(dtype='foo', step=2): You selected an invalid name: `dtype='foo'`",
            "Devices(dtype='foo', step=2): You selected an invalid name: `dtype='foo'`",
        ),
        ("give levels=, or levels=2", "give --levels, or --levels 2"),
        *(
            (text, text)
            for text in (
                "schedule.keep_ratio is no number",
                "runs/keep_ratio/x and keep_ratio.toml are not there",
                "call tailcut.save(model, dtype=...) or f(keep_ratio)",
                "my_keep_ratio, keep_ratios, --keep-ratio and a-keep_ratio",
                'unknown key "keep_ratio"',
                "no_option=True",
            )
        ),
    ],
)
def test_names_of_options_are_replaced_and_nothing_else(said: str, expected: str) -> None:
    names = ("keep_ratio", "step", "dtype", "levels", "allow_it")
    assert for_command_line(said, {name: "--" + name.replace("_", "-") for name in names}) == expected


def test_commands_name_their_options(tailcut: Tailcut, packed: Path, image: Path, tmp_path: Path) -> None:
    prune = ("prune", "zoo:lenet5-ref", "-o", tmp_path / "narrow.tailcut", "--method", "l1", "--macs-ratio")
    checkpoint = tmp_path / "dense.pt"
    torch.save(create_model("lenet300").state_dict(), checkpoint)
    pack = ("pack", checkpoint, "--model", "lenet300", "-o", tmp_path / "packed.tailcut")
    commands = {
        "--min-channels must be": (*prune, 0.5, "--min-channels", 0),
        "--macs-ratio must be": (*prune, 5),
        "--max-image-pixels must be": ("predict", packed, image, "--max-image-pixels", 0),
        "--batch-size must be": ("evaluate", packed, "--data", "digits", "--batch-size", 0),
        "--keep-ratio": (*pack, "--keep-ratio", 2),
        "--num-kept": (*pack, "--num-kept", -1),
        "--devices and --num-nodes must be": ("train", "demo/digits", "--out", tmp_path / "run", "--devices", 0),
    }
    for expected, words in commands.items():
        outcome = tailcut(*words)
        message = outcome.err.splitlines()[-1]
        assert (outcome.code, expected in message, re.search(r"[a-z]_[a-z]", message)) == (2, True, None), message
        assert tailcut(*words, "--json").json["error"]["message"] in message


def test_a_truncated_network_is_pruned_as_its_dense_weights(tailcut: Tailcut, tmp_path: Path) -> None:
    packed = "zoo:lenet5-776"
    dense, out = tmp_path / "dense.safetensors", tmp_path / "narrow.tailcut"
    settings = ("--macs-ratio", 0.5, "--method", "l1", "-o", out)
    refused = tailcut("prune", packed, *settings)
    assert refused.code != 0
    assert "tailcut unpack" in refused.err
    assert "to_dense" not in refused.err
    assert tailcut("unpack", packed, "-o", dense).code == 0
    arguments = ("bias=false", "convolutional=true", "conv_relu=true")
    model = ("--model", "lenet5", *(word for setting in arguments for word in ("--set-argument", setting)))
    assert tailcut("prune", dense, *model, *settings).code == 0


def test_options_are_named_in_the_log_too(tailcut: Tailcut, monkeypatch: pytest.MonkeyPatch) -> None:
    def say() -> None:
        logging.getLogger("tailcut.x").warning("max_parameters is small")

    monkeypatch.setattr(list_models, "list_models", say)
    assert "warning: --max-parameters is small\n" in tailcut("models").err
