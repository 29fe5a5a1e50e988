"""The page of promises: each command that it names is one that there is."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\| [^|]+ \| `(pytest|make) ([^`]+)` \|$", PAGE, re.MULTILINE)


def test_each_promise_has_a_command() -> None:
    rows = PAGE[PAGE.index("checked by") : PAGE.index("## Time")].strip().splitlines()[2:]
    assert len(COMMANDS) == len(rows) > 10


def test_the_commands_are_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for tool, words in COMMANDS:
        if tool == "make":
            assert words.split()[0] in targets, words
        else:
            assert all((ROOT / word.partition("::")[0]).exists() for word in words.split()), words


def test_pytest_collects_the_tests_that_are_named() -> None:
    named = sorted({word for tool, words in COMMANDS if tool == "pytest" for word in words.split()})
    files = sorted({word.partition("::")[0] for word in named})
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header", "-p", "no:cacheprovider", *files]
    collected = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=False)
    tests = collected.stdout.splitlines()
    missing = [
        word
        for word in named
        if not any(test == word or test.startswith((f"{word}[", f"{word}/", f"{word}::")) for test in tests)
    ]
    assert missing == [], collected.stderr
    assert sum("::" in word for word in named) > 20


def test_the_tests_with_every_index_checked_are_there() -> None:
    (recipe,) = re.findall(r"^indices:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    paths = re.findall(r"tests/\S+", recipe)
    assert len(paths) > 3
    assert all((ROOT / path).exists() for path in paths)
    assert "NUMBA_BOUNDSCHECK=1" in recipe
