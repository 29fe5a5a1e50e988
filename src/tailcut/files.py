"""Atomic file writes (a file appears whole or not at all), and locks for one writer at a time."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO

from tailcut.errors import ArgumentError, DataError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)  # what file systems without locks answer
# What file systems answer that lock files only, and only those open for writing (NFS).
NO_FOLDER_LOCKS = (errno.EBADF, errno.EISDIR, errno.EINVAL)
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
PREFIX = ".tailcut-"  # of unfinished files
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class _Pending:
    """What `all_or_nothing` does at the end of its block, or undoes: in the order in which it was made.

    Attributes:
        made: files and folders that were not there before.
        finished: of each file the one that holds its content, beside its place; its place; the permissions of what is
            there.
    """

    made: list[Path] = field(default_factory=list)
    finished: list[tuple[Path, Path, int | None]] = field(default_factory=list)


_pending: ContextVar[_Pending | None] = ContextVar("_pending", default=None)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file beside `path` and rename it to `path` when the block ends without an error.

    Args:
        path: where the finished file shall be; an existing file is replaced only at the end. What a link points to is
            replaced, not the link. A pipe or a device is written to as it is.

    Yields:
        The binary file to write to.

    Raises:
        ArgumentError: the folder of `path`, or of what it links to, does not exist, or `path` is a folder or too long.
        OSError: it cannot be written, for example because the disk is full; its `filename` is `path`.
    """
    check_output_path(path)
    given, path = Path(path), Path(os.path.realpath(path))
    with naming(path):
        if is_device(given):  # by the name given: what /dev/stdout links to, if it is a pipe, has none
            with given.open("wb") as file:
                yield file
        else:
            with _beside(path) as file:
                yield file


def read_image_bytes(path: str | Path) -> bytes:
    """Return the content of an image file; raise `DataError` if it cannot be read."""
    if Path(path).is_dir():
        raise DataError(f"cannot read the image {path}: it is a folder; name the files in it, such as {path}/*.jpg")
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # the second of a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the image {path}: {reason}") from error


def name_of(path: object) -> str:
    """Return the name of a file, for people: of a file object the one that it has, if any."""
    if isinstance(path, (str, os.PathLike)):
        return str(path)
    name = getattr(path, "name", None)
    return name if isinstance(name, str) and name else f"the {type(path).__name__} object"


def by_name(path: PurePath) -> str:
    """Return a path's name, to sort a folder's files alike everywhere: Windows compares paths without case."""
    return path.name


def visible_folders(parent: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones, by name.

    Raises:
        OSError: it cannot be read.
    """
    found = [path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=by_name)


def check_is_regular(path: Path) -> None:
    """Raise `DataError` for a pipe, a socket or a device among files to read: it might never end."""
    if is_device(path):
        raise DataError(f"{path} is no regular file, but a pipe, a socket or a device: take it out")


def is_device(path: Path) -> bool:
    """Return whether it is there, and neither a file nor a folder: a pipe or a device."""
    return not path.is_file() and not path.is_dir() and path.exists()


@contextmanager
def _beside(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in the folder of `path`; rename it to `path` at the end, or remove it after an error."""
    temporary = _unfinished_in(path.parent)  # named before it is made, so that no interruption leaves it behind
    before = _permissions(path)
    try:
        with os.fdopen(_make(temporary, before), "wb") as file:
            yield file
            file.flush()
            pending = _pending.get()
            if pending is None:  # of many files the disk writes the first while later ones are made
                os.fsync(file.fileno())
        _remember(path)
        if pending is None:
            _set_permissions(temporary, before)
            rename(temporary, path)
        else:
            pending.finished.append((temporary, path, before))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Within the block, files of `atomic_write` get their names at its end, all of them; after an error none.

    For work that writes several files, of which some alone are of no use, or do not fit to older ones of their names.
    What was there before stays as it was, and folders of `make_folder` are removed again, but for one in which somebody
    else has put something.
    """
    pending = _Pending()
    token = _pending.set(pending)
    try:
        yield
        for temporary, path, before in pending.finished:
            with naming(path):
                _sync_file(temporary)
                _set_permissions(temporary, before)
        for temporary, path, _ in pending.finished:
            with naming(path):
                temporary.replace(path)
        for folder in {path.parent for _, path, _ in pending.finished}:
            sync_folder(folder)
    except BaseException:
        for temporary, _, _ in pending.finished:
            temporary.unlink(missing_ok=True)
        for path in reversed(pending.made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        raise
    finally:
        _pending.reset(token)


def _remember(path: Path) -> None:
    """Note that `path` is about to be made, if it is not there yet."""
    pending = _pending.get()
    if pending is not None and not os.path.lexists(path):
        pending.made.append(path)


def _unfinished_in(folder: Path) -> Path:
    """Return a new name for an unfinished file: without the file's own in it, which may have all letters allowed."""
    return folder / f"{PREFIX}{secrets.token_hex(8)}.part"


def _make(path: Path, replaced: int | None = None) -> int:
    """Make a file, and return its descriptor, open for writing.

    Args:
        path: it must not be there.
        replaced: permissions of the file that it is to replace: until it has them, only its owner may read it. Without
            one it gets those of any new file; the system knows which, and asking it would change them for a moment.
    """
    binary = getattr(os, "O_BINARY", 0)  # without it Windows writes other ends of lines
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | binary, 0o666 if replaced is None else 0o600)


def rename(path: str | Path, new: str | Path) -> None:
    """Give a file another name in its folder, in place of what had that name, so that a power cut cannot undo it.

    Raises:
        OSError: it cannot be renamed, or the folder cannot be written.
    """
    Path(path).replace(new)
    sync_folder(Path(new).parent)


def _set_permissions(path: Path, permissions: int | None) -> None:
    if permissions is not None:
        path.chmod(permissions)


def _sync_file(path: Path) -> None:
    """Write what a file holds to the disk."""
    with path.open("rb+") as file:  # Windows does so for files that are open for writing alone
        os.fsync(file.fileno())


def sync_folder(folder: str | Path) -> None:
    """Write the names in a folder to the disk. Nothing is done where folders cannot be synchronised (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Within the block, an `OSError` that names no file (as of a full disk) gets the name of this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and not _is_unfinished(error.filename)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


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


def check_is_path(out: object) -> None:
    """Raise `ArgumentError` unless it is the name of a file to write."""
    if not isinstance(out, (str, os.PathLike)):
        raise ArgumentError(f"expected the name of the file to write, got {type(out).__name__}")


def check_output_path(out: str | Path, *suffixes: str) -> None:
    """Raise an error if no file can lie there; for what would notice only after hours of work.

    Args:
        out: the file to write.
        suffixes: what its name may end in, such as ".png", if it is no device; anything when none is given.

    Raises:
        ArgumentError: the folder of `out`, or of what it links to, does not exist, or `out` is a folder, no name, too
            long, or has another suffix.
        OSError: no file can be made in that folder: it belongs to somebody else, or cannot be written at all.
    """
    check_is_path(out)
    if not str(out) or "\0" in str(out):
        raise ArgumentError(f"expected the name of a file to write, got {str(out)!r}")
    path, target = Path(out), Path(os.path.realpath(out))
    check_length(path)
    if path.is_dir():
        raise ArgumentError(f"cannot write {path}: it is a folder; give a file name")
    if str(out).endswith((os.sep, os.altsep or os.sep)):
        raise ArgumentError(f"cannot write {out}: that is the name of a folder, which is not there; give a file name")
    for folder in (path.parent, target.parent):  # of a link, then of what it points to
        if not folder.is_dir():
            raise ArgumentError(f"cannot write {path}: the folder {folder} does not exist; create it first")
    is_special = is_device(path)
    if suffixes and not is_special and path.suffix.lower() not in suffixes:
        raise ArgumentError(f"expected a name that ends in {' or '.join(suffixes)}, got {path}")
    if not is_special and not os.access(target.parent, os.W_OK | os.X_OK):
        with naming(path):  # tried, as file systems of other machines may allow what is denied here, and for the reason
            temporary = _unfinished_in(target.parent)
            try:
                os.close(_make(temporary))
            finally:
                temporary.unlink(missing_ok=True)


def expand_user(path: str | os.PathLike[str]) -> Path:
    """Return the path with the home folder for `~` and `~user`; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def check_length(path: Path) -> None:
    """Raise `ArgumentError` for a name that is longer than its file system, or the operating system, allows."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            long = max(path.parts, key=len)
            raise ArgumentError(
                f"cannot write {long[:40]}...: the name is too long, with {len(os.fsencode(long)):,} bytes in a path "
                f"of {len(os.fsencode(path)):,}; give a shorter one"
            ) from error


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        ArgumentError: a file is in the way, or the name is too long.
    """
    check_length(Path(path))
    try:
        for folder in (*reversed(Path(path).parents), Path(path)):
            _remember(folder)
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArgumentError(f"cannot make the folder {path}: there is a file of that name; give another one") from error
    return Path(path)


@contextmanager
def made_folder(path: Path | None) -> Iterator[None]:
    """Make a folder for the block, if one is named; after an error it is removed again if it is new and empty."""
    is_new = path is not None and not os.path.lexists(path)
    if path is not None:
        make_folder(path)
    try:
        yield
    except BaseException:
        if path is not None and is_new:
            with suppress(OSError):  # something lies in it
                path.rmdir()
        raise


@contextmanager
def locked(folder: str | Path, taken: str) -> Iterator[None]:
    """Hold an exclusive lock on a folder within the block, even if files in it are created and deleted meanwhile.

    The kernel lets go of the lock when the process ends, however that happens. On a file system that locks files only,
    the lock is on `.lock` in the folder. Where there are no locks, by the file system or the operating system, the
    block runs without one.

    Args:
        folder: the folder, which exists.
        taken: the message of the error.

    Raises:
        ArgumentError: somebody else holds the lock.
    """
    with ExitStack() as held:
        if fcntl is not None:
            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            if not _lock(descriptor, taken):
                file = held.enter_context((Path(folder) / LOCK_FILE).open("ab"))
                _lock(file.fileno(), taken)
        yield


def _lock(descriptor: int, taken: str) -> bool:
    """Lock an open file or folder; False if this file system locks other things only."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ArgumentError(taken) from error
    except OSError as error:
        if error.errno in NO_FOLDER_LOCKS:
            return False
        if error.errno not in NO_LOCKS:
            raise
    return True


def _is_unfinished(path: object) -> bool:
    return isinstance(path, str | os.PathLike) and Path(path).name.startswith(PREFIX)


def _permissions(path: Path) -> int | None:
    """Return the permissions of a file, None if there is none."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        return None
