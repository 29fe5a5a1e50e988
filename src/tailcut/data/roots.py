"""Data roots: the folders that hold data sets, and the user cache for downloads."""

import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tailcut.errors import ArgumentError, DataNotFoundError
from tailcut.files import atomic_write, expand_user, visible_folders

ENVIRONMENT_VARIABLE = "TAILCUT_DATA"

Roots = str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class Layout:
    """The files of one data set, relative to a data root.

    Attributes:
        title: what is looked for, as a person would say it (`MNIST, split test`).
        files: the files or folders that must all lie under one root.
        advice: one sentence that says where the data come from.
        download: fills a root with `files` from the network; None where nothing can be downloaded. It may
            raise OSError or ValueError (what pooch raises).
    """

    title: str
    files: tuple[str, ...]
    advice: str
    download: Callable[[Path], None] | None = None


def data_roots(roots: Roots = None) -> list[Path]:
    """Return the data roots in the order they are tried.

    Args:
        roots: one root or several; they come first.

    Returns:
        The given roots, then those of the environment variable TAILCUT_DATA (several, separated like PATH),
        then the user cache if there is one.
    """
    given = [roots] if isinstance(roots, (str, Path)) else list(roots or ())
    named = [root for root in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if root]
    cache = cache_root()
    return [expand_user(root) for root in (*given, *named)] + ([] if cache is None else [cache])


def cache_root() -> Path | None:
    """Return the user cache, the folder for downloads, tried last; None for a user without a home folder."""
    import pooch  # here, since it takes a tenth of a second to import

    try:
        return Path(pooch.os_cache("tailcut"))
    except RuntimeError:  # as users of containers may be
        return None


def find_file(name: str, *, roots: Roots = None) -> Path:
    """Return the first file with this path relative to a data root.

    Raises:
        DataNotFoundError: none does.
    """
    return find(Layout(name, (name,), "It lies under no data root, and Tailcut does not fetch it."), roots=roots) / name


def find(layout: Layout, *, roots: Roots = None, download: bool = False) -> Path:
    """Return the first data root that holds all files of a layout.

    Args:
        layout: the files to look for.
        roots: data roots to try before those of TAILCUT_DATA and the user cache.
        download: fetch the files into the user cache when no root holds them, if the layout has a download.

    Returns:
        The root: `root / file` exists for each file of the layout.

    Raises:
        DataNotFoundError: no root holds all the files, and they were not to be downloaded or that failed.
    """
    tried = data_roots(roots)
    for root in tried:
        if not _missing(layout, root):
            return root
    failure: Exception | None = None
    cache = cache_root()
    if download and layout.download is not None:
        try:
            if cache is None:
                raise ArgumentError("there is no home folder for it: set HOME or XDG_CACHE_HOME")
            layout.download(cache)
        except (OSError, ValueError, tarfile.TarError) as error:
            failure = error
        else:
            return cache
    raise DataNotFoundError(_message(layout, tried, cache, download, failure)) from failure


def find_split(
    folder: str, split: str, parts: Sequence[str] = (), *, title: str, advice: str = "", roots: Roots = None
) -> Path:
    """Return the folder `FOLDER/SPLIT` under the first data root that has it.

    Args:
        folder: a path relative to a data root.
        split: the name of a folder in it.
        parts: names of folders that the split must hold.
        title: of the data set.
        advice: see `Layout`; it follows the list of the splits that were found.
        roots: data roots to try first.

    Raises:
        ArgumentError: the split is not the name of a folder.
        DataNotFoundError: no data root holds it.
    """
    files = [f"{folder}/{split}/{part}" for part in parts] or [f"{folder}/{split}"]
    there = {path.name for root in data_roots(roots) for path in folders_of(root / folder)}
    layout = split_layout(folder, split, files, there=there, title=title, advice=advice)
    return find(layout, roots=roots) / folder / split


def split_layout(
    folder: str, split: str, files: Sequence[str], *, there: Iterable[str], title: str, advice: str
) -> Layout:
    """Return the layout of one split of a data set, whose advice begins with the splits that are `there`.

    Raises:
        ArgumentError: the split is not the name of a folder.
    """
    if split in ("", ".", "..") or "/" in split or "\\" in split:
        raise ArgumentError(f"a split of {folder} is the name of a folder, got {split!r}")
    found = ", ".join(sorted(there))
    return Layout(
        title=f"{title}, split {split}",
        files=tuple(files),
        advice=(f"Splits found: {found}. " if found else "") + advice,
    )


def folders_of(parent: Path) -> list[Path]:
    """Return the sorted folders in a folder without hidden ones; none if it is not a readable folder."""
    try:
        return visible_folders(parent)
    except OSError:  # `find` reports a root that cannot be read
        return []


def fetch(url: str, folder: Path, known_hash: str) -> Path:
    """Download one file, or keep the one that is there with the right hash.

    The download is announced by the logger of pooch, which writes to stderr.

    Args:
        url: where the file is; its last part is the name under which it is stored.
        folder: the folder to store it in; made if need be.
        known_hash: `md5:...` or `sha256:...`, which the content must have.

    Returns:
        The path of the file.

    Raises:
        OSError: the download or the writing failed.
        ValueError: the content does not have the hash.
    """
    import pooch

    name = url.rsplit("/", 1)[-1]
    return Path(pooch.retrieve(url, known_hash=known_hash, fname=name, path=folder))


def unpack_members(archive: Path, folder: Path, members: Sequence[str]) -> None:
    """Write some regular files of a tar archive under a folder, each whole or not at all.

    Args:
        archive: the tar archive, compressed or not.
        folder: where the files shall lie.
        members: their paths, the same inside the archive and under the folder.

    Raises:
        ValueError: a member is missing or is no regular file.
        tarfile.TarError: the archive is damaged.
        OSError: reading or writing failed.
    """
    with tarfile.open(archive) as tar:
        for member in members:
            try:
                source = tar.extractfile(member)
            except KeyError:
                source = None
            if source is None:
                raise ValueError(f"{archive} holds no file {member}")
            target = folder / PurePosixPath(member)
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, atomic_write(target) as file:
                while chunk := source.read(1 << 20):
                    file.write(chunk)


def _missing(layout: Layout, root: Path) -> list[str]:
    try:
        return [file for file in layout.files if not (root / file).exists()]
    except OSError:  # a root that may not be read, or whose name no file can have
        return list(layout.files)


def _message(
    layout: Layout, tried: Sequence[Path], cache: Path | None, download: bool, failure: Exception | None
) -> str:
    lines = [f"{layout.title}: no data root holds all of"]
    lines += [f"  {file}" for file in layout.files]
    lines += ["Data roots tried:"]
    if cache is None:
        lines += [f"  {root} ({_state(layout, root)})" for root in tried]
        lines += ["  none: there is no home folder for the user cache"]
    else:
        lines += [f"  {root} ({_state(layout, root)})" for root in tried[:-1]]
        lines += [f"  {cache} (user cache; {_state(layout, cache)})"]
    if failure is not None:
        lines += [f"The download to the user cache failed: {type(failure).__name__}: {failure}"]
    elif layout.download is not None and not download:
        lines += ["They can be downloaded to the user cache, but that was not allowed (download=True allows it)."]
    lines += [
        layout.advice,
        "Put the files under a data root, or name the root that has them: --data-root DIR (may be given "
        f"more than once), or the environment variable {ENVIRONMENT_VARIABLE} (several roots, separated by "
        f"{os.pathsep!r}).",
    ]
    return "\n".join(lines)


def _state(layout: Layout, root: Path) -> str:
    try:
        if not root.is_dir():
            return "no such folder"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    missing = _missing(layout, root)
    if len(missing) == len(layout.files):
        return "has none of them"
    return f"lacks {', '.join(missing)}"
