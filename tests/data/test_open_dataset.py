from pathlib import Path

import pytest

from tailcut.data import dataset_names, open_dataset
from tailcut.errors import ArgumentError, DataNotFoundError


def test_names() -> None:
    assert dataset_names() == ["carvana", "cifar10", "coco", "digits", "imagenet", "imagenette", "mnist"]


def test_default_split(cache: Path, small_mnist: Path) -> None:
    dataset = open_dataset("mnist", roots=small_mnist)
    assert (dataset.split, len(dataset)) == ("test", 5)
    assert open_dataset("digits").split == "test"
    for name, layout in (
        ("carvana", "carvana/val/images"),
        ("cifar10", "cifar-10-batches-bin/test_batch.bin"),
    ):
        with pytest.raises(DataNotFoundError, match=layout):
            open_dataset(name)


def test_split_is_passed_on(small_mnist: Path) -> None:
    assert len(open_dataset("mnist", "train", roots=[small_mnist])) == 12


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ArgumentError, match="unknown data set 'mnits'; known are carvana, cifar10, coco, digits, imag"):
        open_dataset("mnits")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "digits"])
def test_unknown_split_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} has no split 'val'; it has train, test"):
        open_dataset(name, "val")
    with pytest.raises(ArgumentError, match="has no split ''"):
        open_dataset(name, "")


def test_two_roots_of_the_environment(
    cache: Path, small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILCUT_DATA", f"{tmp_path / 'nothing'}:{small_mnist}")
    assert len(open_dataset("mnist")) == 5


def test_download_is_off_unless_asked_for(cache: Path) -> None:
    with pytest.raises(DataNotFoundError, match="that was not allowed"):
        open_dataset("mnist")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits@0", "the size of images must be 1 to 4096, got 0"),
        ("imagenette@", "comes the side of the images in pixels, as in imagenette@112, .*; got 'imagenette@'"),
        ("imagenette@-1", "comes the side"),
        ("imagenette@²", "comes the side"),
        ("imagenette@" + "9" * 5000, "comes the side"),
        ("imagenets@112", "unknown data set 'imagenets@112'"),
    ],
)
def test_sizes_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        open_dataset(name)
