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
        record: the recipe as the result records it; other than `recipe` where that is its last training.
        earlier_epochs: those of the stages before it.
        earlier_seconds: those of the stages before it.
    """

    recipe: Recipe
    run: Run
    fabric: Fabric
    roots: Roots = None
    download: bool = False
    record: Recipe | None = None
    earlier_epochs: int = 0
    earlier_seconds: float = 0.0
