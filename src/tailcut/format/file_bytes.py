"""The bytes of a `.tailcut` file, from the disk, the zoo or an open file object, up to the most that it may have."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tailcut.arguments import is_integer
from tailcut.errors import ArgumentError, FormatError, LimitError, shown
from tailcut.files import name_of
from tailcut.format.container.contents import HEAD_BYTES, MAX_FRAME_BYTES, Contents, check_magic, decode
from tailcut.format.container.numbers import LARGEST_NUMBER_BYTES
from tailcut.format.zoo import resolve
from tailcut.limits import limit_of, limit_setting

READ_BYTES = 1 << 20
"""Asked of a file object at a time."""


def checked_level(level: Any) -> int | None:
    """Return the user's level; raise `ArgumentError` unless it is None or a whole number from 1."""
    if level is None:
        return None
    if is_integer(level) and level >= 1:
        return int(level)
    raise ArgumentError(f"level must be a whole number from 1, the smallest, got {level!r}")


@contextmanager
def naming(path: str | Path | IO[bytes]) -> Iterator[None]:
    """Within the block, errors about a file's content begin with its name."""
    try:
        yield
    except (FormatError, ArgumentError) as error:
        # The message holds text from the file.
        raise type(error)(f"{name_of(path)}: {shown(str(error))}") from error


def read_file(path: str | Path | IO[bytes], max_parameters: int | None = None) -> bytes:
    """Return the bytes of a file.

    Args:
        path: the file, "zoo:NAME", or a binary file object, which is read from where it stands to its end.
        max_parameters: the most numbers that its network may have.

    Raises:
        FormatError: it is no file of ours, or larger than one with `max_parameters` numbers can be.
        ArgumentError: the file object gives text.
        FileNotFoundError: there is no such file.
    """
    most = MAX_FRAME_BYTES + LARGEST_NUMBER_BYTES * limit_of(max_parameters)
    if not isinstance(path, (str, os.PathLike)):
        if not callable(getattr(path, "read", None)):
            raise ArgumentError(
                "expected the name of a file to read, or a binary file object such as io.BytesIO(content), got "
                f"{type(path).__name__}"
            )
        with naming(path):
            content = _read(path, most)
            _check_size(len(content), most, "at least ")
            return content
    with resolve(path).open("rb") as file, naming(path):
        # A large file of another kind is not read to its end.
        check_magic(file.read(HEAD_BYTES))
        _check_size(os.fstat(file.fileno()).st_size, most)
        file.seek(0)
        return file.read()


def _read(file: IO[bytes], most: int) -> bytes:
    """Return what a file object has, but of what is larger only a little more than `most` bytes."""
    parts: list[bytes] = []
    size = 0
    while size <= most:  # sockets and unbuffered files give less than was asked for
        part = file.read(READ_BYTES if size else HEAD_BYTES)
        if isinstance(part, str):
            raise ArgumentError('expected a binary file object, got one of text: open it with "rb"')
        if not size:
            check_magic(part or b"")
        if not part:
            break
        parts.append(bytes(part))
        size += len(part)
    return b"".join(parts)


def _check_size(size: int, most: int, at_least: str = "") -> None:
    if size > most:
        raise LimitError(
            f"the file has {at_least}{size} bytes, at most {most} are allowed for the numbers that a network may have; "
            f"if you trust the file, raise {limit_setting()}"
        )


def read_contents(path: str | Path, level: int | None = None) -> Contents:
    """Return the contents of the file `path` or "zoo:NAME", up to a level of it, without building its network.

    Raises:
        FormatError: as `load`, with the file's name.
        ArgumentError: there is no such level.
        FileNotFoundError: there is no such file.
    """
    content = read_file(path)
    with naming(path):
        return decode(content, checked_level(level))
