"""Networks in integers on real images: as accurate as in float32."""

from pathlib import Path

import pytest

import tailcut
from tailcut.data import Dataset, open_dataset
from tailcut.data.dataset import DatasetPart
from tailcut.evaluation.evaluate import evaluate
from tailcut.export_c.integer_network import IntegerNetwork


def points_lost(name: str, dataset: Dataset) -> float:
    model = tailcut.load(f"zoo:{name}")
    floats, integers = (evaluate(network, dataset)["accuracy"] for network in (model, IntegerNetwork(model)))
    return 100 * (floats - integers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5-776", "lenet5-1500"])
def test_digits(name: str, mnist_root: Path) -> None:
    digits = open_dataset("mnist", roots=[mnist_root])
    assert abs(points_lost(name, DatasetPart(digits, range(2000), digits.split))) <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), [("cifar10-resnet20-combined", "cifar10@128"), ("resnet18-9900", "cifar10")])
def test_small_photos(name: str, data: str, cifar10_root: Path) -> None:
    photos = open_dataset(data, roots=[cifar10_root])
    assert abs(points_lost(name, DatasetPart(photos, range(1000), photos.split))) <= 0.3
