"""Trainer for detectors: the common loop, with images and objects in place of batches of classes or masks.

The paper's recipe (section 4.3): 20 epochs at a learning rate of 0.0025, divided by 10 after 16 and 19; the rest as
in MMDetection: SGD with momentum 0.9 and weight decay 1e-4, two images a step, mirrored with probability 0.5,
gradients clipped at norm 35, batch norm frozen.
"""

import logging
from collections import Counter
from typing import cast

import torch
from torch import Tensor, nn

from tailcut.channels import recalibrate
from tailcut.data import CocoDataset, Dataset, Roots
from tailcut.errors import ArgumentError, MissingExtraError, RecipeError, TailcutError
from tailcut.evaluation.detection import evaluate_detector
from tailcut.evaluation.random_batches import random_batches
from tailcut.format import load
from tailcut.inputs.detection.detectors import Detector
from tailcut.runs import Run, packed_network
from tailcut.runtime.distributed import share_of
from tailcut.runtime.progress import Progress
from tailcut.runtime.signals import Interruption
from tailcut.structure import family, model_names
from tailcut.training.batches import generator
from tailcut.training.ema import MovingAverage
from tailcut.training.recipe.fields import check_unused
from tailcut.training.recipe.schema import DetectionSection, Recipe
from tailcut.training.recipe.sections import AugmentationSection
from tailcut.training.trainer.base import Trainer
from tailcut.training.trainer.detection_batches import Example, ImageNumbers, is_mirrored, training_example
from tailcut.weights import to_dense

try:
    from lightning_fabric import Fabric
except ImportError as error:
    raise MissingExtraError("training", "lightning-fabric", "train") from error

logger = logging.getLogger("tailcut.training")


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
    }
    instead = {
        "start": "; its backbone starts from detection.backbone",
        "inputs": "; model.arguments says what it reads",
        "data.augmentation": "; its images are mirrored by detection.flip",
    }
    check_unused(useless, of="a detector", instead=instead)
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


class DetectionTrainer(Trainer):
    """One process of a training. The loop counts images by number; `_step` reads them."""

    def __init__(self, recipe: Recipe, run: Run, fabric: Fabric, *, roots: Roots, download: bool) -> None:
        self.section = check_recipe(recipe)
        super().__init__(recipe, run, fabric, roots=roots, download=download)
        self.detector = cast(Detector, self.model)
        self.images = self._checked(self.train_data)
        for dataset in (self.test_data, self.held_out):
            if dataset is not None and not self._checked(dataset).has_objects:
                raise RecipeError(
                    f"data: {dataset.name}, split {dataset.split}, has no objects to measure a detector by"
                )
        self.train_data = ImageNumbers(self.train_data)
        self.losses: Counter[str] = Counter()
        if self.epoch == 0:
            self._begin()

    def _checked(self, dataset: Dataset) -> CocoDataset:
        if not isinstance(dataset, CocoDataset):
            raise RecipeError(
                f"data.name: a detector learns from boxes of objects, which {dataset.name} has not; use coco"
            )
        if dataset.num_classes > self.detector.num_classes:
            raise RecipeError(
                f"model.arguments.num_classes: must be at least {dataset.num_classes}, the highest category number of "
                f"{dataset.name} plus one, got {self.detector.num_classes}"
            )
        return dataset

    def _begin(self) -> None:
        """Take the backbone's weights over, or else measure the channels (changes the model)."""
        recipe, section = self.recipe, self.section
        if section.backbone is not None:
            try:
                source = packed_network(section.backbone, beside=self.run)
                self.detector.load_backbone(to_dense(load(source, device=str(self.fabric.device))))
            except (TailcutError, OSError) as error:
                raise RecipeError(f"detection.backbone: {error}") from error
        elif self.detector.transform.dct is not None:
            order = torch.randperm(len(self.images), generator=generator(recipe.training.seed))
            chosen = order[: section.statistics_images].tolist()
            self.detector.fit(self.images.image(index) for index in chosen)
            logger.info("measured the mean and spread of the channels on %d images", len(chosen))
        if self.average is not None and recipe.optimizer.ema_decay is not None:
            self.average = MovingAverage(self.model, recipe.optimizer.ema_decay)

    def _train_epoch(self, bar: Progress, interruption: Interruption) -> float:
        """Train one epoch, and log what the loss is made of. Returns its mean loss."""
        self.losses.clear()
        loss = super()._train_epoch(bar, interruption)
        parts = [f"{name} {value / self.num_steps:.4f}" for name, value in sorted(self.losses.items())]
        logger.info("epoch %d of this process: %s", self.epoch + 1, ", ".join(parts))
        return loss

    def _step(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Forward, backward, and one step of the optimiser. `images` are numbers. Returns the loss, a scalar."""
        examples = [self._example(index) for index in images.tolist()]
        losses = self.module([image for image, _ in examples], [target for _, target in examples])
        loss = torch.stack(list(losses.values())).sum()
        self.stepper.zero_grad()
        self.fabric.backward(loss)
        limit = self.recipe.optimizer.clip_norm
        if limit is not None:
            self.fabric.clip_gradients(self.module, self.stepper, max_norm=limit, error_if_nonfinite=False)
        self.stepper.step()
        self.losses.update({name: value.item() for name, value in losses.items()})
        return loss.detach()

    def _example(self, index: int) -> Example:
        """Return one training image with its objects, on the device, flipped or not."""
        seed, device = self.recipe.training.seed, self.fabric.device
        mirrored = is_mirrored(self.section.flip, seed=seed, epoch=self.epoch, index=index)
        image, target = training_example(self.images, index, masks=self.detector.has_masks, mirrored=mirrored)
        return image.to(device), {name: value.to(device) for name, value in target.items()}

    def _recalibrate(self, size: int, count: int) -> None:
        """Measure the statistics on `count` batches of `size` images; frozen batch norm has none to measure."""
        numbers = random_batches(self.train_data, size, count, self.recipe.training.seed)
        recalibrate(_ByNumber(self.detector, self.images), numbers, count)

    def _evaluate(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        return evaluate_detector(model, self._checked(dataset), share=share_of(self.fabric))
