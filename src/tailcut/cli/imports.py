"""`--import`: imports a module of the user's, which registers its networks."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tailcut.errors import ArgumentError

SUFFIX = ".py"


def import_all(names: Sequence[str]) -> None:
    """Import modules by name, or files by path.

    The folder of a file, for a name the current one, comes first where modules are looked for, as for a script.

    Raises:
        ArgumentError: there is no such file or module, its code fails, or another module has a file's name.
    """
    for name in names:
        _import(name)


def _import(name: str) -> None:
    path = Path(name).resolve() if name.endswith(SUFFIX) else None
    if path is not None and not path.is_file():
        raise ArgumentError(f"--import: there is no file {name}")
    folder, module = (str(Path.cwd()), name) if path is None else (str(path.parent), path.stem)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's code raises
        raise ArgumentError(f"--import {name}: {type(error).__name__}: {error}") from error
    if path is not None and Path(found.__file__ or "").resolve() != path:
        raise ArgumentError(f"--import {name}: another module is called {module!r} ({found.__file__}); rename the file")
