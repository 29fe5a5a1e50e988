"""The machine's C compiler in tests."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tailcut.export_c import runtime_folder

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion")
SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
C_FOLDER = Path(__file__).parent / "c"


def compiler() -> str:
    """`cc`, or the test is skipped; where CI says so it fails instead."""
    found = shutil.which("cc")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no C compiler `cc` on this machine, and CI is set")
        pytest.skip("no C compiler `cc` on this machine")
    return found


def compile_c(into: Path, sources: Sequence[Path], *options: str, folders: Sequence[Path] = ()) -> Path:
    """The program, compiled without a warning."""
    settings = [*STRICT, *options, *(f"-I{folder}" for folder in (*folders, runtime_folder()))]
    parts = [_object(source, settings) if _is_shared(source) else source for source in sources]
    _run([compiler(), *settings, *map(str, parts), "-o", str(into)])
    return into


def _is_shared(source: Path) -> bool:
    """Whether many programs have this source: that of a network is its own."""
    return source.name.startswith("tailcut_") or source.parent == C_FOLDER


def _object(source: Path, settings: Sequence[str]) -> Path:
    """The compiled source, kept for the next program for which the preprocessor makes the same of it."""
    text = _run([compiler(), *settings, "-E", "-P", str(source)])
    flags = [setting for setting in settings if not setting.startswith("-I")]
    digest = hashlib.sha256("\0".join([*flags, text]).encode()).hexdigest()
    kept = Path(_object_folder().name) / f"{digest}.o"
    if not kept.exists():
        _run([compiler(), *settings, "-c", str(source), "-o", str(kept)])
    return kept


@cache
def _object_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="tailcut-objects-")


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
