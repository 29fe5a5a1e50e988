"""Training for bytes: the loop of all recipes, in which the network computes with the numbers of its file."""

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn

from tailcut.compression import RateLoss, measure_sensitivity
from tailcut.data import Dataset
from tailcut.errors import ArgumentError, DivergedError, RecipeError
from tailcut.runtime.distributed import broadcast_buffers
from tailcut.training.recipe.fields import check_unused
from tailcut.training.recipe.schema import PackSection, Recipe
from tailcut.training.recipe.sections import GENERATIVE, CompressionSection
from tailcut.training.setup.execution_mode import DENSE, Execution
from tailcut.training.setup.job import Job
from tailcut.training.trainer.base import Trainer
from tailcut.training.trainer.image_network import ImageNetwork

logger = logging.getLogger(__name__)

REMEASURED = (0.5, 0.7, 0.9)
"""Parts of the epochs after which the statistics of batch norm are measured again."""


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
        "training.cuda_graph": recipe.training.cuda_graph,
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


@final
class CompressionTrainer(Trainer):
    """One process of a training. `rate_loss` has the steps, and what the bytes cost.

    Each line of `metrics.jsonl` has the bytes of the file, as it would be then.
    """

    def __init__(self, job: Job) -> None:
        self.section = check_compression(job.recipe)
        self.network = ImageNetwork(job)
        self.rate_loss = make_rate_loss(job.recipe, self.section, self.network)
        optimizer = make_optimizer(job.recipe, self.section, self.rate_loss)
        data, model, teacher = self.network.data, self.network.model, self.network.teacher
        super().__init__(job, data, model, optimizer, {"compression": self.rate_loss}, teacher)

    def _choose_execution(self) -> Execution:
        return self.network.choose_execution()

    def _wrap(self, execution: Execution) -> nn.Module:
        return self.network.wrap(execution)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return self._image_batches()

    def _step(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        self.stepper.zero_grad()
        with self._rounded():
            cost: Tensor = self.rate_loss()
            loss = self.network.loss(self.module, images, targets, places, self._coarse_factor()) + cost
            self.fabric.backward(loss)
        self._update()
        return loss.detach()

    def _recalibrate(self, size: int, count: int) -> None:
        with self._rounded():
            self.network.recalibrate(self.execution or DENSE, size, count)

    def _evaluate(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        with self._rounded() if model is self.model else nullcontext():
            return self.network.evaluate(model, dataset)

    def _epoch_figures(self) -> dict[str, Any]:
        self._remeasure_if_due()
        target = self.rate_loss.target
        logger.info("%d bytes, goal %d; a byte is worth %.1e", target.num_bytes, target.goal, target.price)
        return {"num_bytes": round(target.num_bytes)}

    def _remeasure_if_due(self) -> None:
        """Measure the numbers that are not trained again (changes `rate_loss`) after some of the epochs."""
        epochs = self.recipe.training.epochs
        if (
            self.epoch < epochs
            and self.epoch in {math.ceil(part * epochs) for part in REMEASURED}
            and self.rate_loss.has_untrained
        ):
            broadcast_buffers(self.fabric, self.model)
            count, seed = self.section.num_gradients, self.recipe.training.seed
            inputs = self.network.gradient_inputs(count)
            with self._explaining_lost_numbers("not trained on"):
                self.rate_loss.remeasure(inputs, num_gradients=count, seed=seed)

    def _pack(self) -> None:
        count = self.section.num_gradients
        inputs = self.network.gradient_inputs(count)
        with self._explaining_lost_numbers("not packed"):
            self.rate_loss.save(self.run.model, inputs, num_gradients=count)

    @contextmanager
    def _rounded(self) -> Iterator[None]:
        """Give the network its rounded numbers within the block, as `RateLoss.rounded`.

        Raises:
            DivergedError: they have become 0.
        """
        with ExitStack() as block:
            with self._explaining_lost_numbers("not trained on"):
                block.enter_context(self.rate_loss.rounded())
            yield
            with self._explaining_lost_numbers("not trained on"):
                block.close()

    @contextmanager
    def _explaining_lost_numbers(self, outcome: str) -> Iterator[None]:
        """Convert errors of numbers that training has spoilt to one that says what is kept and what to do.

        Raises:
            DivergedError: in place of the error that came of them; it begins with `outcome`.
        """
        try:
            yield
        except ArgumentError as error:
            kept = f"The checkpoint after epoch {self.num_saved} is kept" if self.num_saved else "Nothing is saved"
            raise DivergedError(
                f"{outcome}: {error}. {kept}; train anew in another folder with a lower optimizer.lr or a larger "
                "compression.target_bytes"
            ) from error


def make_rate_loss(recipe: Recipe, section: CompressionSection, network: ImageNetwork) -> RateLoss:
    """Return the cost of the network's bytes, with its first steps.

    Raises:
        RecipeError: no step makes the file as small as the recipe asks.
    """
    count, seed = section.num_gradients, recipe.training.seed
    sensitivity = None  # of fresh numbers nothing can be measured
    if recipe.start is not None:
        inputs = network.gradient_inputs(count)
        sensitivity = measure_sensitivity(network.model, inputs, num_gradients=count, seed=seed)
    try:
        return RateLoss(
            network.model,
            target_bytes=section.target_bytes,
            num_steps=recipe.training.epochs * network.data.num_steps,
            start_bytes=section.start_bytes,
            sensitivity=sensitivity,
            seed=seed,
        )
    except ArgumentError as error:
        raise RecipeError(f"compression: {error}") from error


def make_optimizer(recipe: Recipe, section: CompressionSection, rate_loss: RateLoss) -> torch.optim.Optimizer:
    """Return the optimiser of the network and of the steps, which have a learning rate of their own."""
    optimizer = recipe.optimizer
    built = rate_loss.optimizer(
        torch.optim.AdamW if optimizer.name == "adamw" else torch.optim.Adam,
        lr=optimizer.lr,
        step_lr=section.step_lr,
        betas=optimizer.betas,
        weight_decay=optimizer.weight_decay,
    )
    built.param_groups[-1]["relative_lr"] = section.step_lr / optimizer.lr
    return built
