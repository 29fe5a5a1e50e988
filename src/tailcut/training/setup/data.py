"""The images of a training: those to learn from, those held out, and those of the test."""

from dataclasses import dataclass

from tailcut.data import Dataset, open_dataset
from tailcut.errors import ArgumentError, RecipeError
from tailcut.evaluation.class_check import check_splits, warn_of_one_class
from tailcut.evaluation.stored_inputs import read_as
from tailcut.training.recipe.sections import GENERATIVE
from tailcut.training.setup.build import check_data, hold_out
from tailcut.training.setup.initial_network import input_transform
from tailcut.training.setup.job import Job


@dataclass(frozen=True)
class TrainingData:
    """The images of a training.

    Attributes:
        train: those to learn from.
        held_out: those held out for validation; None without hold-out.
        test: those of the final figures.
        num_steps: optimiser steps in each epoch.
    """

    train: Dataset
    held_out: Dataset | None
    test: Dataset
    num_steps: int

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images in each split."""
        return {"train": len(self.train), "validation": len(self.held_out or ()), "test": len(self.test)}


def open_data(job: Job) -> TrainingData:
    """Open the data sets of a recipe.

    Raises:
        RecipeError: the splits have other classes, or the batches do not fit the images or the processes.
        DataNotFoundError: the data set lies nowhere.
        DataError: test images differ in size.
    """
    section = job.recipe.data
    transform = None if section.source == "pixels" else input_transform(job)

    def opened(split: str | None) -> Dataset:
        dataset = open_dataset(section.name, split, roots=job.roots, download=job.download)
        try:
            return read_as(section.source, dataset, transform)
        except ArgumentError as error:
            raise RecipeError(f"data.source: {error}") from error

    everything, test = opened(section.train_split), opened(section.test_split)
    check_splits(everything, test)
    if section.batch_size > 1:
        test.check_sizes()  # which are else read when the training has ended
    if job.recipe.training.loss not in GENERATIVE:
        warn_of_one_class(everything)
    train, held_out = hold_out(job.recipe, everything)
    return TrainingData(train, held_out, test, check_data(job.recipe, train, job.fabric.world_size))
