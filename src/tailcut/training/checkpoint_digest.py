"""Digest of a `torch.save` file, appended to its bytes, so that any change is noticed.

A file of `torch.save` is a zip archive; the digest is the archive's comment, so that every reader of such files reads
these too. The zip's own checksums cover the content of its members only, and torch does not check them.
"""

import hashlib
import os
from pathlib import Path
from typing import IO, Any

import torch

from tailcut.errors import DataError

MARK = b"tailcut sha256: "
TRAILER_BYTES = len(MARK) + hashlib.sha256().digest_size
_LENGTH_BYTES = 2  # of the comment: the last field of an archive without one
_CHUNK = 1 << 20


def save_with_digest(content: Any, file: IO[bytes]) -> None:
    """Write tensors and plain values as `torch.save` does, and a digest behind them.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    writer = _DigestWriter(file)
    try:
        torch.save(content, writer)  # type: ignore[arg-type]  # it needs `write` alone
    except RuntimeError as error:  # torch's own end of a file hides why it could not be written
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    writer.finish()


def verify_digest(path: Path) -> bool:
    """Check the digest of a file. Returns whether it has one.

    Raises:
        DataError: the file cannot be read, or its bytes are not those of its digest.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < TRAILER_BYTES:
                return False
            file.seek(size - TRAILER_BYTES)
            trailer = file.read()
            if not trailer.startswith(MARK):
                return False
            file.seek(0)
            digest, left = hashlib.sha256(), size - TRAILER_BYTES
            while left > 0 and (chunk := file.read(min(left, _CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if digest.digest() != trailer[len(MARK) :]:
        raise DataError(f"{path} is damaged: its bytes do not match its digest")
    return True


class _DigestWriter:
    """Passes on what is written, but for the length of the comment at the end, which the digest makes another."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self._held = file, hashlib.sha256(), b""

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) < _LENGTH_BYTES:
            self._held += bytes(view)
            self._pass_on(self._held[:-_LENGTH_BYTES])
            self._held = self._held[-_LENGTH_BYTES:]
        else:
            self._pass_on(self._held)
            self._pass_on(view[:-_LENGTH_BYTES])
            self._held = bytes(view[-_LENGTH_BYTES:])
        return len(view)

    def flush(self) -> None:
        self._file.flush()

    def finish(self) -> None:
        self._pass_on(TRAILER_BYTES.to_bytes(_LENGTH_BYTES, "little"))
        self._file.write(MARK + self._digest.digest())

    def _pass_on(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
