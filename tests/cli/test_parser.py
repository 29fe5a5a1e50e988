import argparse

import pytest

from tailcut.cli.parser import (
    Parser,
    UsageError,
    add_command,
    add_data_roots,
    add_device,
    add_device_arguments,
    add_dtypes,
    add_network,
    call,
    devices_of,
    parse,
    settings,
)
from tailcut.errors import ArgumentError
from tailcut.runtime.devices import Devices


def test_settings_are_toml_else_text() -> None:
    words = ["bias=false", "widths=[64, 128]", "rate=0.5", "name=plain text", 'quoted="5"', " num = 3"]
    assert settings(words) == {
        "bias": False,
        "widths": [64, 128],
        "rate": 0.5,
        "name": "plain text",
        "quoted": "5",
        "num": 3,
    }
    assert settings(None) == {}


@pytest.mark.parametrize("word", ["bias", "=false", " =1"])
def test_settings_need_a_key_and_a_value(word: str) -> None:
    with pytest.raises(ArgumentError, match="expected KEY=VALUE"):
        settings([word])


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 2000])
def test_what_python_cannot_read_as_toml_is_text(text: str) -> None:
    assert settings([f"width={text}"]) == {"width": text}


def test_errors_are_raised_and_carry_the_usage() -> None:
    parser = Parser(prog="tailcut fly")
    with pytest.raises(UsageError, match="unrecognized arguments: --far") as caught:
        parser.parse_args(["--far"])
    assert caught.value.prog == "tailcut fly"
    assert caught.value.usage.startswith("usage: tailcut fly")


def test_a_command_has_its_shared_options() -> None:
    parser = Parser(prog="tailcut")
    commands = parser.add_subparsers(dest="command")

    def run(arguments: argparse.Namespace) -> None: ...

    command = add_command(commands, "fly", summary="s", description="d", example="  tailcut fly", run=run)
    add_data_roots(command)
    add_device(command)
    add_dtypes(command)
    add_device_arguments(command)
    words = ["fly", "--json", "--data-root", "a", "--data-root", "b", "--device", "cpu", "--dtype", "float16"]
    words += ["--devices", "4", "--num-nodes", "2", "--strategy", "ddp"]
    arguments = parser.parse_args(words)
    assert arguments.json is True
    assert arguments.roots == ["a", "b"]
    assert (arguments.device, arguments.dtype, arguments.other_dtype) == ("cpu", "float16", None)
    assert devices_of(arguments) == Devices("auto", devices=4, num_nodes=2, strategy="ddp")
    assert arguments.run is run
    with pytest.raises(UsageError):  # no abbreviations: they would change meaning when options are added
        parser.parse_args(["fly", "--dev", "cpu"])


def test_a_network_is_a_file_or_a_checkpoint_with_its_model() -> None:
    parser = Parser()
    add_network(parser)
    plain = parser.parse_args(["a.tailcut"])
    assert (plain.source, plain.model, plain.arguments) == ("a.tailcut", None, None)
    named = parser.parse_args(["a.th", "--model", "resnet20", "--set-argument", "width=4", "--set-argument", "a=b"])
    assert (named.model, named.arguments) == ("resnet20", ["width=4", "a=b"])


def test_the_work_gets_its_own_options_and_an_unknown_one_is_an_error() -> None:
    def work(source: str, *, seed: int, progress: bool = False) -> tuple[str, int, bool]:
        return source, seed, progress

    options = argparse.Namespace(command="score", json=True, workers=2, source="a", seed=1)
    assert call(work, options, progress=True) == ("a", 1, True)
    with pytest.raises(TypeError, match="nowhere"):
        call(work, argparse.Namespace(source="a", seed=1, nowhere=2))


def with_files(nargs: str) -> Parser:
    parser = Parser(prog="work")
    parser.add_argument("network")
    parser.add_argument("files", nargs=nargs)
    parser.add_argument("-o", "--out")
    return parser


@pytest.mark.parametrize(
    ("nargs", "words", "files"),
    [
        ("*", ["net", "-o", "x", "a", "b"], ["a", "b"]),
        ("*", ["net", "a", "-o", "x", "b"], ["a", "b"]),
        ("+", ["net", "a", "-o", "x", "b"], ["a", "b"]),
        ("*", ["net", "-o", "x"], []),
    ],
)
def test_files_may_stand_before_and_behind_options(nargs: str, words: list[str], files: list[str]) -> None:
    found = parse(with_files(nargs), words)
    assert (found.network, found.files, found.out) == ("net", files, "x")


def test_other_words_behind_options_are_an_error() -> None:
    with pytest.raises(UsageError, match="unrecognized arguments: b --nowhere"):
        parse(with_files("*"), ["net", "-o", "x", "b", "--nowhere"])
    alone = Parser(prog="work")
    alone.add_argument("network")
    with pytest.raises(UsageError, match="unrecognized arguments: b"):
        parse(alone, ["net", "b"])
