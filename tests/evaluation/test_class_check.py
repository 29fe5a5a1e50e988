from collections.abc import Sequence

import pytest
import torch

from tailcut.data import InMemoryDataset
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
        (FLOWERS, (*FLOWERS, "oak")),
    ],
)
def test_names_that_agree_or_cannot_be_compared_stop_nobody(own: Sequence[str] | None, others: Sequence[str]) -> None:
    check_class_names(network(own), images(others))


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
