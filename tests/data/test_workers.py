import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from tailcut.data import FolderDataset, open_dataset, reading
from tailcut.data.dataset import Indices
from tailcut.data.workers import in_order
from tailcut.errors import ArgumentError, DataError

SQUARES = TensorDataset(torch.arange(9) ** 2)


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
