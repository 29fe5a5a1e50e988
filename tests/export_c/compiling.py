"""The machine's C compiler in tests."""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from tailcut.export_c import runtime_folder

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion")
# -g1: the sanitizers name lines; the variables of -g would take a quarter of the compiler's time.
# -Og: the sanitizers see as much as under -O1, for which the compiler needs three times as long. Some tests give -O1
# behind it all the same, for what a compiler makes of the code where it optimises.
SANITIZED = ("-Og", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
C_FOLDER = Path(__file__).parent / "c"
# Compiled sources, by all that they depend on: for the other test processes, and for the next runs of the tests.
OBJECTS = Path(__file__).parents[2] / "build" / "test-objects"
DAYS_KEPT = 7


def optimized(name: str) -> tuple[str, ...]:
    """-O1 for a network of the zoo, but for the small LeNets, whose parts of the runtime others have too."""
    return () if name.startswith("lenet") else ("-O1",)


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
    digest = hashlib.sha256("\0".join([_version(), *flags, text]).encode()).hexdigest()
    kept = _object_folder() / f"{digest}.o"
    if not kept.exists():
        new = kept.with_suffix(f".{os.getpid()}")
        _run([compiler(), *settings, "-c", str(source), "-o", str(new)])
        new.replace(kept)
    os.utime(kept)
    return kept


@cache
def _version() -> str:
    return _run([compiler(), "--version"])


@cache
def _object_folder() -> Path:
    """The folder, without what no test has used for some days."""
    OBJECTS.mkdir(parents=True, exist_ok=True)
    oldest = time.time() - DAYS_KEPT * 86_400
    for path in OBJECTS.iterdir():
        with suppress(FileNotFoundError):  # removed by another test process
            if path.stat().st_mtime < oldest:
                path.unlink()
    return OBJECTS


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
