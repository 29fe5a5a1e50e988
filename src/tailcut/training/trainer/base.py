"""The training loop: read `Trainer` from top to bottom.

One loop for every recipe, on Lightning Fabric, so that it runs on one CPU or on many machines. Shapes:
images (batch, channels, height, width), targets (batch,) or (batch, height, width), outputs (batch,
classes, ...).
"""

import logging
import math
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.channels import recalibrate
from tailcut.data import Dataset, Roots, open_dataset
from tailcut.errors import DivergedError, MissingExtraError, TrainingError
from tailcut.evaluation.class_check import check_splits
from tailcut.evaluation.elbo import negative_elbo
from tailcut.evaluation.evaluate import check_outputs, evaluate, fitting
from tailcut.evaluation.generation import evaluate_generator
from tailcut.evaluation.pixel_inputs import gate_penalty, reader_of
from tailcut.evaluation.random_batches import network_inputs
from tailcut.format import load
from tailcut.runs import Result, Run
from tailcut.runtime.devices import Devices as Devices
from tailcut.runtime.distributed import Processes, share_of
from tailcut.runtime.progress import Progress, epoch_line, live_progress
from tailcut.runtime.signals import Interruption, interrupted, listen_for_interruption, not_a_number
from tailcut.structure import class_names, image_size
from tailcut.training.batches import batches, generator
from tailcut.training.checkpoints import (
    applying,
    newest_checkpoint,
    put_aside_damaged,
    random_state,
    say_resumed,
    set_random_state,
    write_checkpoint,
)
from tailcut.training.distillation import Teacher, check_teacher
from tailcut.training.ema import MovingAverage
from tailcut.training.losses import total_loss
from tailcut.training.plots import try_to_draw_curves
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.sections import GENERATIVE, AugmentationSection, GenerationSection
from tailcut.training.recipe.toml_files import to_toml
from tailcut.training.result import make_result, num_kept, save_trained, warn_of_late_cut
from tailcut.training.setup.build import (
    build_model,
    build_optimizer,
    build_schedule,
    check_data,
    hold_out,
    load_teacher,
    name_classes,
    note_image_size,
    set_lr,
    set_precision,
)
from tailcut.training.setup.build_generation import check_generative
from tailcut.training.setup.execution_mode import (
    DENSE,
    Execution,
    choose_execution,
    example_batch,
    refresh_fused,
    trained_as,
)
from tailcut.training.setup.initial_network import load_start, make_start, needs_start
from tailcut.training.setup.initialization import standardize_start
from tailcut.training.setup.norm_statistics import recalibration_batches

try:
    from lightning_fabric import Fabric
except ImportError as error:
    raise MissingExtraError("training", "lightning-fabric", "train") from error

LINE_INTERVAL = 60.0  # seconds between two lines of progress where there is no terminal
LOSS_MEMORY = 0.98  # of the smoothed loss that the live bar shows

logger = logging.getLogger("tailcut.training")


class Trainer(Processes):
    """One process of a training: its parts, and what has happened so far.

    `model` is the network itself; `module` is the same network, wrapped by Fabric for the forward pass.
    """

    def __init__(self, recipe: Recipe, run: Run, fabric: Fabric, *, roots: Roots, download: bool) -> None:
        self.recipe, self.run, self.fabric = recipe, run, fabric
        data, seed = recipe.data, recipe.training.seed
        self.train_data: Dataset = open_dataset(data.name, data.train_split, roots=roots, download=download)
        self.test_data: Dataset = open_dataset(data.name, data.test_split, roots=roots, download=download)
        check_splits(self.train_data, self.test_data)
        self.train_data, self.held_out = hold_out(recipe, self.train_data)
        self.num_steps = check_data(recipe, self.train_data, fabric.world_size)

        torch.manual_seed(generator(seed).initial_seed())
        self.model = self._build(roots).to(fabric.device)
        standardize_start(recipe, self.model, self.train_data)
        check_generative(recipe, self.model, self.train_data)
        name_classes(recipe, self.model, self.train_data)
        note_image_size(recipe, self.model, self.train_data)
        self.read = reader_of(self.model)
        self.optimizer = self._build_optimizer()
        self.schedule = build_schedule(recipe, self.model, self.optimizer, self.num_steps)
        decay = recipe.optimizer.ema_decay
        self.memory_format = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
        self.teacher = self._teacher(roots)
        self.average = None if decay is None else MovingAverage(self.model, decay)
        self.epoch = 0
        self.lines: list[dict[str, Any]] = []
        torch.manual_seed(generator(seed, fabric.global_rank, 1).initial_seed())
        self.execution: Execution | None = None
        self._restore()
        self.module = self._wrapped()
        self.stepper: Any = fabric.setup_optimizers(self.optimizer)

    def _build(self, roots: Roots) -> nn.Module:
        """Return the network to train, with its initial parameters."""
        return build_model(self.recipe, self._start(roots))

    def _build_optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self.recipe.optimizer, self.model)

    def _teacher(self, roots: Roots) -> Teacher | None:
        network = load_teacher(self.recipe, self.fabric.device, roots=roots, beside=self.run)
        if network is None:
            return None
        check_teacher(network, self.train_data)
        data = self.recipe.data
        unchanged = self.train_data if data.augmentation == AugmentationSection() and data.coarse is None else None
        # Fabric sets the precision of the network that it wraps alone.
        return Teacher(network, self.fabric.autocast, self.fabric.device, self.memory_format, unchanged)

    def _start(self, roots: Roots) -> nn.Module | None:
        """Return the network that the recipe starts from, or None. The first process makes it, all load it."""
        if not needs_start(self.recipe):
            return None
        if self.fabric.is_global_zero:
            make_start(self.recipe, self.run, self.train_data, roots=roots)
        self.fabric.barrier()
        return load_start(self.run)

    def _wrapped(self) -> nn.Module:
        """Return the network in its training mode, for this engine; an earlier decision about the mode is kept."""
        if self.execution is None:
            fabric, shape = self.fabric, self.train_data.image_shape
            images = example_batch(self.recipe, shape, fabric.world_size, fabric.device)
            self.execution = choose_execution(self.recipe, self.model, self.read(images))
        return self.fabric.setup_module(trained_as(self.execution, self.model), move_to_device=False)

    def train_epochs(self, *, progress: bool) -> None:
        """Train what is left of the epochs; after each of them validate and write a checkpoint."""
        num_epochs = self.recipe.training.epochs
        with (
            listen_for_interruption() as interruption,
            live_progress(progress, "steps", num_epochs * self.num_steps, interval=LINE_INTERVAL) as bar,
        ):
            while self.epoch < num_epochs:
                start = time.perf_counter()
                loss = self._train_epoch(bar, interruption)
                execution, coarse = self.execution, self._coarse_factor()
                schedule = self.schedule if self.fabric.world_size == 1 else None
                if schedule is not None and schedule.compact_when_worthwhile():
                    self.execution = None
                    self.module = self._wrapped()
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
                    "seconds": round(time.perf_counter() - start, 3),
                }
                self.lines.append(line)
                self._save()
                if self.fabric.is_global_zero:
                    logger.info(epoch_line(line, num_epochs))

    def _train_epoch(self, bar: Progress, interruption: Interruption) -> float:
        """Train one epoch. Returns its mean loss."""
        recipe, epoch = self.recipe, self.epoch
        first_step, all_steps = epoch * self.num_steps, recipe.training.epochs * self.num_steps
        self._round_if_due()
        self.module.train()
        total, smooth = 0.0, math.nan
        work = batches(
            self.train_data,
            batch_size=recipe.data.batch_size,
            seed=recipe.training.seed,
            epoch=epoch,
            augmentation=recipe.data.augmentation,
            coarse=self._coarse_factor(),
            rank=self.fabric.global_rank,
            num_processes=self.fabric.world_size,
            workers=recipe.data.workers,
        )
        for step, (images, targets, places) in enumerate(work):
            now = first_step + step
            lr = set_lr(self.optimizer, recipe.optimizer, now / all_steps)
            images = images.to(self.fabric.device, memory_format=self.memory_format)
            loss = self._step(images, targets.to(self.fabric.device), places)
            self._cut_if_due(now + 1)
            if self.average is not None:
                self.average.update()

            value, stop = self._agree(loss, interruption.wanted)
            if not math.isfinite(value):
                raise DivergedError(not_a_number(value, epoch, step, lr))
            if stop:
                raise TrainingError(interrupted(self.run, epoch, step))
            total += value
            smooth = value if math.isnan(smooth) else LOSS_MEMORY * smooth + (1 - LOSS_MEMORY) * value
            bar.show(now + 1, f"epoch {epoch + 1}  loss {smooth:.4f}")
        return total / self.num_steps

    def _step(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Forward, backward, and one step of the optimiser. Returns the loss, a scalar."""
        self.stepper.zero_grad()
        loss = self._gradients(images, targets, places)
        if self.recipe.optimizer.clip_norm is not None:
            self.fabric.clip_gradients(
                self.module, self.stepper, max_norm=self.recipe.optimizer.clip_norm, error_if_nonfinite=False
            )
        self.stepper.step()
        return loss

    def _gradients(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """Forward and backward. Returns the loss, a scalar."""
        loss = self._loss(images, targets, places)
        self.fabric.backward(loss)
        return loss.detach()

    def _loss(self, images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        recipe, factor = self.recipe, self._coarse_factor()
        with fitting(images, "" if factor == 1 else f" ({factor} times smaller by data.coarse)"):
            outputs = self.module(self.read(images))
        if recipe.training.loss == "vae":
            loss = negative_elbo(outputs, images).mean()
        else:
            check_outputs(outputs, self.train_data)
            taught = None if self.teacher is None else self.teacher(images, places)
            loss = total_loss(outputs, targets, recipe.training, recipe.distillation, taught)
        if recipe.inputs is not None and recipe.inputs.gate:
            penalty = gate_penalty(self.model, recipe.inputs.gate_strength)
            loss = loss if penalty is None else loss + penalty
        return loss

    def _coarse_factor(self) -> int:
        """Return the factor by which images of this epoch are smaller than the data set's, along each side."""
        coarse = self.recipe.data.coarse
        if coarse is None or self.epoch >= coarse.fraction * self.recipe.training.epochs:
            return 1
        return coarse.factor

    def _round_if_due(self) -> None:
        """Start to round the coefficients in the forward (changes the model), if the recipe says so."""
        begin = self.recipe.training.round_from
        if begin is not None and self.epoch >= begin * self.recipe.training.epochs:
            set_precision(self.model, self.recipe.pack.dtype)
            refresh_fused(self.module)

    def _cut_if_due(self, steps_done: int) -> None:
        """Cut the tails (changes the model) if the recipe has a cut after this many steps of the run."""
        if self.schedule is None or self.recipe.schedule is None:
            return
        every = self.recipe.schedule.every
        if steps_done % (self.num_steps if every == "epoch" else every) == 0:
            self.schedule.step()

    def _validate(self) -> tuple[str, dict[str, float]]:
        """Metrics on the held-out images, on the test split if none are held out; the split's name first.

        Without hold-out these figures select nothing: the last epoch is always packed.
        """
        if self.epoch % self.recipe.training.validate_every and self.epoch != self.recipe.training.epochs:
            return "", {}
        self._share_buffers()
        with self.average.lent() if self.average is not None else nullcontext():
            self._measure_norms_again()
            metrics = self._evaluate(self.model, self.held_out or self.test_data)
        return ("test" if self.held_out is None else "validation"), metrics

    def _measure_norms_again(self) -> None:
        """Statistics of batch norm (changes the model), where those that training leaves do not fit."""
        size, count = recalibration_batches(self.recipe, self.model, len(self.train_data))
        if count:
            self._recalibrate(size, count)

    def _recalibrate(self, size: int, count: int) -> None:
        """Measure the statistics on `count` batches of `size` inputs, the same in all processes."""
        images = network_inputs(self.model, self.train_data, size, count, self.recipe.training.seed)
        recalibrate(trained_as(self.execution or DENSE, self.model), images, count)

    def _evaluate(self, model: nn.Module, dataset: Dataset) -> dict[str, float]:
        section = self.recipe.generation or GenerationSection()
        share, workers = share_of(self.fabric), self.recipe.data.workers
        if self.recipe.training.loss in GENERATIVE:
            return evaluate_generator(model, dataset, num_samples=section.num_samples, share=share)
        is_final = model is not self.model and dataset is self.test_data
        return evaluate(model, dataset, share=share, warn=is_final, workers=workers)

    def _save(self) -> None:
        """Write a checkpoint and the metrics, on the first process."""
        states = {name: self._gather(value) for name, value in random_state().items()}
        if self.fabric.is_global_zero:
            write_checkpoint(self.run, self._state(states))
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
            "class_names": class_names(self.model),
            "image_size": image_size(self.model),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "random": states,
        }

    def _restore(self) -> None:
        """Go on from the newest checkpoint, if there is one (changes the model and everything else)."""
        found = newest_checkpoint(self.run)
        if found is None:
            return
        path, state = found
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
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.epoch, self.lines = state["epoch"], state["lines"]
        self.execution = state.get("execution", DENSE)  # there was only this once
        if self.fabric.global_rank < len(state["random"]["torch"]):
            set_random_state({name: value[self.fabric.global_rank] for name, value in state["random"].items()})

    def finish(self, command: str) -> Result:
        """Cut to the targets, pack, and evaluate the packed file (changes the model). Returns the result."""
        fabric, run, recipe = self.fabric, self.run, self.recipe
        self._round_if_due()
        if self.average is not None:
            self.average.give()
        self._share_buffers()
        if self.schedule is not None:
            before = num_kept(self.model)
            self.schedule.finish()
            warn_of_late_cut(before, num_kept(self.model))
        self._measure_norms_again()
        if fabric.is_global_zero:
            self._pack()
        fabric.barrier()
        packed = load(run.model)
        metrics = self._evaluate(packed, self.test_data)
        validation = {} if self.held_out is None else self._evaluate(packed, self.held_out)
        sizes = {"train": len(self.train_data), "validation": len(self.held_out or ()), "test": len(self.test_data)}
        result = make_result(
            recipe,
            run,
            packed,
            command=command,
            device=fabric.device.type,
            num_devices=fabric.world_size,
            seconds=sum(line["seconds"] for line in self.lines),
            split_sizes=sizes,
            metrics=metrics,
            validation=validation,
        )
        if fabric.is_global_zero:
            run.write_result(result)
            try_to_draw_curves(self.lines, run.curves, title=recipe.name)
        fabric.barrier()
        return result

    def _pack(self) -> None:
        """Write the packed network, on the first process."""
        save_trained(self.model, self.run.model, self.run, self.recipe.pack)
