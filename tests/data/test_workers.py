from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from tailcut.data import FolderDataset
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
