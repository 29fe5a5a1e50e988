"""Items of a data set from worker processes, in order."""

import copy
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import multiprocessing

from tailcut.errors import ArgumentError, DataError, TailcutError, first_line

MAX_WORKERS = 256
NUM_AHEAD = 2  # items that each process makes ahead


def check_workers(workers: int) -> None:
    """Raise `ArgumentError` unless this is a number of worker processes, 0 to 256."""
    if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= MAX_WORKERS:
        raise ArgumentError(f"workers must be an integer from 0 to {MAX_WORKERS}, got {workers!r}")


def in_order(source: "torch.utils.data.Dataset[Any]", length: int, workers: int) -> Iterator[Any]:
    """Yield `source[0]`, `source[1]`, ... up to `length`, made by worker processes; see `Workers.items`."""
    with Workers(workers) as processes:
        yield from processes.items(source, range(length))


class Workers(AbstractContextManager["Workers"]):
    """Processes that make items ahead. They start with the first item that is asked for, and stay until `close`.

    As a context manager it closes itself. A script that uses processes needs an `if __name__ == "__main__"`.

    torch's `DataLoader` is not used: it sends items from a thread, which a process that has to end in its middle takes
    for a crash; nor can its processes be ended before it is forgotten, together with all tracebacks that lead to it.

    Args:
        num: how many, 0 to 256; with 0 this process makes the items.

    Raises:
        ArgumentError: no such number.
    """

    def __init__(self, num: int) -> None:
        check_workers(num)
        self._num = num
        self._source: torch.utils.data.Dataset[Any] | None = None
        self._running: list[tuple[Any, Connection]] = []

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self.close()

    def close(self) -> None:
        """End the processes, whatever they do; the next items start new ones."""
        for process, connection in self._running:
            process.kill()
            connection.close()
        for process, _ in self._running:
            process.join()
        self._running = []

    def items(self, source: "torch.utils.data.Dataset[Any]", indices: Sequence[Any]) -> Iterator[Any]:
        """Yield the items of a source at these indices. Left early, it ends the processes.

        Args:
            source: can be pickled, for the other processes; what it gives depends on nothing but the index. Processes
                that have an equal one go on with it.
            indices: of the items, in their order; can be pickled.

        Raises:
            TailcutError: as the source raises.
            DataError: a process ended by itself.
        """
        if self._num == 0:
            yield from (source[index] for index in indices)
            return
        if self._source != source:
            self.close()
        if not self._running:
            self._start(source, min(self._num, max(1, len(indices))))
        asked: deque[Connection] = deque()
        try:
            # Each in turn gets the next index, so that the items come in order from each in turn.
            for index, (_, connection) in zip(indices, cycle(self._running), strict=False):
                if len(asked) == NUM_AHEAD * len(self._running):
                    yield _received(asked.popleft())
                with suppress(ConnectionError):  # of a process that ended; said where its item is awaited
                    connection.send(index)
                asked.append(connection)
            while asked:
                yield _received(asked.popleft())
        except BaseException:  # also when the caller wants no more
            self.close()
            raise

    def _start(self, source: "torch.utils.data.Dataset[Any]", num: int) -> None:
        context = multiprocessing.get_context("spawn")  # threads of torch and numba do not survive a fork
        self._source = source
        with _holding_interruption():
            for _ in range(num):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, source), daemon=True)
                process.start()
                there.close()
                self._running.append((process, here))


def _serve(connection: Connection, source: "torch.utils.data.Dataset[Any]") -> None:
    """Run a worker process: for each index that comes send the item, or the error, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    torch.set_num_threads(1)
    while True:
        try:
            index = connection.recv()
        except (EOFError, ConnectionError):
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = source[index], None
        except Exception as error:  # noqa: BLE001 -- any error is for the process that asked
            if not isinstance(error, TailcutError):
                error.add_note(f"In a worker process:\n{traceback.format_exc()}")
            answer = None, _that_travels(error)
        try:
            connection.send(answer)
        except ConnectionError:
            return
        except Exception as error:  # noqa: BLE001 -- of the user's item, before anything was sent
            connection.send((None, DataError(f"an item cannot be sent between processes: {first_line(error)}")))


def _that_travels(error: Exception) -> Exception:
    """Return the error; as a `DataError` if it cannot be sent, as where its class takes more than its text."""
    try:
        copy.deepcopy(error)  # makes it anew, as the other process does
    except Exception:  # noqa: BLE001 -- of the user's class
        carried = DataError(f"{type(error).__name__}: {first_line(error)}")
        for note in getattr(error, "__notes__", ()):
            carried.add_note(note)
        return carried
    return error


def _received(connection: Connection) -> Any:
    try:
        item, error = connection.recv()
    except (EOFError, ConnectionError) as ended:
        raise DataError("a worker process ended before it sent its item; its own error stands above, if any") from ended
    if error is not None:
        raise error
    return item


@contextmanager
def _holding_interruption() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started within the block; for this one it waits until its end."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
