"""The script is run by a real shell, which is asked what it would complete."""

import shutil
import subprocess
import sys

import pytest

from tailcut.cli import main
from tailcut.cli.completion import SHELLS

# What bash does at the key TAB: call the function that completes, with the words so far.
ASK = """
source /dev/stdin
COMP_WORDS=({words}); COMP_CWORD={number}; COMP_LINE="{words}"; COMP_POINT=${{#COMP_LINE}}
function_name=$(complete -p tailcut | sed -E 's/.*-F ([^ ]+) .*/\\1/')
$function_name
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script() -> str:
    pytest.importorskip("shtab")
    done = subprocess.run(
        [sys.executable, "-m", "tailcut", "--print-completion", "bash"], capture_output=True, text=True, check=True
    )
    return done.stdout


def answers(script: str, *words: str) -> set[str]:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    ask = ASK.format(words=" ".join(("tailcut", *words)), number=len(words))
    done = subprocess.run(["bash", "-c", ask], input=script, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_commands_are_completed(script: str) -> None:
    assert {"predict", "prune"} <= answers(script, "pr")
    assert "train" not in answers(script, "pr")


def test_options_and_their_values_are_completed(script: str) -> None:
    assert "--keep-ratio" in answers(script, "pack", "--keep")
    assert answers(script, "pack", "--dtype", "float1") == {"float16"}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["--print-completion", shell]) == 0
    printed = capsys.readouterr().out
    assert "tailcut" in printed
    assert "keep-ratio" in printed


def test_an_unknown_shell_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", "dos"]) == 2
    assert "'fish'" in capsys.readouterr().err


def test_without_shtab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 1
    assert "completion" in capsys.readouterr().err
