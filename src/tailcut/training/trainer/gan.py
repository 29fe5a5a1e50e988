"""Trainer for GANs: the common loop, with a generator and a discriminator.

As in the paper of the DCGAN (Radford et al., 2016): in each step the discriminator learns to separate a batch of real
images from a batch of made ones, then the generator learns to have its batch taken for real. Adam, with a learning
rate of 2e-4 and betas (0.5, 0.999), is the custom.
"""

import logging
from collections.abc import Iterator
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from tailcut.channels import recalibrate
from tailcut.data import Dataset
from tailcut.evaluation.generation import evaluate_generator
from tailcut.runtime.distributed import share_of
from tailcut.structure import example_shape
from tailcut.training.losses import adversarial_loss
from tailcut.training.recipe.sections import GenerationSection
from tailcut.training.result import num_kept, save_trained
from tailcut.training.setup.build import build_optimizer, note_data, seed_parameters
from tailcut.training.setup.build_generation import GanNetworks, build_gan
from tailcut.training.setup.data import open_data
from tailcut.training.setup.execution_mode import DENSE, Execution, choose_execution, example_batch, trained_as
from tailcut.training.setup.job import Job
from tailcut.training.trainer.base import Trainer
from tailcut.transform.resizing import resized

logger = logging.getLogger(__name__)


@final
class GanTrainer(Trainer):
    """One process of a training. `model` is both networks; each is wrapped by Fabric alone.

    The result is of the generator, whose file is `model.tailcut`; the discriminator is beside it,
    `discriminator.tailcut`. The counts of `metrics.jsonl` are of both networks.
    """

    def __init__(self, job: Job) -> None:
        data = open_data(job)
        seed_parameters(job.recipe)
        self.networks = build_gan(job.recipe).to(job.fabric.device)
        _, self.code_size = cast(tuple[int, int], example_shape(self.networks.generator))
        self.image_size = cast(tuple[int, int], (example_shape(self.networks.discriminator) or ())[-2:])
        note_data(job.recipe, self.networks, data.train)
        super().__init__(job, data, self.networks, build_optimizer(job.recipe.optimizer, self.networks))

    def _choose_execution(self) -> Execution:
        shape = (self.data.train.image_shape[0], *self.image_size)
        images = example_batch(self.recipe, shape, self.fabric.world_size, self.fabric.device)
        codes = images.new_zeros(len(images), self.code_size)
        pairs = ((self.networks.generator, codes), (self.networks.discriminator, images))
        ways = {choose_execution(self.recipe, network, example) for network, example in pairs} - {DENSE}
        return ways.pop() if ways else DENSE  # one for both, where it pays for either

    def _wrap(self, execution: Execution) -> nn.Module:
        forms = {name: trained_as(execution, network) for name, network in self.networks.named_children()}
        return nn.ModuleDict(
            {name: self.fabric.setup_module(form, move_to_device=False) for name, form in forms.items()}
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return self._image_batches()

    def _step(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Train the discriminator for a step, then the generator. Return the sum of their losses, a scalar.

        One optimiser has the parameters of both networks and changes only those with gradients: the same numbers as
        from two with these settings.
        """
        parts = cast(nn.ModuleDict, self.module)
        opponent = cast(nn.Module, parts["discriminator"].module)  # as the generator meets it: without Fabric's wrapper
        real = 2 * resized(images, *self.image_size) - 1  # the generator's pixels are -1..1
        made = parts["generator"](torch.randn(len(real), self.code_size).to(real.device))

        self.stepper.zero_grad()
        loss = adversarial_loss(parts["discriminator"](real), real=True)
        self.fabric.backward(loss)
        loss_of_made = adversarial_loss(parts["discriminator"](made.detach()), real=False)
        self.fabric.backward(loss_of_made)
        self.stepper.step()

        self.stepper.zero_grad()
        opponent.requires_grad_(False)
        with self.fabric.autocast():  # not through its wrapper: its gradients are not wanted
            deceived = adversarial_loss(opponent(made), real=True)
        self.fabric.backward(deceived)
        self.stepper.step()
        opponent.requires_grad_()
        self.loss_parts["discriminator"] += (loss + loss_of_made).item()
        self.loss_parts["generator"] += deceived.item()
        return (loss + loss_of_made + deceived).detach()

    def _recalibrate(self, size: int, count: int) -> None:
        """Measure the generator's statistics on random codes. The discriminator's are left: nothing evaluates it."""
        random = torch.Generator().manual_seed(self.recipe.training.seed)
        codes = (torch.randn(size, self.code_size, generator=random).to(self.fabric.device) for _ in range(count))
        recalibrate(self.networks.generator, codes, num_batches=count)

    def _evaluate(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        network = model.generator if isinstance(model, GanNetworks) else model
        num_samples = (self.recipe.generation or GenerationSection()).num_samples
        return evaluate_generator(network, dataset, num_samples=num_samples, share=share_of(self.fabric))

    def _epoch_figures(self) -> dict[str, Any]:
        return {}

    def _pack(self) -> None:
        networks = self.networks
        for network, path in ((networks.generator, self.run.model), (networks.discriminator, self.run.discriminator)):
            save_trained(network, path, self.run, self.recipe.pack)
        logger.info("the generator keeps %d, both networks %d", num_kept(networks.generator), num_kept(networks))
