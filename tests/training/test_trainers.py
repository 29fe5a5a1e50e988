from collections.abc import Callable

import pytest

from tailcut.runs import Result
from tailcut.training.detection import train_detector
from tailcut.training.gan import train_gan
from tailcut.training.loop import train
from tailcut.training.recipe_files import load_recipe
from tailcut.training.trainers import trainer_of


@pytest.mark.parametrize(
    ("name", "trainer"),
    [("lenet5-776", train), ("vae-ref", train), ("gan-ref", train_gan), ("faster-rcnn-rgb", train_detector)],
)
def test_each_recipe_has_its_trainer(name: str, trainer: Callable[..., Result]) -> None:
    assert trainer_of(load_recipe(name)) is trainer
