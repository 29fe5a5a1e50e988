"""Trainer for networks with classes or masks as targets, and for a VAE."""

import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, final

from torch import Tensor, nn

from tailcut.compression.post_training.compress import usual_gradients
from tailcut.data import Dataset
from tailcut.format.network.levels import LEVEL_INPUTS
from tailcut.training.result import save_trained
from tailcut.training.setup.build import build_optimizer
from tailcut.training.setup.execution_mode import DENSE, Execution
from tailcut.training.setup.job import Job
from tailcut.training.trainer.base import Trainer
from tailcut.training.trainer.cuda_graph import RecordedGradients
from tailcut.training.trainer.image_network import ImageNetwork
from tailcut.weights import NestedLevels

logger = logging.getLogger(__name__)


@final
class ClassificationTrainer(Trainer):
    """One process of a training for classes, masks, or the loss of a VAE."""

    def __init__(self, job: Job) -> None:
        self.network = ImageNetwork(job)
        model = self.network.model
        optimizer, levels, seed = job.recipe.optimizer, job.recipe.pack.levels, job.recipe.training.seed
        # Each process draws the same level, so that gradients are of the same network.
        self.nested = NestedLevels(model, levels, seed=seed) if levels else None
        stateful = {} if self.nested is None else {"levels": self.nested}
        self.recorded = self._make_recorded(job)
        built, teacher = build_optimizer(optimizer, model), self.network.teacher
        super().__init__(job, self.network.data, model, built, stateful, teacher)

    def _choose_execution(self) -> Execution:
        return self.network.choose_execution()

    def _wrap(self, execution: Execution) -> nn.Module:
        if self.recorded is not None:
            self.recorded.forget()  # what it recorded is of the network as it was
        return self.network.wrap(execution)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return self._image_batches()

    def _step(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        if self.recorded is None:
            self.stepper.zero_grad()
            with nullcontext() if self.nested is None else self.nested.drawn():
                loss = self._gradients(images, targets, places)
        else:
            loss = self.recorded(images, targets, places, state=self.is_rounding)
        self._update()
        return loss

    def _gradients(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Add the gradients of a batch to those of the parameters. Return its loss, a scalar."""
        loss = self.network.loss(self.module, images, targets, places, self._coarse_factor())
        self.fabric.backward(loss)
        return loss.detach()

    def _make_recorded(self, job: Job) -> RecordedGradients | None:
        """Return what replays steps as a CUDA graph, if the recipe asks for it and the device can."""
        device = job.fabric.device
        if not job.recipe.training.cuda_graph or device.type != "cuda":
            return None
        if job.fabric.world_size > 1:
            logger.warning("training.cuda_graph has no effect where several processes train")
            return None
        parameters = [parameter for parameter in self.network.model.parameters() if parameter.requires_grad]
        return RecordedGradients(self._gradients, parameters, device)

    def _recalibrate(self, size: int, count: int) -> None:
        self.network.recalibrate(self.execution or DENSE, size, count)

    def _evaluate(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        return self.network.evaluate(model, dataset)

    def _epoch_figures(self) -> dict[str, Any]:
        return {}

    def _pack(self) -> None:
        save_trained(self.model, self.run.model, self.run, self.recipe.pack, self._pack_inputs())

    def _pack_inputs(self) -> list[Tensor] | None:
        """Return batches of training images for what packing measures: all numbers, or a file's levels; else None."""
        if self.recipe.pack.max_bytes is not None:
            return self.network.gradient_inputs(usual_gradients(self.model))
        if self.nested is None:
            return None
        size = self.recipe.data.batch_size
        return list(self.network.inputs(size, math.ceil(LEVEL_INPUTS / size)))
