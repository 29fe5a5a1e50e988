"""Construction of a recipe's network, optimiser, tail-truncation and learning rate schedule."""

import logging
import math
from typing import Any

import torch
from torch import nn

from tailcut.data import Dataset, Roots, split_off
from tailcut.errors import ArgumentError, DataNotFoundError, RecipeError, StructureError, TailcutError
from tailcut.evaluation.evaluate import runnable
from tailcut.evaluation.pixel_inputs import image_shape
from tailcut.format.open_network import is_tailcut_file, open_network
from tailcut.runs import Run
from tailcut.structure import set_class_names, set_image_size
from tailcut.training.batches import generator
from tailcut.training.recipe.fields import check_unused
from tailcut.training.recipe.schema import (
    DistillationSection,
    InputsSection,
    LrScheduleSection,
    OptimizerSection,
    PackSection,
    Recipe,
    RegularizationSection,
    ScheduleSection,
)
from tailcut.training.recipe.sections import GENERATIVE
from tailcut.training.setup.build_generation import build_gan, check_generative
from tailcut.training.setup.initial_network import find_network, fresh_network, parent
from tailcut.training.setup.initialization import regularized
from tailcut.weights import TailTruncation, norm_counts, truncate_norms, truncated_tensors
from tailcut.weights.schedule import ratio_target

logger = logging.getLogger(__name__)

ONE_CYCLE_START = 1 / 25
FEW_STEPS = 50  # in a whole run
# What networks are measured by, for each training.loss; the figures of detectors are another matter.
METRICS = {
    "cross_entropy": ("accuracy", "top5_accuracy", "dice"),
    "dice_bce": ("dice",),
    "vae": ("fid", "elbo"),
    "gan": ("fid",),
}


def check_settings(recipe: Recipe) -> None:
    """Refuse settings that have no effect beside the others of the recipe.

    Of a training that begins, not of the recipe of an older one, which may have them.

    Raises:
        RecipeError: names the key.
    """
    data = recipe.data
    check_lr_schedule(recipe.optimizer.lr_schedule)
    if data.holdout and data.test_split == data.train_split:
        raise RecipeError(
            f"data.test_split: {data.test_split!r} is data.train_split, so that the final figures would be of images "
            "that the network learns; give another split, or no data.holdout to measure on the training images"
        )
    _check_inputs(recipe.inputs)
    _check_regularization(recipe)
    known = METRICS[recipe.training.loss]
    for name in recipe.paper.metrics if recipe.paper is not None and recipe.detection is None else ():
        if name not in known:
            raise RecipeError(f"paper.metrics.{name}: is not measured in this training; known are {', '.join(known)}")


def _check_inputs(section: InputsSection | None) -> None:
    if section is None:
        return
    plain = InputsSection()
    if not section.gate:
        keys = ("gate_temperature", "gate_strength")
        used = {f"inputs.{key}": getattr(section, key) != getattr(plain, key) for key in keys}
        check_unused(used, of="inputs without a gate")
    if not section.statistics_images:
        check_unused({"inputs.statistics": section.statistics != plain.statistics}, of="inputs.statistics_images 0")


def _check_regularization(recipe: Recipe) -> None:
    section = recipe.regularization
    if section is None:
        return
    unused = section.keep_ratio is None and section.min_kept != RegularizationSection().min_kept
    check_unused({"regularization.min_kept": unused and not section.overrides}, of="counts without a keep_ratio")
    if recipe.start is not None and section.initialization != "model":
        is_scaled = section.initialization == "rescaled"
        how = "make the numbers of [start] larger" if is_scaled else "replace the numbers of [start] by random ones"
        raise RecipeError(
            f"regularization.initialization: {section.initialization!r} would {how}; leave it out (in a stage: name "
            "it in without)"
        )
    if recipe.start is not None and section.norm_std:
        raise RecipeError(
            "regularization.norm_std: noise would be added to the numbers of [start]; leave it out (in a stage: name "
            "it in without)"
        )


def check_lr_schedule(section: LrScheduleSection) -> None:
    """Refuse settings of a learning rate that have no effect.

    Raises:
        RecipeError: names the key.
    """
    name = section.name
    if name == "multistep" and not section.milestones:
        raise RecipeError("optimizer.lr_schedule.milestones: 'multistep' needs at least one, got none")
    useless = {
        "warmup": name not in ("cosine", "one_cycle") and section.warmup > 0,
        "milestones": name != "multistep" and bool(section.milestones),
        "factor": name != "multistep" and section.factor != LrScheduleSection().factor,
    }
    useless = {f"optimizer.lr_schedule.{key}": is_used for key, is_used in useless.items()}
    check_unused(useless, of=f"optimizer.lr_schedule.name {name!r}")


def warn_of_other_optimizers(section: OptimizerSection) -> None:
    """Say which settings are another optimiser's: only the name may be changed, in an experiment or a stage."""
    plain = OptimizerSection(lr=section.lr)
    is_sgd = section.name == "sgd"
    unused = {
        "momentum": not is_sgd and section.momentum != plain.momentum,
        "betas": is_sgd and section.betas != plain.betas,
    }
    for key in (key for key, is_given in unused.items() if is_given):
        logger.warning("optimizer.%s has no effect: optimizer.name is %s", key, section.name)


def warn_of_unused_key(section: PackSection, model: nn.Module) -> None:
    """Say that a type of coefficients has no effect, if the network has none: stages and experiments share it."""
    if section.dtype != PackSection().dtype and not truncated_tensors(model):
        logger.warning(
            "pack.dtype has no effect: the network has no coefficients; pack.other_dtype is of all its numbers"
        )


def build_model(recipe: Recipe, start: nn.Module | None = None) -> nn.Module:
    """Make the recipe's network, regularised if the recipe says so; for the loss `gan` both networks.

    Args:
        recipe: the recipe.
        start: the network to regularise (it is changed); None makes one with fresh parameters, whose random numbers
            come from torch's global generator.

    Raises:
        RecipeError: unknown model, wrong arguments, or a regularisation that does not fit the network.
    """
    if recipe.training.loss == "gan":
        return build_gan(recipe)
    model = fresh_network(recipe) if start is None else start
    model = regularized(model, recipe.regularization, truncates_norms=recipe.norms is not None)
    if recipe.norms is not None:
        _truncate_norms(model, recipe.norms.num_kept)
    return model


def _truncate_norms(model: nn.Module, num_kept: int) -> None:
    counts = norm_counts(model)
    if not counts:
        try:
            truncate_norms(model, num_kept)
        except (ArgumentError, StructureError) as error:
            raise RecipeError(f"norms: {error}") from error
    # A network of [start] or of a stage before has them already.
    if counts and max(counts.values()) < num_kept:
        logger.warning(
            "norms.num_kept %d has no effect: the network of [start] keeps at most %d", num_kept, max(counts.values())
        )
    more = [name for name, count in counts.items() if count > num_kept]
    if more:
        raise RecipeError(
            f"norms.num_kept: {more[0]} of [start] keeps {counts[more[0]]}, and {num_kept} are asked for; "
            "schedule.num_kept, a table by tensor name, cuts it"
        )


def seed_parameters(recipe: Recipe) -> None:
    """Seed torch's global generator for fresh parameters: the same in all processes."""
    torch.manual_seed(generator(recipe.training.seed).initial_seed())


def note_data(recipe: Recipe, model: nn.Module, dataset: Dataset) -> None:
    """Tell the network the classes and the image size of its data (changes its metadata only).

    Raises:
        RecipeError: a generative network does not fit the data.
    """
    check_generative(recipe, model, dataset)
    name_classes(recipe, model, dataset)
    note_image_size(recipe, model, dataset)


def name_classes(recipe: Recipe, model: nn.Module, dataset: Dataset) -> None:
    """Set the data set's class names on a classifier or a detector (changes its metadata only).

    Names that are the classes' numbers say nothing; masks and networks that make images have none.
    """
    names = dataset.class_names
    numbers = tuple(str(number) for number in range(len(names)))
    has_names = dataset.task != "segmentation" and recipe.training.loss not in GENERATIVE and names != numbers
    try:
        set_class_names(model, names if has_names else None)
    except ArgumentError as error:
        logger.warning("the class names are not set on the network: %s", error)
        set_class_names(model, None)


def note_image_size(recipe: Recipe, model: nn.Module, dataset: Dataset) -> None:
    """Set the data set's image size on a classifier, if it is not its family's or a middle (changes its metadata only).

    Others get images in their own size, or are of one size.
    """
    set_image_size(model, None)
    shape = image_shape(model)
    classifies = dataset.task == "classification" and recipe.training.loss not in GENERATIVE
    if classifies and shape is not None and (shape[1:] != dataset.image_shape[1:] or dataset.shorter_side):
        set_image_size(model, dataset.image_shape[1:], shorter_side=dataset.shorter_side)


def build_optimizer(section: OptimizerSection, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser over all trainable parameters of `model`, which is not changed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if section.name == "sgd":
        return torch.optim.SGD(parameters, lr=section.lr, momentum=section.momentum, weight_decay=section.weight_decay)
    kind = torch.optim.AdamW if section.name == "adamw" else torch.optim.Adam
    return kind(parameters, lr=section.lr, betas=section.betas, weight_decay=section.weight_decay)


def build_schedule(
    recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, steps_per_epoch: int = 1
) -> TailTruncation | None:
    """Return the tail-truncation of `model`, or None without a `schedule` section.

    Args:
        recipe: the recipe.
        model: its regularised network.
        optimizer: the optimiser whose state is cut along; None to go straight to the target.
        steps_per_epoch: optimiser steps per epoch.

    Raises:
        RecipeError: the target does not fit the network.
    """
    section = recipe.schedule
    if section is None:
        return None
    num_cuts = None if section.fraction is None else _num_cuts(recipe, section, section.fraction, steps_per_epoch)
    num_steps, per_cut = recipe.training.epochs * steps_per_epoch, _steps_per_cut(section, steps_per_epoch)
    if optimizer is not None and section.fraction != 1 and 0 < num_steps <= per_cut * (num_cuts or 1):
        logger.warning(
            "schedule: the cuts end after the last of %d steps, when no training can make up for them; a smaller "
            "schedule.every (one cut in %d steps now) or more epochs bring them earlier",
            num_steps,
            per_cut,
        )
    try:
        return TailTruncation(
            model,
            **_target(recipe, section, model),
            spacing=section.spacing,
            gamma=section.gamma,
            num_steps=num_cuts,
            optimizer=optimizer,
        )
    except (ArgumentError, StructureError) as error:
        raise RecipeError(f"schedule: {error}") from error


def _steps_per_cut(section: ScheduleSection, steps_per_epoch: int) -> int:
    return steps_per_epoch if section.every == "epoch" else section.every


def _num_cuts(recipe: Recipe, section: ScheduleSection, fraction: float, steps_per_epoch: int) -> int:
    """Return in how many cuts the target is reached by this part of the run."""
    num_steps, per_cut = recipe.training.epochs * steps_per_epoch, _steps_per_cut(section, steps_per_epoch)
    num_cuts = round(fraction * num_steps / per_cut)
    if fraction < 1:  # or the last cut would come after the last step
        num_cuts = min(num_cuts, (num_steps - 1) // per_cut)
    return max(1, num_cuts)


def _target(recipe: Recipe, section: ScheduleSection, model: nn.Module) -> dict[str, Any]:
    """Return the target of the cuts; a ratio is one of the weights, and `[norms]` has said what norms keep."""
    norms = norm_counts(model) if recipe.norms is not None else {}
    if section.keep_ratio is None or not norms:
        return {"num_kept": section.num_kept, "keep_ratio": section.keep_ratio, "min_kept": section.min_kept}
    weights = [tensor for tensor in truncated_tensors(model) if tensor.name not in norms]
    return {"num_kept": {x.name: ratio_target(x, section.keep_ratio, section.min_kept) for x in weights}}


def lr_factor(section: LrScheduleSection, progress: float) -> float:
    """Return the learning rate as a fraction of `optimizer.lr`.

    Args:
        section: the form of the curve.
        progress: the part of the run that is over, 0 to 1.
    """
    if section.name == "constant":
        return 1.0
    if section.name == "multistep":
        return section.factor ** sum(progress >= milestone for milestone in section.milestones)
    if progress < section.warmup:
        rise = (1 - math.cos(math.pi * progress / section.warmup)) / 2
        start = ONE_CYCLE_START if section.name == "one_cycle" else 0.0
        return start + (1 - start) * rise
    return (1 + math.cos(math.pi * (progress - section.warmup) / (1 - section.warmup))) / 2


def set_lr(optimizer: torch.optim.Optimizer, section: OptimizerSection, progress: float) -> float:
    """Give the optimiser the learning rate of this moment (see `lr_factor`), which is returned."""
    lr = section.lr * lr_factor(section.lr_schedule, progress)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("relative_lr", 1.0)
    return lr


def check_data(recipe: Recipe, train: Dataset, num_processes: int) -> int:
    """Check that the batches fit the data and the processes, and that changed images have a pixel left.

    Returns:
        The number of steps per epoch.

    Raises:
        RecipeError: not one full batch, a batch that cannot be shared evenly, images below one coarse pixel, a shift by
            a whole image, or a hidden square that is larger than an image, or lies over masks.
    """
    size = recipe.data.batch_size
    if size > len(train):
        raise RecipeError(f"data.batch_size: must be at most {len(train)}, the training images, got {size}")
    if size % num_processes:
        raise RecipeError(
            f"data.batch_size: must be a multiple of the {num_processes} processes that share each batch, got {size}"
        )
    coarse, side = recipe.data.coarse, min(train.image_shape[1:])
    if coarse is not None and coarse.factor > side:
        raise RecipeError(f"data.coarse.factor: must be at most {side}, a side of the images, got {coarse.factor}")
    shift = recipe.data.augmentation.shift
    if shift >= side:
        raise RecipeError(f"data.augmentation.shift: must be less than {side}, a side of the images, got {shift}")
    masks = train.task == "segmentation"
    _check_cutout(recipe.data.augmentation.cutout, side, masks)
    if masks != (recipe.training.loss == "dice_bce") and not masks:
        raise RecipeError(f"training.loss: {recipe.training.loss} is for masks; {recipe.data.name} has classes")
    num_steps = len(train) // size
    _warn_of_few_steps(recipe, num_steps)
    _warn_of_short_parts(recipe)
    return num_steps


def _check_cutout(cutout: int, side: int, masks: bool) -> None:
    if cutout and masks:
        raise RecipeError("data.augmentation.cutout: hides what masks ask for; choose shift and flip")
    if cutout > side:
        raise RecipeError(f"data.augmentation.cutout: must be at most {side}, a side of the images, got {cutout}")


def _warn_of_few_steps(recipe: Recipe, num_steps: int) -> None:
    """Say that a fresh network will hardly learn in so few steps, which is easily overlooked with few images."""
    all_steps = recipe.training.epochs * num_steps
    if recipe.start is None and 0 < all_steps < FEW_STEPS:
        logger.warning(
            "%d epochs of %d steps are %d steps in all, in which a network learns little: a smaller data.batch_size "
            "(here %d) or more training.epochs give more",
            recipe.training.epochs,
            num_steps,
            all_steps,
            recipe.data.batch_size,
        )


def _warn_of_short_parts(recipe: Recipe) -> None:
    """Say which part of the run has no epoch: parts of runs of few epochs are easily empty."""
    coarse, begin, epochs = recipe.data.coarse, recipe.training.round_from, recipe.training.epochs
    if epochs and coarse is not None and coarse.fraction < 1 and epochs - 1 < coarse.fraction * epochs:
        logger.warning(
            "data.coarse.fraction %g of %d epochs are all of them: no epoch has images of full size",
            coarse.fraction,
            epochs,
        )
    if epochs and begin is not None and begin < 1 and epochs - 1 < begin * epochs:
        logger.warning(
            "training.round_from %g of %d epochs leaves none: no step is trained with rounded coefficients",
            begin,
            epochs,
        )


def hold_out(recipe: Recipe, dataset: Dataset) -> tuple[Dataset, Dataset | None]:
    """Return the training images, and those held out for validation, or None if the recipe holds out none.

    Raises:
        RecipeError: there are not so many images.
    """
    if not recipe.data.holdout:
        return dataset, None
    try:
        return split_off(dataset, recipe.data.holdout)
    except ArgumentError as error:
        raise RecipeError(f"data.holdout: {error}") from error


def set_precision(model: nn.Module, dtype: str) -> None:
    """Have the forward round coefficients to `dtype`, straight-through (changes the module)."""
    for tensor in truncated_tensors(model):
        tensor.truncation.precision = dtype


def load_teacher(
    recipe: Recipe, device: torch.device, *, roots: Roots = None, beside: Run | None = None
) -> nn.Module | None:
    """Return the teacher of the `distillation` section on a device, without gradients; None without the section.

    A truncated one runs without its dense weights on a CPU, if the student's precision is float32.

    Args:
        recipe: the recipe.
        device: where the teacher shall be.
        roots: data roots, for `data:PATH` and the network of the `start` section.
        beside: the run that `run:NAME` lies beside.

    Raises:
        DataNotFoundError: the file `data:PATH` lies under no data root.
        RecipeError: the teacher cannot be loaded.
    """
    if recipe.distillation is None:
        return None
    if recipe.distillation.teacher == "start":
        teacher = parent(recipe, roots=roots, beside=beside)
    else:
        teacher = _open_teacher(recipe.distillation, roots, beside)
    is_dense = recipe.training.precision != "fp32" or device.type != "cpu"
    return runnable(teacher, device, dense=is_dense).requires_grad_(False)


def _open_teacher(section: DistillationSection, roots: Roots, beside: Run | None) -> nn.Module:
    key, model = "distillation.teacher", section.model
    try:
        source = find_network(section.teacher, key, roots, beside)
        if not is_tailcut_file(source) and model is None:
            raise ArgumentError(f"{source} is no .tailcut file: name the model of its weights as distillation.model")
        if is_tailcut_file(source) and model is not None:
            raise ArgumentError(f"{source} names its model itself: leave out distillation.model")
        if model is None:
            return open_network(source)
        return open_network(source, model=model.name, arguments=model.arguments)
    except DataNotFoundError:  # no defect of the recipe: tables leave such a row out
        raise
    except (TailcutError, OSError, TypeError) as error:
        raise RecipeError(f"{key}: {error}") from error
