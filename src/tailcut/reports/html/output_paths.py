"""Check of output paths: the folder must exist, and the file must not be one of those reported on."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tailcut.errors import ArgumentError
from tailcut.files import check_output_path
from tailcut.format import resolve
from tailcut.runs import Run


def check_out(out: str | Path, sources: Sequence[str]) -> None:
    """Check where a page shall be written.

    Args:
        out: the file.
        sources: what the page reports on: run folders, .tailcut files or `zoo:NAME`.

    Raises:
        ArgumentError: `out` cannot be written, or is a file of a source, whether that is there yet or not.
        FileNotFoundError: there is no such source.
    """
    check_output_path(out)
    path = Path(out)
    for source in sources:
        for file, what in _own_files(source):
            if _is_same(path, file) or _is_same(path.parent, file):
                raise ArgumentError(f"cannot write {path}: it is {what}; choose another file")


def check_no_file_of_a_run(out: str | Path) -> None:
    """Raise `ArgumentError` if `out` is a file that a training wrote, or writes, into its run folder.

    Its result would tell of another network then.
    """
    path = Path(os.path.realpath(out))
    for run in (Run(path.parent), Run(path.parent.parent)):
        if run.exists() and run.checkpoints.is_dir():  # a recipe alone may lie anywhere
            for file, _ in _run_files(run):
                if _is_same(path, file) or _is_same(path.parent, file):
                    raise ArgumentError(f"cannot write {out}: it is a file of the run {run.path}; choose another file")


def _own_files(source: str) -> Iterator[tuple[Path, str]]:
    """Yield the files that belong to a source, with their descriptions; a folder stands for all files in it."""
    if Path(source).is_dir():
        yield from _run_files(Run(Path(source)))
        return
    network = resolve(source)
    yield network, "the network itself"
    yield network.with_suffix(".json"), f"the record of {source}"
    beside = Run(network.parent)
    if beside.exists():
        yield from _run_files(beside)


def _run_files(run: Run) -> Iterator[tuple[Path, str]]:
    yield run.model, "the network itself"
    others = (run.recipe, run.start, run.metrics, run.checkpoints, run.discriminator, run.result, run.curves, run.log)
    for file in others:
        yield file, f"a file of the run {run.path}"


def _is_same(file: Path, other: Path) -> bool:
    """Return whether both are the same file or folder, also through links or a case-insensitive file system."""
    if file.exists() and other.exists():
        return file.samefile(other)
    return os.path.realpath(file) == os.path.realpath(other)
