import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from tailcut.data import FolderDataset, open_dataset, reading
from tailcut.data.dataset import Indices
from tailcut.data.workers import Workers, in_order
from tailcut.errors import ArgumentError, DataError, MissingExtraError

SQUARES = TensorDataset(torch.arange(9) ** 2)

# Leaves a loader of large items after the fourth one, and says which processes made them.
LEAVING = """
import os
import signal
import sys

import torch

from tailcut.data.workers import Workers, in_order


class Large(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return os.getpid(), [torch.full((3, 480, 640), float(index)) for _ in range(20)]


def leave(way):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background begin with it ignored
    if way == "error":
        raise ValueError
    if way == "exit":
        sys.exit()
    os.killpg(0, signal.SIGINT)  # as Ctrl-C does: the workers get it too


def main(way):
    try:
        for number, (process, tensors) in enumerate(in_order(Large(), 1000, 2)):
            assert all(bool((tensor == number).all()) for tensor in tensors)
            print(process, flush=True)
            if number == 3:
                leave(way)
    except (ValueError, KeyboardInterrupt) as error:
        print(type(error).__name__)


if __name__ == "__main__":
    main(sys.argv[1])
"""


# A module, which other processes can import.
SOURCES = """
import os

from torch.utils.data import Dataset

from tailcut.errors import MissingExtraError


class Processes(Dataset):
    def __getitem__(self, index):
        return os.getpid()


class Broken(Dataset):
    def __getitem__(self, index):
        if index == 0:
            raise MissingExtraError("this", "package", "extra")
        if index == 1:
            return 1 // (index - 1)
        os._exit(3)
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "sources_of_items.py").write_text(SOURCES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sources_of_items", raising=False)
    return importlib.import_module("sources_of_items")


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_in_order(workers: int) -> None:
    assert [int(item) for (item,) in in_order(SQUARES, 7, workers)] == [0, 1, 4, 9, 16, 25, 36]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_that_of_the_source(workers: int, tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / "train" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    dataset = FolderDataset(tmp_path / "train", name="folder:x", size=4)
    path.write_bytes(b"damaged")
    items = in_order(dataset, 3, workers)
    with pytest.raises(DataError) as caught:
        list(items)
    assert str(caught.value).startswith(f"{path} is no PNG or JPEG image")


@pytest.mark.parametrize(
    ("index", "kind", "message"),
    [
        (0, MissingExtraError, "this needs the package 'package'"),
        (1, ZeroDivisionError, "integer division"),
        (2, DataError, "a worker process ended before it sent its item"),
    ],
)
def test_errors_of_all_kinds_arrive(index: int, kind: type[Exception], message: str, sources: Any) -> None:
    with Workers(1) as processes:
        with pytest.raises(kind, match=message) as caught:
            list(processes.items(sources.Broken(), [index]))
        if index == 2:
            with pytest.raises(kind, match=message):
                list(processes.items(sources.Broken(), [2] * 9))
        if index == 1:
            assert "in __getitem__" in caught.value.__notes__[0]
            assert [int(item) for (item,) in processes.items(SQUARES, [5, 2])] == [25, 4]  # it starts anew


def test_processes_stay_until_they_are_no_more_wanted(sources: Any) -> None:
    source = sources.Processes()
    with Workers(2) as processes:
        first, second = (list(processes.items(source, range(4))) for _ in range(2))
        assert first == second
        assert first[:2] == first[2:]
        assert len({*first, os.getpid()}) == 3
        source = sources.Processes()
        (other,) = processes.items(source, range(1))
        assert other not in first
        assert not any(is_running(process) for process in first)
        left_early = processes.items(source, range(100))
        assert next(left_early) == other
        del left_early
        assert not is_running(other)
        (last,) = processes.items(source, range(1))
        assert is_running(last)
    assert not is_running(last)


@pytest.mark.skipif(sys.platform == "win32", reason="has no groups of processes to interrupt")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "said"), [("error", ["ValueError"]), ("exit", []), ("interrupt", ["KeyboardInterrupt"])]
)
def test_a_loader_can_be_left_early(way: str, said: list[str], tmp_path: Path) -> None:
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING, encoding="utf-8")
    command = [sys.executable, str(script), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, start_new_session=True)
    assert (done.returncode, done.stderr) == (0, "")
    processes, rest = done.stdout.splitlines()[:4], done.stdout.splitlines()[4:]
    assert rest == said
    assert len(set(processes)) == 2
    end = time.monotonic() + 30
    while any(is_running(int(process)) for process in processes):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("workers", [-1, 257, True, 1.5])
def test_wrong_numbers(workers: Any) -> None:
    with pytest.raises(ArgumentError, match="workers must be an integer from 0 to 256"):
        next(in_order(SQUARES, 3, workers))


def test_batches_of_files_are_the_same_with_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One data set, all that is made of it: in the words of a call, and of the enclosing settings."""
    for number in range(6):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (40 * number, 0, 0)).save(path)
    dataset = FolderDataset(tmp_path / "train", name="folder:x", size=4).part(1, 6)
    positions: list[Indices] = [range(2), [4, 2], torch.tensor([3])]
    expected = [dataset.batch(places) for places in positions]
    asked: list[int] = []

    def counting(source: Any, length: int, workers: int) -> Any:
        asked.append(workers)
        return in_order(source, length, workers)

    # The function `reading` has the name of its module.
    monkeypatch.setattr(importlib.import_module("tailcut.data.reading"), "in_order", counting)
    with reading(workers=1):
        found = [list(dataset.batches(positions)), list(dataset.batches(positions, 0))]
        assert len(list(dataset.batches(positions[:1]))) == 1
        list(open_dataset("digits", "test").batches(positions))
    # A single batch, and images that lie in memory, are not worth a process.
    assert asked == [1, 0, 0, 0]
    for batches in found:
        for own, other in zip(batches, expected, strict=True):
            assert all(torch.equal(one, two) for one, two in zip(own, other, strict=True))
    with pytest.raises(ArgumentError, match="workers must be an integer from 0 to 256"), reading(workers=-1):
        pass


# Asks a process for items that raise, or give, what cannot be sent to another.
FAILING = """
import sys

import torch

from tailcut.data.workers import Workers


class OfTwoArguments(Exception):
    def __init__(self, path, line):
        super().__init__(f"{path}: line {line} is broken")


class Broken(torch.utils.data.Dataset):
    def __getitem__(self, index):
        if index:
            return lambda: index
        raise OfTwoArguments("x.csv", 7)


if __name__ == "__main__":
    for index in (0, 1):
        with Workers(1) as workers:
            try:
                list(workers.items(Broken(), [index]))
            except Exception as error:
                print(type(error).__name__, error, *getattr(error, "__notes__", ()))
"""


def test_errors_and_items_that_cannot_be_sent_are_told(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    told = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert "DataError OfTwoArguments: x.csv: line 7 is broken In a worker process" in told
    assert "DataError an item cannot be sent between processes" in told
