import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.small_coco import write_coco
from torch import nn

from tailcut.data import InMemoryDataset, open_dataset
from tailcut.errors import ArgumentError, RecipeError
from tailcut.evaluation.class_check import check_class_names, check_splits, warn_of_one_class
from tailcut.evaluation.evaluate import evaluate
from tailcut.structure import create_model, set_class_names
from tailcut.tasks.attack import AttackPlan, accuracies_under_attack

FLOWERS = ("rose", "tulip", "poppy")


def images(names: Sequence[str], split: str = "val") -> InMemoryDataset:
    shape = (len(names), 1, 28, 28)
    return InMemoryDataset("folder:mine", split, torch.zeros(shape, dtype=torch.uint8), torch.arange(len(names)), names)


def network(names: Sequence[str] | None) -> torch.nn.Module:
    model = create_model("lenet300", num_classes=len(names or FLOWERS))
    set_class_names(model, names)
    return model


@pytest.mark.parametrize(
    ("own", "others", "message"),
    [
        (
            FLOWERS,
            ("poppy", "rose", "tulip"),
            "class 0 is 'rose' for the network and 'poppy' in folder:mine, split val",
        ),
        (FLOWERS, ("rose", "tulip", "oak"), "class 2 is 'poppy' for the network and 'oak'"),
        (("n01440764", "n02102040"), ("n01440764", "n02979186"), "class 1 is 'n02102040'"),
        (("0", "1", "10", "2"), ("0", "1", "2", "7"), "class 2 is '10'"),
        (("C", "C++"), ("C", "C#"), r"class 1 is 'C\+\+' for the network and 'C#'"),
        (("+", "-"), ("-", "+"), r"class 0 is '\+'"),
        (("minus", "-x"), ("minus", "x"), "class 1 is '-x'"),
        (("a-b", "a_b"), ("a_b", "a-b"), "class 0 is 'a-b'"),
    ],
)
def test_other_names_are_reported(own: Sequence[str], others: Sequence[str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        evaluate(network(own), images(others))
    with pytest.raises(ArgumentError, match=message):
        accuracies_under_attack(network(own), images(others), AttackPlan())


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (None, FLOWERS),
        (FLOWERS, FLOWERS),
        (FLOWERS, ("Rose", "TULIP", "poppy")),
        (("English springer", "gas pump"), ("english_springer", "gas-pump")),
        (FLOWERS, ("0", "1", "2")),
        (("class 1", "class 2", "class 3"), FLOWERS),
        (("digit 0", "digit 1"), ("0", "1")),
        (("1", "2", "3"), ("0", "1", "2")),
        (("tench", "church"), ("n01440764", "n03028079")),
        (FLOWERS, ("0", "1", "2", "3")),
    ],
)
def test_names_that_agree_or_cannot_be_compared_stop_nobody(own: Sequence[str] | None, others: Sequence[str]) -> None:
    check_class_names(network(own), images(others))


@pytest.mark.parametrize(
    ("own", "others", "message"),
    [
        (
            FLOWERS,
            ("Rose", "TULIP", "poppy", "oak"),
            "has 3 classes, and folder:mine, split val, has 4: 'oak' only in fol",
        ),
        (
            ("rose", "elm", "oak", "fir", "ash", "tulip"),
            ("rose", "tulip"),
            "'elm', 'oak', 'fir' and 1 more only in the n",
        ),
        (
            ("rose", "elm"),
            ("rose", "oak", "fir"),
            "has 3: 'elm' only in the network; 'oak', 'fir' only in folder:mine. M",
        ),
        (("a", "b"), ("a", "b", "b"), "has 3: names stand there twice"),
    ],
)
def test_classes_that_only_one_has_are_named(own: Sequence[str], others: Sequence[str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        evaluate(network(own), images(others))


def test_splits_have_the_same_classes() -> None:
    train = images(FLOWERS, "train")
    check_splits(train, images(FLOWERS))
    for others, message in (
        (
            ("rose", "oak", "poppy"),
            "data.test_split: class 1 is 'tulip' in split train of folder:mine and 'oak' in spl",
        ),
        (("rose", "tulip"), "class 2 is 'poppy' in split train of folder:mine and missing in split val"),
    ):
        with pytest.raises(RecipeError, match=message):
            check_splits(train, images(others))


def test_images_of_one_class_are_told(caplog: pytest.LogCaptureFixture) -> None:
    def labelled(*labels: int) -> InMemoryDataset:
        images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
        return InMemoryDataset("two", "train", images, torch.tensor(labels), ("cat", "dog"))

    warn_of_one_class(labelled(0, 1, 1))
    assert not caplog.messages
    warn_of_one_class(labelled(1, 1, 1))
    assert "all 3 images of split train of two are of one class, 'dog'" in caplog.text


def test_classes_that_are_not_trained_on_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """As two folders whose names differ in case."""
    names, images = ("A", "a", "b"), torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    train = InMemoryDataset("mine", "train", images, torch.tensor([1, 1, 2, 2]), names)
    test = InMemoryDataset("mine", "val", images, torch.tensor([0, 0, 2, 2]), names)
    check_splits(train, test)
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning == (
        "split train of mine has no images of 'A', which split val has: the network cannot learn what it never sees"
    )
    caplog.clear()
    check_splits(train, train)
    assert not caplog.records


def test_numbers_in_another_order_are_other_classes(tmp_path: Path) -> None:
    for number in range(1, 13):
        folder = tmp_path / "numbers" / "val" / str(number)
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "a.png")
    dataset = open_dataset("folder:numbers", "val", roots=tmp_path)
    assert dataset.class_names[:3] == ("1", "10", "11")
    model = create_model("resnet20", width=4, num_classes=12)
    set_class_names(model, dataset.class_names)
    check_class_names(model, dataset)
    set_class_names(model, [str(number) for number in range(1, 13)])
    with pytest.raises(ArgumentError, match="class 1 is '2' for the network and '10' in folder:numbers"):
        check_class_names(model, dataset)


def test_objects_that_both_name_are_compared(tmp_path: Path) -> None:
    data = {}
    for split, names in {"tr": ("cat", "dog"), "te": ("dog", "cat"), "few": ("cat",)}.items():
        root = write_coco(tmp_path, split)
        path = root / "coco" / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        content["categories"] = [{"id": number, "name": name} for number, name in zip((1, 3), names, strict=False)]
        content["annotations"] = [item for item in content["annotations"] if item["category_id"] == 1]
        path.write_text(json.dumps(content))
        data[split] = open_dataset("coco", split, roots=tmp_path)
    model = nn.Linear(1, 1)
    set_class_names(model, data["tr"].class_names)
    check_class_names(model, data["tr"])
    check_class_names(model, data["few"])
    check_splits(data["tr"], data["few"])
    with pytest.raises(ArgumentError, match="class 1 is 'cat' for the network and 'dog' in coco, split te"):
        check_class_names(model, data["te"])
    with pytest.raises(RecipeError, match="class 1 is 'cat' in split tr of coco and 'dog' in split te"):
        check_splits(data["tr"], data["te"])
