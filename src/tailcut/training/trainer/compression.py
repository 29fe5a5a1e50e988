"""Training for bytes: the loop of all recipes, in which the network computes with the numbers of its file."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tailcut.compression import RateLoss, measure_sensitivity
from tailcut.compression.fisher import GRADIENT_BATCH
from tailcut.errors import ArgumentError, DivergedError, RecipeError
from tailcut.evaluation.evaluate import uses_batch_statistics
from tailcut.evaluation.random_batches import network_inputs
from tailcut.format.sensitivity import Sensitivity
from tailcut.runtime.progress import Progress
from tailcut.runtime.signals import Interruption
from tailcut.training.recipe.fields import check_unused
from tailcut.training.recipe.schema import PackSection, Recipe
from tailcut.training.recipe.sections import GENERATIVE, CompressionSection
from tailcut.training.trainer.base import Trainer

logger = logging.getLogger("tailcut.training")


def check_compression(recipe: Recipe) -> CompressionSection:
    """Check a recipe that trains for bytes, and give its `compression` section.

    Raises:
        RecipeError: there is none, or the recipe asks for what training for bytes has no use for.
    """
    section = recipe.compression
    if section is None:
        raise RecipeError("compression: training for bytes needs a [compression] section")
    useless = {
        "schedule": recipe.schedule is not None,
        "detection": recipe.detection is not None,
        "training.loss": recipe.training.loss in GENERATIVE,
        "training.round_from": recipe.training.round_from is not None,
        "regularization.num_drawn": recipe.regularization is not None and recipe.regularization.num_drawn is not None,
        "optimizer.ema_decay": recipe.optimizer.ema_decay is not None,
        "pack": recipe.pack != PackSection(),
    }
    instead = {
        "schedule": "; tails that the bytes empty are cut at the end",
        "training.round_from": "; numbers are rounded from the start",
        "pack": "; its file is quantised",
    }
    check_unused(useless, of="training for bytes", instead=instead)
    if recipe.optimizer.name == "sgd":
        raise RecipeError("optimizer.name: training for bytes takes learning rates in steps; choose adam or adamw")
    if not recipe.training.epochs:
        raise RecipeError("training.epochs: training for bytes needs at least one; `tailcut compress` does without")
    return section


class CompressionTrainer(Trainer):
    """One process of a training. `rate` has the steps, and what the bytes cost.

    Each line of `metrics.jsonl` has the bytes of the file, as it would be then.
    """

    rate: RateLoss

    def _build_optimizer(self) -> torch.optim.Optimizer:
        recipe, section = self.recipe, check_compression(self.recipe)
        optimizer = recipe.optimizer
        try:
            self.rate = RateLoss(
                self.model,
                target_bytes=section.target_bytes,
                num_steps=recipe.training.epochs * self.num_steps,
                start_bytes=section.start_bytes,
                # Of fresh numbers nothing can be measured.
                sensitivity=None if recipe.start is None else self._sensitivity(section.num_gradients),
                seed=recipe.training.seed,
            )
        except ArgumentError as error:
            raise RecipeError(f"compression: {error}") from error
        built = self.rate.optimizer(
            torch.optim.AdamW if optimizer.name == "adamw" else torch.optim.Adam,
            lr=optimizer.lr,
            step_lr=section.step_lr,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
        )
        built.param_groups[-1]["relative_lr"] = section.step_lr / optimizer.lr
        return built

    def _sensitivity(self, num_gradients: int) -> Sensitivity:
        return measure_sensitivity(
            self.model, self._inputs(num_gradients), num_gradients=num_gradients, seed=self.recipe.training.seed
        )

    def _inputs(self, count: int) -> list[Tensor]:
        size = 1 if uses_batch_statistics(self.model) else GRADIENT_BATCH
        return list(network_inputs(self.model, self.train_data, size, count, self.recipe.training.seed))

    def _train_epoch(self, bar: Progress, interruption: Interruption) -> float:
        """Train one epoch. Returns its mean loss."""
        loss = super()._train_epoch(bar, interruption)
        target = self.rate.target
        logger.info("%d bytes, goal %d; a byte is worth %.1e", target.num_bytes, target.goal, target.price)
        return loss

    def _gradients(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        with self.rate.rounded():
            return super()._gradients(images, targets, places)

    def _loss(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        cost: Tensor = self.rate()
        return super()._loss(images, targets, places) + cost

    def _validate(self) -> tuple[str, dict[str, float]]:
        with self._as_in_file():
            return super()._validate()

    def _measure_norms_again(self) -> None:
        with self._as_in_file():
            super()._measure_norms_again()

    def _as_in_file(self) -> AbstractContextManager[None]:
        return nullcontext() if self.rate.is_rounded else self.rate.rounded()

    def _save(self) -> None:
        self.lines[-1]["num_bytes"] = round(self.rate.target.num_bytes)
        super()._save()

    def _state(self, states: dict[str, Tensor]) -> dict[str, Any]:
        return {**super()._state(states), "compression": self.rate.state_dict()}

    def _apply(self, state: dict[str, Any]) -> None:
        super()._apply(state)
        self.rate.load_state_dict(state["compression"])

    def _pack(self) -> None:
        count = check_compression(self.recipe).num_gradients
        try:
            self.rate.save(self.run.model, self._inputs(count), num_gradients=count)
        except ArgumentError as error:
            raise DivergedError(
                f"not packed: {error}. The checkpoint is kept; train anew in another folder with a lower optimizer.lr "
                "or more bytes"
            ) from error
