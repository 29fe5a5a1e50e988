"""Which of the trainings a recipe is for."""

from collections.abc import Callable

from tailcut.runs import Result
from tailcut.training import loop
from tailcut.training.detection import train_detector
from tailcut.training.gan import train_gan
from tailcut.training.recipe import Recipe


def trainer_of(recipe: Recipe) -> Callable[..., Result]:
    """The function that trains a recipe, with the arguments of `loop.train`.

    `train_detector` for a recipe with a `detection` section, `train_gan` for the loss `gan`, else `loop.train`.
    """
    if recipe.detection is not None:
        return train_detector
    return train_gan if recipe.training.loss == "gan" else loop.train
