"""Loops compiled by numba, cached on disk where a folder is writable and compiled anew in each process otherwise.

numba's own cache ends in an error where it finds no folder, where a disk is full and where a file is damaged. Here each
of these costs time, and nothing else. What is kept of a loop is one file, whose name says what it was compiled from
and for, and the digest of its content, so that a damaged file is seen before anything in it is used.
"""

import hashlib
import importlib
import importlib.util
import logging
import os
import stat
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tailcut.errors import TailcutError, UncachedLoopsWarning, first_line
from tailcut.files import write_atomically

logger = logging.getLogger(__name__)

Loop = TypeVar("Loop", bound=Callable[..., Any])

_OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH
SUFFIX = ".loop"
# Of numba's settings those that change what is compiled.
SETTINGS = ("BOUNDSCHECK", "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUGINFO_DEFAULT", "FULL_TRACEBACKS")
PLAIN = (int, float, str, bytes, bool, tuple, type(None), np.generic)

_said: set[str] = set()


def is_installed() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def compile_inner(loop: Loop, **options: Any) -> Loop:
    """Return a function that numba compiles as a part of the loops that call it; see `compile_loop`."""
    compiled: Loop = importlib.import_module("numba").njit(nogil=True, **options)(loop)
    return compiled


def compile_loop(loop: Loop, **options: Any) -> Loop:
    """Return a function that numba compiles, or loads from disk, at its first call with arguments of each type.

    Args:
        loop: the function; it holds no lock of Python's while it runs.
        options: those of `numba.njit`.

    Raises:
        ImportError: numba is not installed.
    """
    compiled: Any = compile_inner(loop, **options)
    if hasattr(compiled, "_cache"):  # not so where NUMBA_DISABLE_JIT gives the plain function back
        compiled._cache = _LoopCache(loop, options)
    made: Loop = compiled
    return made


class _LoopCache:
    """Cache of compiled loops, with the interface of numba's own caches."""

    cache_path = None

    def __init__(self, loop: Callable[..., Any], options: dict[str, Any]) -> None:
        self._loop, self._options = loop, options

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled loop for a signature, or None if it must be compiled."""
        name = self._name(signature, target_context.codegen())
        for folder in _folders():
            with suppress(OSError):
                for path in sorted(folder.glob(f"{name}.*{SUFFIX}")):
                    found = _load(path, target_context) if _is_trusted(path) else None
                    if found is not None:
                        return found
        _say_once("compiling loops for this machine's processor, which takes some seconds the first time")
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a loop that was compiled, if there is a place for it."""
        if result.library.has_dynamic_globals or any(not lifted.can_cache for lifted in result.lifted):
            return
        dumps = importlib.import_module("numba.core.serialize").dumps
        name = self._name(signature, result.codegen)
        reasons = []
        for folder in _folders():
            try:
                content = dumps(result._reduce())
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{name}.{_digest(content)}{SUFFIX}"
                write_atomically(path, content)
                path.chmod(path.stat().st_mode & ~_OF_OTHERS)
            except (OSError, TailcutError) as error:
                reasons.append(f"{folder}: {getattr(error, 'strerror', None) or first_line(error)}")
            else:
                return
        _warn_once(
            "compiled loops cannot be kept on disk, so each process compiles them anew, which takes some seconds "
            f"({'; '.join(reasons) or 'there is no folder for them'}); name a folder that can be written in the "
            "environment variable NUMBA_CACHE_DIR"
        )

    def enable(self) -> None:
        """Nothing: it is always asked."""

    def disable(self) -> None:
        """Nothing, likewise."""

    def flush(self) -> None:
        """Nothing: a file whose name no longer fits is never read."""

    def _name(self, signature: Any, codegen: Any) -> str:
        numba = importlib.import_module("numba")
        settings = [(key, getattr(numba.config, key, None)) for key in SETTINGS]
        parts = (
            numba.__version__,
            importlib.import_module("llvmlite").__version__,
            sys.implementation.cache_tag,
            codegen.magic_tuple(),
            str(signature),
            sorted(
                (key, sorted(map(str, value)) if isinstance(value, set) else value)
                for key, value in self._options.items()
            ),
            settings,
            *_content_of(self._loop, set()),
        )
        return f"{self._loop.__name__[:40]}-{_digest(repr(parts).encode())}"


def _is_trusted(path: Path) -> bool:
    """Return whether a loop, which is code, was written by this user or by root, and by nobody else since."""
    if not hasattr(os, "geteuid"):  # Windows: the folders are the user's own
        return True
    status = path.stat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & _OF_OTHERS


def _load(path: Path, target_context: Any) -> Any:
    """Return the compiled loop in a file; remove the file and return None if its content is not what was written."""
    if path.name.split(".")[-2] != _digest(path.read_bytes()):
        path.unlink()
        return None
    caching = importlib.import_module("numba.core.caching")
    compiler = importlib.import_module("numba.core.compiler")
    try:
        # All that a loop's code needs of numba. Its `refresh` would import what compiling needs too, in three times
        # as long as all the rest takes.
        importlib.import_module("numba.core.runtime").rtsys.initialize(target_context)
        payload = caching.IndexDataCacheFile(str(path.parent), "", None)._load_data(path.name)
        return compiler.CompileResult._rebuild(target_context, *payload)
    except Exception as error:  # noqa: BLE001 -- for any damage to numba's file the loop can be compiled
        path.unlink()
        _warn_once(
            f"a compiled loop that was kept on disk cannot be used, and is compiled anew ({path}: "
            f"{type(error).__name__}: {first_line(error)})"
        )
        return None


def _folders() -> Iterator[Path]:
    """Return the candidate cache folders in numba's order of preference."""
    named = importlib.import_module("numba").config.CACHE_DIR
    if named:
        yield Path(named) / "tailcut"
    yield Path(__file__).parent / "__pycache__"
    with suppress(RuntimeError):  # there is no home
        base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
        yield Path(base) / "tailcut" / "loops"


def _content_of(function: Any, seen: set[int]) -> Iterator[object]:
    """All that a function is compiled from: its code, the constants that it names, the functions that it calls."""
    if id(function) in seen:
        return
    seen.add(id(function))
    yield function.__module__, function.__qualname__  # what numba writes names them, and looks for them when it reads
    yield from _code_of(function.__code__)
    for name in sorted(_names_of(function.__code__)):
        if name in function.__globals__:
            value = function.__globals__[name]
            yield name
            inner = getattr(value, "py_func", None) or getattr(value, "_defn", None)  # compiled, or an intrinsic
            if isinstance(inner or value, types.FunctionType):
                yield from _content_of(inner or value, seen)
            elif isinstance(value, np.ndarray):
                yield value.dtype.str, value.shape, value.tobytes()
            else:
                yield value if isinstance(value, PLAIN) else type(value).__name__


def _code_of(code: types.CodeType) -> Iterator[object]:
    yield code.co_code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_of(constant)
        else:
            yield constant


def _names_of(code: types.CodeType) -> set[str]:
    inner = [_names_of(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.info(message)


def _warn_once(message: str) -> None:
    if "warned" not in _said:
        _said.add("warned")
        warnings.warn(message, UncachedLoopsWarning, stacklevel=2)
