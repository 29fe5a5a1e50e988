"""A network of images in training: built, with its data, its loss and its metrics.

For networks with classes or masks as targets, and for a VAE, whose targets are its images.
"""

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn

from tailcut.channels import recalibrate
from tailcut.data import Dataset
from tailcut.evaluation.evaluate import check_outputs, evaluate, fitting, runnable
from tailcut.evaluation.generation import evaluate_generator
from tailcut.evaluation.gradient_inputs import gradient_inputs
from tailcut.evaluation.metrics.elbo import negative_elbo
from tailcut.evaluation.pixel_inputs import gate_penalty, reader_of
from tailcut.evaluation.random_batches import network_inputs
from tailcut.runtime.distributed import share_of
from tailcut.training.distillation import Teacher
from tailcut.training.losses import total_loss
from tailcut.training.recipe.sections import AugmentationSection, GenerationSection
from tailcut.training.result import check_packable
from tailcut.training.setup.build import build_model, load_teacher, note_data, seed_parameters
from tailcut.training.setup.data import TrainingData, open_data
from tailcut.training.setup.execution_mode import Execution, choose_execution, example_batch, trained_as
from tailcut.training.setup.initial_network import initial_network
from tailcut.training.setup.initialization import standardize_start
from tailcut.training.setup.job import Job


@final
class ImageNetwork:
    """The network of a job, with what its training and its evaluation need.

    Attributes:
        data: the images.
        model: the network, on its device, with its initial parameters.
        read: gives the network's inputs of the images.
        teacher: of a distillation.
    """

    def __init__(self, job: Job) -> None:
        self.recipe, self.fabric = job.recipe, job.fabric
        self.data = open_data(job)
        seed_parameters(job.recipe)
        start = initial_network(job, self.data.train)
        if start is not None:
            seed_parameters(job.recipe)  # the same numbers follow whether this process made the start now or not
        self.model = build_model(job.recipe, start).to(job.fabric.device)
        standardize_start(job.recipe, self.model, self.data.train)
        note_data(job.recipe, self.model, self.data.train)
        self.read = reader_of(self.model, self.data.train)
        if job.recipe.training.loss != "vae":
            runnable(self.model, job.fabric.device)  # what it refuses would else end the run after its first epoch
        check_packable(self.model, job.recipe)
        self.teacher = make_teacher(job, self.data)

    def choose_execution(self) -> Execution:
        """Choose the execution mode of the network as it is now."""
        fabric, shape = self.fabric, self.data.train.image_shape
        images = example_batch(self.recipe, shape, fabric.world_size, fabric.device)
        return choose_execution(self.recipe, self.model, reader_of(self.model)(images))

    def wrap(self, execution: Execution) -> nn.Module:
        """Return the network in the form in which it trains, wrapped by Fabric."""
        return self.fabric.setup_module(trained_as(execution, self.model), move_to_device=False)

    def loss(self, module: nn.Module, images: Tensor, targets: Tensor, places: Tensor, coarse: int) -> Tensor:
        """Return the loss of the wrapped network for a batch as in `Trainer._step`, a scalar.

        The images are `coarse` times smaller than the data set's.
        """
        recipe = self.recipe
        with fitting(images, "" if coarse == 1 else f" ({coarse} times smaller by data.coarse)"):
            outputs = module(self.read(images))
        if recipe.training.loss == "vae":
            loss = negative_elbo(outputs, images).mean()
        else:
            check_outputs(outputs, self.data.train)
            taught = None if self.teacher is None else self.teacher(images, places)
            loss = total_loss(outputs, targets, recipe.training, recipe.distillation, taught)
        if recipe.inputs is not None and recipe.inputs.gate:
            penalty = gate_penalty(self.model, recipe.inputs.gate_strength)
            loss = loss if penalty is None else loss + penalty
        return loss

    def recalibrate(self, execution: Execution, size: int, count: int) -> None:
        """Measure batch norm's statistics on `count` batches of `size` inputs (changes the model)."""
        recalibrate(trained_as(execution, self.model), self.inputs(size, count), num_batches=count)

    def inputs(self, size: int, count: int) -> Iterator[Tensor]:
        """Yield `count` batches of `size` training images as the network reads them."""
        return network_inputs(self.model, self.data.train, size, count, self.recipe.training.seed)

    def gradient_inputs(self, count: int) -> list[Tensor]:
        """Return batches of training images for `count` gradients of the network."""
        return gradient_inputs(self.model, self.data.train, count, self.recipe.training.seed)

    def evaluate(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        """Return the metrics of this network, or of one that was packed, on a data set."""
        share = share_of(self.fabric)
        if self.recipe.training.loss == "vae":
            section = self.recipe.generation or GenerationSection()
            return evaluate_generator(model, dataset, num_samples=section.num_samples, share=share)
        is_final = model is not self.model and dataset is self.data.test
        return evaluate(model, dataset, share=share, warn=is_final)


def make_teacher(job: Job, data: TrainingData) -> Teacher | None:
    """Return the teacher that the recipe asks for, or None.

    Raises:
        RecipeError: it cannot be loaded, or has other classes.
    """
    recipe, fabric = job.recipe, job.fabric
    network = load_teacher(recipe, fabric.device, roots=job.roots, beside=job.run)
    if network is None:
        return None
    is_plain = recipe.data.augmentation == AugmentationSection() and recipe.data.coarse is None
    memory_format = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
    # Fabric sets the precision of the network that it wraps alone.
    return Teacher(network, fabric.autocast, fabric.device, memory_format, data.train, unchanged=is_plain)
