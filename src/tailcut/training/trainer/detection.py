"""Trainer for detectors: the common loop, with images and objects in place of batches of classes or masks.

The paper's recipe (section 4.3): 20 epochs at a learning rate of 0.0025, divided by 10 after 16 and 19; the rest as
in MMDetection: SGD with momentum 0.9 and weight decay 1e-4, two images a step, mirrored with probability 0.5,
gradients clipped at norm 35, batch norm frozen.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from tailcut.channels import recalibrate
from tailcut.data import CocoDataset, Dataset
from tailcut.errors import ArgumentError, RecipeError, TailcutError
from tailcut.evaluation.detection import check_pycocotools, evaluate_detector, images_in_order
from tailcut.evaluation.random_batches import random_batches
from tailcut.format import load
from tailcut.inputs.detection.detectors import Detector
from tailcut.runs import packed_network
from tailcut.runtime.distributed import share_of
from tailcut.structure import family, model_names
from tailcut.training.batches import TrainingBatches, generator, steps_of
from tailcut.training.recipe.fields import check_unused
from tailcut.training.recipe.schema import DetectionSection, Recipe
from tailcut.training.recipe.sections import AugmentationSection
from tailcut.training.result import save_trained
from tailcut.training.setup.build import build_model, build_optimizer, note_data, seed_parameters
from tailcut.training.setup.data import TrainingData, open_data
from tailcut.training.setup.execution_mode import DENSE, Execution
from tailcut.training.setup.job import Job
from tailcut.training.trainer.base import Trainer
from tailcut.training.trainer.detection_batches import Example, ExampleBatches, ImageNumbers
from tailcut.weights import to_dense

logger = logging.getLogger(__name__)


def is_for_detector(recipe: Recipe) -> bool:
    """Return whether a recipe has a `detection` section, or a detector as its model."""
    return recipe.detection is not None or (recipe.model.name in model_names() and _is_detector(recipe))


def _is_detector(recipe: Recipe) -> bool:
    build = family(recipe.model.name).build
    return isinstance(build, type) and issubclass(build, Detector)


def check_recipe(recipe: Recipe) -> DetectionSection:
    """Return the `detection` section of a recipe.

    Raises:
        RecipeError: there is none, or the recipe asks for what detectors have no use for.
    """
    section, training = recipe.detection, recipe.training
    if section is None:
        raise RecipeError("detection: a recipe for a detector needs a [detection] section (it may be empty)")
    try:
        is_detector = _is_detector(recipe)
    except ArgumentError as error:
        raise RecipeError(f"model: {error}") from error
    if not is_detector:
        raise RecipeError(f"model.name: {recipe.model.name} is no detector; known are faster_rcnn, mask_rcnn")
    useless = {
        "start": recipe.start is not None,
        "inputs": recipe.inputs is not None,
        "pruning": recipe.pruning is not None,
        "data.augmentation": recipe.data.augmentation != AugmentationSection(),
        "data.coarse": recipe.data.coarse is not None,
        "distillation": recipe.distillation is not None,
        "training.loss": training.loss != "cross_entropy",
        "training.label_smoothing": training.label_smoothing != 0,
        "training.channels_last": training.channels_last,
        "training.cuda_graph": training.cuda_graph,
    }
    instead = {
        "start": "; its backbone starts from detection.backbone",
        "inputs": "; model.arguments says what it reads",
        "data.augmentation": "; its images are mirrored by detection.flip",
    }
    check_unused(useless, of="a detector", instead=instead)
    if training.precision != "fp32":
        raise RecipeError("training.precision: a detector trains in fp32; 16 bits round its boxes, which are in pixels")
    if recipe.regularization is not None and training.execution != "dense":
        raise RecipeError("training.execution: a regularised detector trains with dense weights; choose 'dense'")
    if section.backbone is None:
        arguments = recipe.model.arguments
        if arguments.get("frozen_stages"):
            raise RecipeError("model.arguments.frozen_stages: random weights would stay; give detection.backbone")
        if arguments.get("norm", "frozen") == "frozen":
            raise RecipeError(
                "model.arguments.norm: frozen batch norm is of use behind a trained backbone only; give "
                "detection.backbone, or norm = 'batch' to train from scratch"
            )
    return section


class _ByNumber(nn.Module):
    """A detector that takes numbers of images, which have no common size and so make no batch."""

    def __init__(self, detector: Detector, images: CocoDataset) -> None:
        super().__init__()
        self.detector, self.images = detector, images

    def forward(self, numbers: Tensor) -> object:
        """Return the detector's outputs for the images with these indices, int64 (batch,)."""
        return self.detector([self.images.image(number).to(numbers.device) for number in numbers.tolist()])


@final
class DetectionTrainer(Trainer):
    """One process of a training. The loop counts images by number; `examples` are those of a step."""

    def __init__(self, job: Job) -> None:
        recipe, device = job.recipe, job.fabric.device
        self.section = check_recipe(recipe)
        data = open_data(job)
        seed_parameters(recipe)
        self.detector = cast(Detector, build_model(recipe).to(device))
        self.images = check_objects(self.detector, data)
        if not job.run.has_checkpoint():  # which would have all of it
            begin(self.detector, self.section, self.images, job)
        note_data(recipe, self.detector, data.train)
        optimizer = build_optimizer(recipe.optimizer, self.detector)
        self.examples: list[Example] = []  # of the current step
        super().__init__(job, replace(data, train=ImageNumbers(data.train)), self.detector, optimizer)

    def _choose_execution(self) -> Execution:
        return DENSE

    def _wrap(self, execution: Execution) -> nn.Module:
        return self.fabric.setup_module(self.model, move_to_device=False)

    def _step(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Run forward, backward, and a step of the optimiser. `images` are numbers. Return the loss, a scalar."""
        device = self.fabric.device
        inputs = [image.to(device) for image, _ in self.examples]
        objects = [{name: value.to(device) for name, value in target.items()} for _, target in self.examples]
        self.stepper.zero_grad()
        losses = self.module(inputs, objects)
        loss = torch.stack(list(losses.values())).sum()
        self.fabric.backward(loss)
        self._update()
        for name, value in losses.items():
            self.loss_parts[name] += value.item()
        return loss.detach()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the numbers of images; `examples` are those of the step, read ahead by workers."""
        recipe, rank, num_processes = self.recipe, self.fabric.global_rank, self.fabric.world_size
        fixed = (recipe.data.batch_size, recipe.training.seed, AugmentationSection(), 1, rank, num_processes)
        numbers = TrainingBatches(self.data.train, *fixed)
        made = ExampleBatches(self.images, numbers, self.detector.has_masks, self.section.flip)
        steps = steps_of(self.epoch, self.data.num_steps)
        for step, found in zip(steps, self.workers.items(made, steps), strict=True):
            self.examples = found
            yield numbers[step]

    def _recalibrate(self, size: int, count: int) -> None:
        numbers = random_batches(self.data.train, size, count, self.recipe.training.seed)
        recalibrate(_ByNumber(self.detector, self.images), numbers, num_batches=count)

    def _evaluate(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        return evaluate_detector(model, check_boxes(self.detector, dataset), share=share_of(self.fabric))

    def _epoch_figures(self) -> dict[str, Any]:
        return {}

    def _pack(self) -> None:
        save_trained(self.model, self.run.model, self.run, self.recipe.pack)


def check_boxes(detector: Detector, dataset: Dataset) -> CocoDataset:
    """Return the data set as one of boxes, of categories that the detector has.

    Raises:
        RecipeError: it has no boxes, or more categories.
    """
    if not isinstance(dataset, CocoDataset):
        raise RecipeError(f"data.name: a detector learns from boxes of objects, which {dataset.name} has not; use coco")
    if dataset.num_classes > detector.num_classes:
        raise RecipeError(
            f"model.arguments.num_classes: must be at least {dataset.num_classes}, the highest category number of "
            f"{dataset.name} plus one, got {detector.num_classes}"
        )
    return dataset


def check_objects(detector: Detector, data: TrainingData) -> CocoDataset:
    """Return the training images of a detector; those that it is measured by must have objects.

    Raises:
        RecipeError: see `check_boxes`; or there is nothing to measure it by.
        MissingExtraError: pycocotools, which measures it, is not installed.
    """
    check_pycocotools()
    for dataset in (data.test, data.held_out):
        if dataset is not None and not check_boxes(detector, dataset).has_objects:
            raise RecipeError(f"data: {dataset.name}, split {dataset.split}, has no objects to measure a detector by")
    return check_boxes(detector, data.train)


def begin(detector: Detector, section: DetectionSection, images: CocoDataset, job: Job) -> None:
    """Take the backbone's weights over, or else measure the channels (changes the detector).

    Raises:
        RecipeError: the backbone cannot be loaded, or does not fit.
    """
    if section.backbone is not None:
        try:
            source = packed_network(section.backbone, beside=job.run)
            detector.load_backbone(to_dense(load(source, device=str(job.fabric.device))))
        except (TailcutError, OSError) as error:
            raise RecipeError(f"detection.backbone: {error}") from error
    elif detector.transform.dct is not None:
        order = torch.randperm(len(images), generator=generator(job.recipe.training.seed))
        chosen = order[: section.statistics_images].tolist()
        detector.fit(images_in_order(images, chosen))
        logger.info("measured the mean and spread of the channels on %d images", len(chosen))
