"""Entry point of every training: `train`."""

from collections.abc import Callable
from pathlib import Path

from tailcut.data import Roots
from tailcut.runs import Result
from tailcut.runtime.devices import Devices
from tailcut.training.recipe.schema import Recipe
from tailcut.training.setup.build import check_settings
from tailcut.training.setup.job import Job
from tailcut.training.trainer.base import Trainer
from tailcut.training.trainer.classification import ClassificationTrainer
from tailcut.training.trainer.compression import CompressionTrainer, check_compression
from tailcut.training.trainer.detection import DetectionTrainer, check_recipe, is_for_detector
from tailcut.training.trainer.gan import GanTrainer
from tailcut.training.trainer.launch import run_trainers


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    roots: Roots = None,
    devices: Devices | None = None,
    download: bool = False,
    progress: bool = False,
    command: str = "",
) -> Result:
    """Train a recipe's network, pack it, and evaluate the packed file on the test split.

    A recipe with a `detection` section is for a detector, the loss `gan` for a generator and its discriminator; with a
    `compression` section it trains for bytes. A recipe with stages is one training after another.

    With the same recipe, the same number of threads and one CPU the outcome is always the same, bit by bit,
    also if the run was killed at any moment and resumed.

    Args:
        recipe: what to train.
        out: the run folder.
        resume: continue from the newest checkpoint of that folder; start anew, with any recipe, if it has none.
        roots: data roots to try first.
        devices: where to run; one device when None.
        download: fetch the data set if it lies nowhere.
        progress: show a live bar on standard error, if that is a terminal.
        command: the command line, for the record.

    Returns:
        The result, as in `result.json`. On several processes each returns it.

    Raises:
        RecipeError: the recipe does not fit the network, the data, or the run that it shall resume.
        ArgumentError: the folder holds a run and `resume` is False, or a run without its recipe, or a finished one
            without checkpoints, or another training runs in it; or there are no such machines.
        DivergedError: the loss is no longer a number.
        TrainingError: somebody pressed Ctrl-C, or another process ended; the run can be resumed.
        KeyboardInterrupt: somebody pressed Ctrl-C twice in the same epoch; the run can be resumed.
        DataNotFoundError: the data set lies nowhere.
    """
    settings = {"roots": roots, "download": download, "progress": progress, "command": command}
    return run_trainers(trainer_of, recipe, out, resume=resume, devices=devices, **settings)


def trainer_of(recipe: Recipe) -> Callable[[Job], Trainer]:
    """Return the trainer class for a recipe.

    Raises:
        RecipeError: it is for a detector or trains for bytes, and asks for what these have no use for; or one of its
            settings has no effect, beside its others.
    """
    found = _trainer_of(recipe)
    check_settings(recipe)
    return found


def _trainer_of(recipe: Recipe) -> Callable[[Job], Trainer]:
    if recipe.compression is not None:
        check_compression(recipe)
        return CompressionTrainer
    if is_for_detector(recipe):
        check_recipe(recipe)
        return DetectionTrainer
    return GanTrainer if recipe.training.loss == "gan" else ClassificationTrainer
