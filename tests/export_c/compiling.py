"""The machine's C compiler in tests."""

import os
import shutil
import subprocess
from collections.abc import Sequence
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
    includes = [f"-I{folder}" for folder in (*folders, runtime_folder())]
    command = [compiler(), *STRICT, *options, *includes, *map(str, sources), "-o", str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return into
