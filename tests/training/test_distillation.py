"""A teacher says the same whether it is asked once or in every step, and as seldom as it can."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from tailcut.data import Dataset, open_dataset
from tailcut.errors import ArgumentError, RecipeError
from tailcut.structure import create_model, set_class_names
from tailcut.training import distillation
from tailcut.training.distillation import Teacher

DIGITS = open_dataset("digits", "test")


class Counting(nn.Module):
    """A network that counts the images that it was asked about."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        outputs: Tensor = self.network(x)
        return outputs


def counting(network: nn.Module | None = None) -> Counting:
    torch.manual_seed(0)
    return Counting(create_model("lenet5") if network is None else network).eval()


def teacher(network: nn.Module, images: Dataset = DIGITS, *, unchanged: bool = True) -> Teacher:
    return Teacher(network, nullcontext, torch.device("cpu"), torch.channels_last, images, unchanged=unchanged)


def test_images_that_stay_as_they_are_are_asked_about_once() -> None:
    network = counting()
    once, always = teacher(network, unchanged=True), teacher(network, unchanged=False)
    for places in (torch.tensor([5, 0, 354]), torch.tensor([7]), torch.arange(355).flip(0)):
        images, _ = DIGITS.batch(places)
        before = network.images
        expected = always(images, places)
        assert network.images == before + len(places)
        torch.testing.assert_close(once(images, places), expected)
    assert network.images == len(DIGITS) + 3 + 1 + 355
    images, _ = DIGITS.batch(range(4))
    with pytest.raises(IndexError):
        once(images, torch.tensor([len(DIGITS)]))


def test_large_answers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "MAX_NUMBERS", 10 * len(DIGITS) - 1)
    network = counting()
    asked = teacher(network, unchanged=True)
    places = torch.arange(10)
    images, _ = DIGITS.batch(places)
    for times in (1, 2):
        torch.testing.assert_close(asked(images, places), network.network(images))
        assert network.images == distillation.BATCH_SIZE + 10 * times


def test_a_teacher_of_other_classes_is_refused() -> None:
    network = create_model("lenet5")
    set_class_names(network, [f"word {letter}" for letter in "abcdefghij"])
    digits = open_dataset("digits", "train")
    teacher(network, digits)  # digits are named by numbers, which say nothing
    digits.class_names = tuple(f"word {letter}" for letter in "bacdefghij")
    with pytest.raises(RecipeError, match=r"distillation.teacher: class 0 is 'word a' for the network and 'word b'"):
        teacher(network, digits)


def test_images_that_the_teacher_cannot_take() -> None:
    for unchanged in (False, True):
        asked = teacher(create_model("resnet20"), unchanged=unchanged)
        with pytest.raises(ArgumentError, match=r"cannot take images of shape .* \(distillation.teacher\): .*channels"):
            asked(*DIGITS.batch(range(2)))
