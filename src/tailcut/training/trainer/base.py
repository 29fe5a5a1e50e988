"""The training loop: read `Trainer` from top to bottom.

One loop for every recipe, on Lightning Fabric, so that it runs on one CPU or on many machines. What networks do
differently is in the final classes: `ClassificationTrainer`, `CompressionTrainer`, `DetectionTrainer` and `GanTrainer`.
Shapes: images (batch, channels, height, width), targets (batch,) or (batch, height, width), outputs (batch, classes,
...).
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tailcut.data import Dataset, InMemoryDataset
from tailcut.data.workers import Workers
from tailcut.errors import DivergedError, TrainingError
from tailcut.format import load
from tailcut.runs import Result
from tailcut.runtime.distributed import agree, broadcast_buffers, gather
from tailcut.runtime.progress import Progress, Throughput, epoch_line, live_progress
from tailcut.runtime.share import device_name
from tailcut.runtime.signals import (
    Interruption,
    divergence_message,
    interrupted_after_message,
    interrupted_message,
    listen_for_interruption,
)
from tailcut.structure import class_names, image_shorter_side, image_size
from tailcut.training.batches import batches, generator
from tailcut.training.checkpoints import (
    applying,
    check_same_origin,
    newest_checkpoint,
    put_aside_damaged,
    random_state,
    say_resumed,
    set_random_state,
    write_checkpoint,
)
from tailcut.training.distillation import Teacher
from tailcut.training.ema import MovingAverage
from tailcut.training.matrix_unit import fast_products, warn_of_emulation
from tailcut.training.plots import try_to_draw_curves
from tailcut.training.recipe.toml_files import to_toml
from tailcut.training.result import make_result, num_kept, trained_on, warn_of_late_cut, warn_of_worse_file
from tailcut.training.setup.build import (
    build_schedule,
    set_lr,
    set_precision,
    warn_of_other_optimizers,
    warn_of_unused_key,
)
from tailcut.training.setup.data import TrainingData
from tailcut.training.setup.execution_mode import DENSE, Execution, refresh_fused
from tailcut.training.setup.job import Job
from tailcut.training.setup.norm_statistics import check_statistics, recalibration_batches

LINE_INTERVAL = 60.0  # seconds between two lines of progress where there is no terminal
LOSS_MEMORY = 0.98  # of the smoothed loss that the live bar shows

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """A part of a training whose state belongs into a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Take a state over (changes the part)."""


class Trainer(ABC):
    """One process of a training: its parts, and what has happened so far.

    A final class opens the data, builds the network and its optimiser, then calls this constructor, which makes the
    rest in the order below.

    Args:
        job: the request.
        data: the images.
        model: the network, on its device, with its initial parameters and its notes of the data.
        optimizer: of its parameters.
        stateful: what else belongs into a checkpoint, each under its key there.
        teacher: of a distillation.
    """

    def __init__(
        self,
        job: Job,
        data: TrainingData,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        stateful: Mapping[str, Stateful] | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.teacher = teacher
        self.job, self.recipe, self.run, self.fabric = job, job.recipe, job.run, job.fabric
        self.data, self.model, self.optimizer, self.stateful = data, model, optimizer, stateful or {}
        check_statistics(self.recipe, model)
        warn_of_other_optimizers(self.recipe.optimizer)
        warn_of_unused_key(self.recipe.pack, model)
        warn_of_emulation(self.fabric.device, self.recipe.training.precision)
        self.schedule = build_schedule(self.recipe, model, optimizer, data.num_steps)
        decay = self.recipe.optimizer.ema_decay
        self.average = None if decay is None else MovingAverage(model, decay)
        self.source = images_beside(data.train, self.fabric.device)
        self.workers = Workers(self.recipe.data.workers if self.source is data.train else 0)  # over all epochs
        self.epoch = 0  # how many are finished
        self.num_saved = 0  # how many the newest checkpoint has
        self.lines: list[dict[str, Any]] = []  # of the file of metrics
        self.execution: Execution | None = None
        self.is_rounding = False
        self.loss_parts: defaultdict[str, float] = defaultdict(float)  # sums over the steps of this epoch

        torch.manual_seed(generator(self.recipe.training.seed, self.fabric.global_rank, 1).initial_seed())
        self._restore()
        if self.execution is None:
            self.execution = self._choose_execution()
        self.module = self._wrap(self.execution)
        self.stepper: Any = self.fabric.setup_optimizers(self.optimizer)

    @abstractmethod
    def _choose_execution(self) -> Execution:
        """Choose the execution mode of the training from here on."""

    @abstractmethod
    def _wrap(self, execution: Execution) -> nn.Module:
        """Return the network in the form in which it trains, each part that runs alone wrapped by Fabric."""

    @abstractmethod
    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Return the batches of this epoch, as `_step` takes them."""

    @abstractmethod
    def _step(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Run forward, backward, and a step of the optimiser. Return the loss, a scalar.

        Args:
            images: (batch, channels, height, width), on the device.
            targets: (batch,) or (batch, height, width), on the device.
            places: (batch,), their places in the data set.
        """

    @abstractmethod
    def _recalibrate(self, size: int, count: int) -> None:
        """Measure batch norm's statistics on `count` batches of `size` inputs, the same in all processes."""

    @abstractmethod
    def _evaluate(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        """Return the metrics of the trained or the packed network on a data set."""

    @abstractmethod
    def _epoch_figures(self) -> dict[str, Any]:
        """Return more figures of the epoch, for its line in `metrics.jsonl`."""

    @abstractmethod
    def _pack(self) -> None:
        """Write the packed network, on the first process."""

    def train_epochs(self, *, progress: bool) -> None:
        """Train what is left of the epochs; after each of them validate and write a checkpoint, where these are due."""
        num_epochs, num_steps = self.recipe.training.epochs, self.data.num_steps
        with (
            listen_for_interruption() as interruption,
            live_progress(progress, "steps", num_epochs * num_steps, interval=LINE_INTERVAL) as bar,
            self.workers,
            fast_products(self.fabric.device, self.recipe.training.precision),
        ):
            while self.epoch < num_epochs:
                start = time.perf_counter()
                throughput = Throughput()
                loss = self._train_epoch(bar, interruption, throughput)
                speed = throughput.figures()
                execution, coarse = self.execution, self._coarse_factor()
                schedule = self.schedule if self.fabric.world_size == 1 else None
                if schedule is not None and schedule.compact_when_worthwhile():
                    self.execution = self._choose_execution()
                    self.module = self._wrap(self.execution)
                self.epoch += 1
                split, metrics = self._validate()
                line = {
                    "epoch": self.epoch,
                    "loss": loss,
                    "split": split,
                    "metrics": metrics,
                    "lr": self.optimizer.param_groups[0]["lr"],
                    "num_kept": num_kept(self.model),
                    "execution": execution,
                    "coarse": coarse,
                    "device": device_name(self.fabric.device),
                    "seconds": round(time.perf_counter() - start, 3),
                    **speed,
                    **self._epoch_figures(),
                }
                self.lines.append(line)
                self._save()
                if self.fabric.is_global_zero:
                    logger.info(epoch_line(line, num_epochs))
                _, stop = agree(self.fabric, torch.zeros((), device=self.fabric.device), interruption.wanted)
                if stop:  # what follows has no steps, where it would be noticed: another stage, or another run
                    raise TrainingError(interrupted_after_message(self.run, self.epoch, self.num_saved))
        if interruption.wanted:
            raise TrainingError(interrupted_after_message(self.run, self.epoch, self.num_saved))

    def _train_epoch(self, bar: Progress, interruption: Interruption, throughput: Throughput) -> float:
        """Train one epoch. Return its mean loss; `throughput` counts its images."""
        recipe, epoch, num_steps = self.recipe, self.epoch, self.data.num_steps
        first_step, all_steps = epoch * num_steps, recipe.training.epochs * num_steps
        memory_format = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
        self._round_if_due()
        self.module.train()
        self.loss_parts.clear()
        total, smooth = 0.0, math.nan
        for step, (images, targets, places) in enumerate(throughput.waiting_for(self._batches())):
            now = first_step + step
            lr = set_lr(self.optimizer, recipe.optimizer, now / all_steps)
            images = images.to(self.fabric.device, memory_format=memory_format)
            loss = self._step(images, targets.to(self.fabric.device), places)
            self._cut_if_due(now + 1)
            if self.average is not None:
                self.average.update()

            value, stop = agree(self.fabric, loss, interruption.wanted)
            if not math.isfinite(value):
                raise DivergedError(divergence_message(value, epoch, step, lr, self.num_saved))
            if stop:
                raise TrainingError(interrupted_message(self.run, epoch, step, self.num_saved))
            total += value
            smooth = value if math.isnan(smooth) else LOSS_MEMORY * smooth + (1 - LOSS_MEMORY) * value
            throughput.count(recipe.data.batch_size)
            bar.show(now + 1, f"epoch {epoch + 1}  loss {smooth:.4f}  {throughput}")
        if self.loss_parts:
            parts = [f"{name} {value / num_steps:.4f}" for name, value in sorted(self.loss_parts.items())]
            logger.info("epoch %d of this process: %s", epoch + 1, ", ".join(parts))
        return total / num_steps

    def _image_batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Return the augmented batches of this epoch, each with the places of its images, read ahead by workers."""
        recipe = self.recipe
        return batches(
            self.source,
            batch_size=recipe.data.batch_size,
            seed=recipe.training.seed,
            epoch=self.epoch,
            augmentation=recipe.data.augmentation,
            coarse=self._coarse_factor(),
            rank=self.fabric.global_rank,
            num_processes=self.fabric.world_size,
            workers=self.workers,
        )

    def _update(self) -> None:
        """Take a step of the optimiser over all parameters, with their gradients clipped as the recipe says."""
        limit = self.recipe.optimizer.clip_norm
        if limit is not None:
            self.fabric.clip_gradients(self.module, self.stepper, max_norm=limit, error_if_nonfinite=False)
        self.stepper.step()

    def _coarse_factor(self) -> int:
        """Return the factor by which images of this epoch are smaller than the data set's, along each side."""
        coarse = self.recipe.data.coarse
        if coarse is None or self.epoch >= coarse.fraction * self.recipe.training.epochs:
            return 1
        return coarse.factor

    def _round_if_due(self) -> None:
        """Start to round the coefficients in the forward (changes the model), if the recipe says so."""
        begin = self.recipe.training.round_from
        is_due = begin is not None and self.epoch >= begin * self.recipe.training.epochs
        if is_due and not self.is_rounding:
            self.is_rounding = True
            set_precision(self.model, self.recipe.pack.dtype)
            refresh_fused(self.module)

    def _cut_if_due(self, steps_done: int) -> None:
        """Cut the tails (changes the model) if the recipe has a cut after this many steps of the run."""
        if self.schedule is None or self.recipe.schedule is None:
            return
        every = self.recipe.schedule.every
        if steps_done % (self.data.num_steps if every == "epoch" else every) == 0:
            self.schedule.step()

    def _validate(self) -> tuple[str, dict[str, float]]:
        """Return metrics on the held-out images, on the test split if none are held out; the split's name first.

        Without hold-out these figures select nothing: the last epoch is always packed.
        """
        if self.epoch % self.recipe.training.validate_every and self.epoch != self.recipe.training.epochs:
            return "", {}
        broadcast_buffers(self.fabric, self.model)
        with self.average.lent() if self.average is not None else nullcontext():
            self._measure_norms_again()
            metrics = self._evaluate(self.model, self.data.held_out or self.data.test)
        return ("test" if self.data.held_out is None else "validation"), metrics

    def _measure_norms_again(self) -> None:
        """Measure the statistics of batch norm (changes the model) where those that training leaves do not fit."""
        size, count = recalibration_batches(self.recipe, self.model, len(self.data.train))
        if count:
            self._recalibrate(size, count)

    def _save(self) -> None:
        """Write a checkpoint, if one is due, and the metrics, on the first process."""
        if self.epoch % self.recipe.training.checkpoint_every == 0 or self.epoch == self.recipe.training.epochs:
            states = {name: gather(self.fabric, value) for name, value in random_state().items()}
            if self.fabric.is_global_zero:
                write_checkpoint(self.run, self._state(states))
            self.num_saved = self.epoch
        if self.fabric.is_global_zero:
            self.run.write_metrics(self.lines)
        self.fabric.barrier()

    def _state(self, states: dict[str, Tensor]) -> dict[str, Any]:
        """Collect what a checkpoint holds; `states` are those of the random generators."""
        return {
            "recipe": to_toml(self.recipe),
            "epoch": self.epoch,
            "execution": self.execution,
            "lines": self.lines,
            "num_threads": torch.get_num_threads(),
            "model": dict(self.model.state_dict()),
            "optimizer": self.schedule.optimizer_state_dict() if self.schedule else self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "average": self.average.state_dict() if self.average else None,
            **self._origin(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "random": states,
            **{name: part.state_dict() for name, part in self.stateful.items()},
        }

    def _origin(self) -> dict[str, Any]:
        """Return what must be the same when the run resumes, and what the network was told of its data."""
        return {
            "class_names": class_names(self.model),
            "image_size": image_size(self.model),
            "image_shorter_side": image_shorter_side(self.model),
            "num_train": len(self.data.train),
            "num_held_out": len(self.data.held_out or ()),
            "teacher": None if self.teacher is None else self.teacher.fingerprint,
        }

    def _restore(self) -> None:
        """Go on from the newest checkpoint, if there is one (changes the model and everything else)."""
        found = newest_checkpoint(self.run)
        if found is None:
            return
        path, state = found
        check_same_origin(state, self._origin(), self.run)
        with applying(path):
            self._apply(state)
        if self.fabric.is_global_zero:
            if path != self.run.last_checkpoint:
                put_aside_damaged(self.run)
            self.run.write_metrics(self.lines)
            say_resumed(path, state)

    def _apply(self, state: dict[str, Any]) -> None:
        """Give the parts of the run the state of a checkpoint (changes them)."""
        self.model.load_state_dict(state["model"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
            self.schedule.load_optimizer_state_dict(state["optimizer"])
        else:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, part in self.stateful.items():
            part.load_state_dict(state[name])
        if state["scaler"]:  # empty from a device that scales no loss
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.epoch, self.num_saved, self.lines = state["epoch"], state["epoch"], state["lines"]
        self.execution = state.get("execution", DENSE)  # there was only this once
        if self.fabric.global_rank < len(state["random"]["torch"]):
            set_random_state({name: value[self.fabric.global_rank] for name, value in state["random"].items()})

    def finish(self, command: str) -> Result:
        """Cut to the targets, pack, and evaluate the packed file (changes the model). Return the result."""
        fabric, run, recipe = self.fabric, self.run, self.recipe
        self._round_if_due()
        if self.average is not None:
            self.average.give()
        broadcast_buffers(fabric, self.model)
        if self.schedule is not None:
            before = num_kept(self.model)
            self.schedule.finish()
            warn_of_late_cut(before, num_kept(self.model))
        self._measure_norms_again()
        if fabric.is_global_zero:
            self._pack()
        fabric.barrier()
        packed = load(run.model)
        result = make_result(
            self.job.record or recipe,
            run,
            packed,
            command=command,
            device=trained_on(self.lines, device_name(fabric.device)),
            num_devices=fabric.world_size,
            epochs=self.job.earlier_epochs + recipe.training.epochs,
            seconds=self.job.earlier_seconds + sum(line["seconds"] for line in self.lines),
            split_sizes=self.data.sizes,
            metrics=self._evaluate(packed, self.data.test),
            validation={} if self.data.held_out is None else self._evaluate(packed, self.data.held_out),
        )
        if fabric.is_global_zero:
            run.write_result(result)
            if self.lines:
                warn_of_worse_file(run, self.lines[-1], result)
            try_to_draw_curves(self.lines, run.curves, title=recipe.name)
        fabric.barrier()
        return result


def images_beside(dataset: Dataset, device: torch.device) -> Dataset:
    """Return training images where their batches are made: on a GPU, if they are held in memory.

    There a batch takes a fraction of a step. Its numbers are those of the CPU, to the last bit of a pixel.
    """
    if isinstance(dataset, InMemoryDataset) and device.type == "cuda":
        return dataset.to(device)
    return dataset
