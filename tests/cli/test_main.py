import importlib
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tailcut as package
from tailcut.cli import COMMANDS, ended_by_sigterm, main
from tailcut.errors import ArgumentError, TailcutError
from tailcut.format.zoo import resolve

Tailcut = Callable[..., Any]

NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]


def test_the_commands_are_those_promised(tailcut: Tailcut) -> None:
    of_files = [
        "train",
        "pack",
        "compress",
        "inspect",
        "evaluate",
        "predict",
        "convert",
        "cut",
        "unpack",
        "resample",
        "export",
    ]
    new = [
        "split",
        "join",
        "qr",
        "dct",
        "select",
        "score",
        "prune",
        "attack",
        "explain",
        "reproduce",
        "sweep",
        "report",
        "compare",
        "models",
    ]
    new += ["check"]
    assert of_files + new == NAMES
    shown = tailcut("--help")
    assert shown.code == 0
    for name in NAMES:
        assert re.search(rf"^    {name}\b", shown.out, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_help_with_an_example_and_json(name: str, tailcut: Tailcut) -> None:
    shown = tailcut(name, "--help")
    assert shown.code == 0
    assert f"example:\n  tailcut {name}" in shown.out
    assert "--json" in shown.out


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "tailcut", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(package.__version__)


def test_the_version_is_shown(tailcut: Tailcut) -> None:
    shown = tailcut("--version")
    assert (shown.code, shown.out) == (0, f"tailcut {package.__version__}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["inspect"], "required: FILE"),
        (["inspect", "a", "--colour"], "tailcut inspect: error: unrecognized arguments: --colour\n"),
        (
            ["compress", "a", "--data", "digits", "--max-byte=3KB", "-o", "b"],
            "tailcut compress: error: unrecognized arguments: --max-byte=3KB; did you mean '--max-bytes'?\n",
        ),
        (["prune", "a", "-o", "b", "--rates", "0.3", "--keep", "3"], "error: unrecognized arguments: --keep 3\n"),
        (["train", "a", "--out", "b", "--device", "c"], "--device c; did you mean '--devices'?\n"),
        (["pack", "a", "-o", "b", "--dtype", "float8"], "invalid choice: 'float8'"),
        (["convert", "a", "--from", "zip", "--model", "unet", "-o", "b"], "invalid choice: 'zip'"),
        (["train", "lenet5-776"], "required: -o/--out"),
        (["evaluate", "a", "--data", "mnist", "--batch-size", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_usage_ends_with_2_and_the_usage_line(words: list[str], message: str, tailcut: Tailcut) -> None:
    outcome = tailcut(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("usage: tailcut")
    assert ": error: " in outcome.err
    assert message in outcome.err


def test_bad_usage_is_told_as_json_too(tailcut: Tailcut) -> None:
    outcome = tailcut("inspect", "--json")
    assert outcome.code == 2
    assert outcome.json["error"]["type"] == "UsageError"
    assert "FILE" in outcome.json["error"]["message"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TailcutError("no luck"), 1),
        (ArgumentError("no luck"), 2),
        (FileNotFoundError("no luck"), 1),
        (KeyboardInterrupt("interrupted"), 1),
    ],
)
def test_a_failure_is_one_line_without_traceback(
    error: BaseException, code: int, tailcut: Tailcut, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("tailcut.tasks.list_models.list_models", fail)
    message = "interrupted" if isinstance(error, KeyboardInterrupt) else "no luck"
    outcome = tailcut("models")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", f"tailcut models: error: {message}\n")
    outcome = tailcut("models", "--json")
    assert outcome.code == code
    assert outcome.json == {"error": {"type": type(error).__name__, "message": message}}
    assert outcome.err == f"tailcut models: error: {message}\n"


def test_a_defect_of_ours_keeps_its_traceback(tailcut: Tailcut, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tailcut.tasks.list_models.list_models", fail)
    with pytest.raises(ZeroDivisionError):
        tailcut("models")


@pytest.fixture
def heeded_interruption() -> Iterator[None]:
    """What a shell runs in the background ignores SIGINT, and these tests with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interruption")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("tailcut.tasks.packets.write_atomically", ["split", "zoo:lenet5-776", "--packet-bytes", "100"]),
        ("tailcut.export_c.export.write_atomically", ["export", "zoo:lenet5-776", "--to", "c"]),
        ("tailcut.inputs.plots.draw_frequency_map", ["dct", "photo.png"]),
    ],
)
def test_an_interrupted_command_leaves_nothing_behind(
    place: str,
    words: list[str],
    number: signal.Signals,
    tailcut: Tailcut,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The signal comes while its second file is written."""
    module, name = place.rpartition(".")[::2]
    write, calls = getattr(importlib.import_module(module), name), 0

    def interrupting(*args: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (1 if words[0] == "dct" else 2):
            os.kill(os.getpid(), number)
        return write(*args, **settings)

    monkeypatch.setattr(place, interrupting)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), (90, 140, 200)).save("photo.png")
    (tmp_path / "there").mkdir()
    for folder in ("new/folder", "there"):
        calls = 0
        shown = tailcut(*words, "-o", folder, "--json")
        assert (shown.code, shown.err) == (1, f"tailcut {words[0]}: error: interrupted\n")
        assert shown.json["error"] == {"type": "KeyboardInterrupt", "message": "interrupted"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["photo.png", "there"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_sigterm_that_is_there_stays() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ended_by_sigterm():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("said", "shown"), [("", "interrupted"), ("interrupted; go on with --resume",) * 2])
def test_an_interruption_may_say_how_to_go_on(
    said: str, shown: str, tailcut: Tailcut, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt(*filter(None, [said]))

    monkeypatch.setattr("tailcut.tasks.list_models.list_models", stop)
    told = tailcut("models")
    assert (told.code, told.err) == (1, f"tailcut models: error: {shown}\n")


def test_a_command_runs_in_any_thread() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(main(["inspect", "zoo:lenet5-776"])))
    thread.start()
    thread.join()
    assert found == [0]


def test_messages_go_to_standard_error_and_leave_no_handler(tailcut: Tailcut, packed: Path) -> None:
    before = list(logging.getLogger("tailcut").handlers)
    outcome = tailcut("pack", "nowhere.pt", "-o", packed)
    assert outcome.code == 1
    assert outcome.out == ""
    assert logging.getLogger("tailcut").handlers == before


@pytest.mark.skipif(os.name != "posix", reason="needs pipes as POSIX has them")
def test_a_reader_that_goes_away_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "tailcut.cli", "models"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == ""


COMMAND = f"{sys.executable} -m tailcut"


@pytest.mark.parametrize(
    ("line", "code", "out", "error"),
    [
        ("models >&-", 0, "", ""),
        ("inspect nothing 2>&-", 1, "", ""),
        ("models --json >/dev/full", 1, "", "tailcut models: error: [Errno 28] No space left on device\n"),
        ("--print-completion bash >/dev/full", 1, "", "tailcut: error: [Errno 28] No space left on device\n"),
        ("--print-completion bash | :", 1, "", ""),
        ("inspect é", 1, "", "tailcut inspect: error: no such file: \\xe9\n"),
    ],
)
def test_streams_that_are_closed_full_or_without_some_characters(line: str, code: int, out: str, error: str) -> None:
    """Each ended in a traceback, or wrote the error to standard output."""
    pytest.importorskip("shtab")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {COMMAND} {line}"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, out, error)


def test_words_default_to_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tailcut", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("tailcut ")
    assert isinstance(sys.stdout, io.TextIOBase)


@pytest.mark.parametrize(
    "words",
    [
        ("dct", "a.png", "-o", ""),
        ("train", "demo/digits", "--out="),
        ("check", ""),
        ("inspect", ""),
        ("join", "a.packet", "", "-o", "a.tailcut"),
        ("predict", "zoo:lenet5-776", ""),
    ],
)
def test_a_name_that_is_empty_is_not_the_current_folder(
    words: tuple[str, ...], tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = tailcut(*words)
    assert told.code == 2
    assert "expected the name of a file or folder, got none" in told.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [("export", "--to", "safetensors"), ("unpack",), ("pack",), ("cut", "--level", "1"), ("report",)]
)
@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_is_not_written_over_that_is_read(
    words: tuple[str, ...], is_link: bool, tailcut: Tailcut, tmp_path: Path
) -> None:
    path = tmp_path / "a.tailcut"
    shutil.copy(resolve("zoo:lenet5-776"), path)
    content, out = path.read_bytes(), path
    if is_link:
        out = tmp_path / "link"
        out.symlink_to(path)
    told = tailcut(words[0], path, *words[1:], "-o", out)
    assert told.code == 2
    assert "is read, and would be written over" in told.err
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("score", "a.tailcut", "--data", "digits", "-o", "a.json", "--plot", "a.tailcut"), "a.tailcut is read"),
        (
            ("score", "a.tailcut", "--data", "digits", "-o", "a.json", "--plot", "./a.json"),
            "a.json would be written twice",
        ),
        (("prune", "a.tailcut", "--scores", "s.json", "--rates", "0.5", "-o", "s.json"), "s.json is read"),
        (("unpack", "a.tailcut", "-o", "-"), "- would be a file of that name: standard output is /dev/stdout"),
        (("convert", "a.tailcut", "--from", "dctnet", "--statistics", "s.json", "-o", "s.json"), "s.json is read"),
    ],
)
def test_no_output_is_a_file_that_is_read_or_another_output(
    words: tuple[str, ...], message: str, tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(resolve("zoo:lenet5-776"), "a.tailcut")
    Path("s.json").write_text("{}")
    told = tailcut(*words)
    assert told.code == 2
    assert message in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tailcut", "s.json"]


@pytest.mark.parametrize("name", ["model.tailcut", "result.json", "recipe.toml", "checkpoints/last.pt"])
def test_no_file_of_a_run_is_written_over(
    name: str, tailcut: Tailcut, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").touch()  # one that lies beside is no run
    assert tailcut("pack", packed, "-o", "model.tailcut").code == 0
    assert tailcut("pack", packed, "-o", "model.tailcut").code == 0
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/recipe.toml").touch()
    refused = tailcut("pack", packed, "-o", f"run/{name}")
    assert refused.code == 2
    assert f"cannot write run/{name}: it is a file of the run" in refused.err
    assert tailcut("pack", packed, "-o", "run/other.tailcut").code == 0
    assert sorted(path.name for path in Path("run").iterdir()) == ["checkpoints", "other.tailcut", "recipe.toml"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["models", "--import", "./folder"], 2, "--import ./folder: expected a file .py, or the name of a module"),
        (["models", "--import", "leaves.py"], 2, "--import leaves.py: SystemExit: 7 (leaves.py, line 2)"),
        (["score", "zoo:lenet5-776", "--data", "digits", "--seed", "9" * 20], 2, "expected a whole number of 0 to"),
        (["evaluate", "zoo:lenet5-776", "--data", "digits", "--device", "meta"], 2, "the meta device holds no numbers"),
        (["sweep", ""], 2, "expected the name of a file or folder, got none"),
        (["unpack", "zoo:lenet5-776", "-o", "x" * 300], 2, "the name is too long, with 300 bytes in a path of 300"),
    ],
)
def test_slips_get_a_line(
    words: list[str], code: int, message: str, tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("leaves.py").write_text("import sys\nsys.exit(7)\n")
    Path("folder").mkdir()
    shown = tailcut(*words)
    assert (shown.code, message in shown.err) == (code, True)
    assert "Traceback" not in shown.err


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no /dev/stdout")
@pytest.mark.parametrize("as_json", [False, True])
def test_a_file_written_to_standard_output_has_it_alone(as_json: bool) -> None:
    path = resolve("zoo:lenet5-776")
    words = [sys.executable, "-m", "tailcut", "pack", str(path), "-o", "/dev/stdout", *(["--json"] if as_json else [])]
    done = subprocess.run(words, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, path.read_bytes())
    assert (b'"file_bytes"' if as_json else b"1,406 bytes") in done.stderr


def test_a_link_to_itself_is_reported(tailcut: Tailcut, tmp_path: Path) -> None:
    for name in ("loop", "loop.py"):
        (tmp_path / name).symlink_to(name)
    for words in (("-o", tmp_path / "loop"), ("-o", tmp_path / "a", "--import", tmp_path / "loop.py")):
        told = tailcut("pack", "zoo:lenet5-776", *words)
        assert told.code in (1, 2)
        assert "loop" in told.err
        assert "Traceback" not in told.err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_is_refused_is_one_line(
    error: Exception, tailcut: Tailcut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tailcut.tasks.export.unpack", refused)
    told = tailcut("unpack", "zoo:lenet5-776", "-o", tmp_path / "a.safetensors", "--json")
    assert told.code == 1
    assert told.err.startswith("tailcut unpack: error: there is not enough memory: smaller batches")
    assert json.loads(told.out)["error"]["type"] == "MemoryError"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("line", "code", "out"),
    [
        ("--version >/dev/full", 1, ""),
        ("train --help >/dev/full", 1, ""),
        ("nonsense 2>/dev/full", 2, ""),
        ("inspect nothing --json 2>/dev/full", 1, "no such file"),
    ],
)
def test_words_that_cannot_be_written_keep_the_exit_code_and_the_json(line: str, code: int, out: str) -> None:
    done = subprocess.run(["bash", "-c", f"{COMMAND} {line}"], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert out in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_training_whose_messages_nobody_can_read_goes_on(tmp_path: Path) -> None:
    words = "train demo/digits --out run --set training.epochs=1 --set data.batch_size=600 2>/dev/full"
    done = subprocess.run(
        ["bash", "-c", f"{COMMAND} {words}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "run" / "model.tailcut").is_file()
