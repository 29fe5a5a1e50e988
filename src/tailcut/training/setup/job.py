"""The request for a training, as each of its processes gets it."""

from dataclasses import dataclass

from tailcut.data import Roots
from tailcut.errors import MissingExtraError
from tailcut.runs import Run
from tailcut.training.recipe.schema import Recipe

try:
    from lightning_fabric import Fabric as Fabric
except ImportError as error:
    raise MissingExtraError("training", "lightning-fabric", "train") from error


@dataclass(frozen=True)
class Job:
    """The request for a training, as each of its processes gets it.

    Attributes:
        recipe: what to train.
        run: the run folder.
        fabric: the engine, launched.
        roots: data roots to try first.
        download: fetch the data set if it lies nowhere.
    """

    recipe: Recipe
    run: Run
    fabric: Fabric
    roots: Roots = None
    download: bool = False
