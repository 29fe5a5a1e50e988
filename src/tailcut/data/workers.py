"""Items of a data set from worker processes, in order."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from tailcut import errors
from tailcut.errors import ArgumentError, TailcutError

MAX_WORKERS = 256


def check_workers(workers: int) -> None:
    """Raise `ArgumentError` unless this is a number of worker processes, 0 to 256."""
    if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= MAX_WORKERS:
        raise ArgumentError(f"workers must be an integer from 0 to {MAX_WORKERS}, got {workers!r}")


def in_order(source: "torch.utils.data.Dataset[Any]", length: int, workers: int) -> Iterator[Any]:
    """Yield `source[0]`, `source[1]`, ... up to `length`, made by worker processes.

    Args:
        source: can be pickled, for the other processes; what it gives depends on nothing but the index.
        length: how many.
        workers: processes, 0 to 256; with 0 this process makes the items. Each has the source for itself, and makes two
            items ahead. A script that uses them needs an `if __name__ == "__main__"`, as always with new processes.

    Raises:
        ArgumentError: no such number of workers.
        TailcutError: as the source raises.
    """
    check_workers(workers)
    if workers == 0:
        yield from (source[index] for index in range(length))
        return
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_size=None,
        sampler=range(length),
        num_workers=min(workers, max(1, length)),
        multiprocessing_context="spawn",  # threads of torch and numba do not survive a fork
        # Else it draws from torch's own, and what draws after it, such as a detector's sampling, gets other numbers.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except TailcutError as error:
        raise _plain(error) from error


def _plain(error: TailcutError) -> TailcutError:
    """Return the error of a worker without the traceback that torch puts into its message."""
    kind = type(error)
    _, mark, text = str(error).rpartition(f"{errors.__name__}.{kind.__name__}: ")
    return kind(text.strip()) if mark else error
