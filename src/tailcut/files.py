"""Atomic writes: a file appears under its name whole or not at all. And locks, for one writer at a time."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tailcut.errors import ArgumentError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)  # what file systems without locks answer


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file beside `path` and rename it to `path` when the block ends without an error.

    Args:
        path: where the finished file shall be; an existing file is replaced only at the end. What a link points to is
            replaced, not the link. A pipe or a device is written to as it is.

    Yields:
        The binary file to write to.

    Raises:
        ArgumentError: the folder of `path`, or of what it links to, does not exist, or `path` is a folder.
    """
    check_place(path)
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    # Not with the file's own name in it: that may be as long as the file system allows.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tailcut-", suffix=".part")
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
    """Write `content` (text as UTF-8) to `path`, whole or not at all.

    Raises:
        ArgumentError: as `atomic_write`, or the text cannot be written as UTF-8.
    """
    try:
        content = content.encode() if isinstance(content, str) else content
    except UnicodeEncodeError as error:  # of a command line whose bytes are no UTF-8
        found = ascii(error.object[error.start : error.end])
        raise ArgumentError(f"cannot write {path}: expected text that UTF-8 can hold, found {found}") from error
    with atomic_write(path) as file:
        file.write(content)


def check_place(out: str | Path) -> None:
    """Raise `ArgumentError` if no file can lie there; for commands that would notice only after hours of work."""
    path, target = Path(out), Path(os.path.realpath(out))
    if path.is_dir():
        raise ArgumentError(f"cannot write {path}: it is a folder; give a file name")
    for folder in (path.parent, target.parent):  # of a link, then of what it points to
        if not folder.is_dir():
            raise ArgumentError(f"cannot write {path}: the folder {folder} does not exist; create it first")


@contextmanager
def locked(path: str | Path, taken: str) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs. The file is made if needed; its content stays.

    The kernel lets go of the lock when the process ends, however that happens. Where there are no locks, by the file
    system or the operating system, the block runs without one.

    Args:
        path: the file, in a folder that exists.
        taken: the message of the error.

    Raises:
        ArgumentError: somebody else holds the lock.
    """
    with Path(path).open("ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ArgumentError(taken) from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
