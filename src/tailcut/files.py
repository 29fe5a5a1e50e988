"""Atomic writes: a file appears under its name whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tailcut.errors import ArgumentError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file beside `path` and rename it to `path` when the block ends without an error.

    Args:
        path: where the finished file shall be; an existing file is replaced only at the end. What a link points to is
            replaced, not the link. A pipe or a device is written to as it is.

    Yields:
        The binary file to write to.

    Raises:
        ArgumentError: the folder of `path` does not exist, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ArgumentError(f"cannot write {path}: it is a folder; give a file name")
    if not path.parent.is_dir():
        raise ArgumentError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all. Raises as `atomic_write`."""
    with atomic_write(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
