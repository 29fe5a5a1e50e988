import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tailcut_command
from tailcut.cli import main

Tailcut = Callable[..., subprocess.Popen[str]]

# A package whose import takes long, as torch's does, and hides what interrupts it.
SLOW_IMPORT = """
import time
print("importing", flush=True)
for _ in range(600):
    try:
        time.sleep(0.1)
    except BaseException:
        pass
"""
START = """
import signal, sys
sys.path.insert(0, {folder!r})
signal.signal(signal.SIGINT, signal.SIG_IGN if {ignoring} else signal.default_int_handler)
import tailcut_command
sys.exit(tailcut_command.main())
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """`start(cli, "inspect")` starts the command with the package `tailcut.cli` of this text."""

    def started(cli: str, *words: str, ignoring: bool = False) -> "subprocess.Popen[str]":
        (tmp_path / "tailcut").mkdir()
        (tmp_path / "tailcut" / "__init__.py").touch()
        (tmp_path / "tailcut" / "cli.py").write_text(cli)
        text = START.format(folder=str(tmp_path), ignoring=ignoring)
        command, pipe = [sys.executable, "-c", text, *words], subprocess.PIPE
        return subprocess.Popen(command, text=True, stdout=pipe, stderr=pipe)

    return started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_import_is_one_line_and_json(number: signal.Signals, start: Tailcut) -> None:
    with start(SLOW_IMPORT, "report", "--json") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == "tailcut: error: interrupted\n"
    assert json.loads(out) == {"error": {"type": "KeyboardInterrupt", "message": "interrupted"}}


def test_the_command_has_the_handlers_that_were_there(start: Tailcut) -> None:
    cli = "import signal\ndef main():\n    print([signal.getsignal(number) for number in (2, 15)])\n    return 7\n"
    with start(cli) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (7, "")
    assert out == f"{[signal.default_int_handler, signal.SIG_DFL]}\n"


def test_what_is_started_to_ignore_signals_does(start: Tailcut) -> None:
    cli = "import os\nos.kill(os.getpid(), 2)\ndef main():\n    return 7\n"
    with start(cli, ignoring=True) as process:
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (7, "")


def test_it_runs_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tailcut", "--version"])
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert tailcut_command.main() == 0
    shown = capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == shown
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_an_interruption_that_nobody_caught_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    written: list[bytes] = []
    monkeypatch.setattr("tailcut.cli.main", interrupted)
    monkeypatch.setattr(sys, "argv", ["tailcut", "models"])
    monkeypatch.setattr(os, "write", lambda descriptor, text: written.append(text))
    assert tailcut_command.main() == 1
    assert written == [b"tailcut: error: interrupted\n"]
