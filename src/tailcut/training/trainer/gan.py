"""Trainer for GANs: the common loop, with a generator and a discriminator.

As in the paper of the DCGAN (Radford et al., 2016): in each step the discriminator learns to separate a batch of real
images from a batch of made ones, then the generator learns to have its batch taken for real. Adam, with a learning
rate of 2e-4 and betas (0.5, 0.999), is the custom.
"""

import logging
from collections import defaultdict
from typing import cast

import torch
from torch import Tensor, nn

from tailcut.channels import recalibrate
from tailcut.data import Dataset, Roots
from tailcut.evaluation.fid import resized
from tailcut.runtime.progress import Progress
from tailcut.runtime.signals import Interruption
from tailcut.structure import example_shape
from tailcut.training.losses import adversarial_loss
from tailcut.training.result import num_kept, save_trained
from tailcut.training.setup.build_generation import GanNetworks
from tailcut.training.setup.execution_mode import DENSE, choose_execution, example_batch, trained_as
from tailcut.training.trainer.base import Trainer

logger = logging.getLogger("tailcut.training")


class GanTrainer(Trainer):
    """One process of a training. `model` is both networks; each is wrapped by Fabric alone.

    The result is of the generator, whose file is `model.tailcut`; the discriminator is beside it,
    `discriminator.tailcut`. The counts of `metrics.jsonl` are of both networks.

    `opponent` is the discriminator as the generator meets it, without Fabric's wrapper.
    """

    networks: GanNetworks
    opponent: nn.Module
    losses: defaultdict[str, float]
    code_size: int
    image_size: tuple[int, int]

    def _build(self, roots: Roots) -> nn.Module:
        self.losses = defaultdict(float)
        self.networks = networks = cast(GanNetworks, super()._build(roots))
        _, self.code_size = cast(tuple[int, int], example_shape(networks.generator))
        self.image_size = cast(tuple[int, int], (example_shape(networks.discriminator) or ())[-2:])
        return networks

    def _wrapped(self) -> nn.Module:
        networks, fabric = self.networks, self.fabric
        if self.execution is None:
            shape = (self.train_data.image_shape[0], *self.image_size)
            images = example_batch(self.recipe, shape, fabric.world_size, fabric.device)
            codes = images.new_zeros(len(images), self.code_size)
            pairs = ((networks.generator, codes), (networks.discriminator, images))
            ways = {choose_execution(self.recipe, network, example) for network, example in pairs} - {DENSE}
            self.execution = ways.pop() if ways else DENSE  # one for both, where it pays for either
        forms = {name: trained_as(self.execution, network) for name, network in networks.named_children()}
        self.opponent = forms["discriminator"]
        return nn.ModuleDict({name: fabric.setup_module(form, move_to_device=False) for name, form in forms.items()})

    def _train_epoch(self, bar: Progress, interruption: Interruption) -> float:
        """Train one epoch, and log the losses of both networks. Returns their mean sum."""
        self.losses.clear()
        loss = super()._train_epoch(bar, interruption)
        parts = [f"{name} {value / self.num_steps:.4f}" for name, value in sorted(self.losses.items())]
        logger.info("epoch %d of this process: %s", self.epoch + 1, ", ".join(parts))
        return loss

    def _step(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Train the discriminator for a step, then the generator. Return the sum of their losses, a scalar.

        One optimiser has the parameters of both networks and changes only those with gradients: the same numbers as
        from two with these settings.
        """
        parts = cast(nn.ModuleDict, self.module)
        real = 2 * resized(images, self.image_size) - 1  # the generator's pixels are -1..1
        made = parts["generator"](torch.randn(len(real), self.code_size).to(real.device))

        self.stepper.zero_grad()
        loss = adversarial_loss(parts["discriminator"](real), real=True)
        self.fabric.backward(loss)
        loss_of_made = adversarial_loss(parts["discriminator"](made.detach()), real=False)
        self.fabric.backward(loss_of_made)
        self.stepper.step()

        self.stepper.zero_grad()
        self.opponent.requires_grad_(False)
        with self.fabric.autocast():  # not through its wrapper: its gradients are not wanted
            deceived = adversarial_loss(self.opponent(made), real=True)
        self.fabric.backward(deceived)
        self.stepper.step()
        self.opponent.requires_grad_()
        self.losses["discriminator"] += (loss + loss_of_made).item()
        self.losses["generator"] += deceived.item()
        return (loss + loss_of_made + deceived).detach()

    def _recalibrate(self, size: int, count: int) -> None:
        """Measure the generator's statistics on random codes. The discriminator's are left: nothing evaluates it."""
        random = torch.Generator().manual_seed(self.recipe.training.seed)
        codes = (torch.randn(size, self.code_size, generator=random).to(self.fabric.device) for _ in range(count))
        recalibrate(self.networks.generator, codes, count)

    def _evaluate(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        return super()._evaluate(model.generator if isinstance(model, GanNetworks) else model, dataset)

    def _pack(self) -> None:
        networks = self.networks
        for network, path in ((networks.generator, self.run.model), (networks.discriminator, self.run.discriminator)):
            save_trained(network, path, self.run, self.recipe.pack)
        logger.info("the generator keeps %d, both networks %d", num_kept(networks.generator), num_kept(networks))
