"""Losses: cross entropy, soft Dice for masks, distillation, and those of generative networks."""

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_div,
    log_softmax,
    sigmoid,
    softmax,
)

from tailcut.errors import ArgumentError
from tailcut.training.recipe.schema import DistillationSection, TrainingSection


def label_loss(outputs: Tensor, targets: Tensor, section: TrainingSection) -> Tensor:
    """Return the loss against the labels, as the recipe's `training` section defines it.

    Args:
        outputs: (batch, classes) or (batch, classes, height, width).
        targets: int64 (batch,) or (batch, height, width).
        section: names the loss and its label smoothing.

    Returns:
        A scalar.
    """
    outputs = outputs.float()
    if outputs.ndim == 4 and outputs.shape[1] == 1:  # one output per pixel: the logit of foreground
        smoothing = section.label_smoothing
        entropy = binary_cross_entropy_with_logits(outputs[:, 0], targets.float() * (1 - smoothing) + smoothing / 2)
    else:
        entropy = cross_entropy(outputs, targets, label_smoothing=section.label_smoothing)
    return entropy + soft_dice_loss(outputs, targets) if section.loss == "dice_bce" else entropy


def soft_dice_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 - Dice's coefficient of the probabilities of foreground, mean over images.

    Args:
        outputs: (batch, 1 or 2, height, width), logits.
        targets: int64 (batch, height, width) of 0 and 1.

    Returns:
        A scalar in 0..1.
    """
    probability = sigmoid(outputs[:, 0]) if outputs.shape[1] == 1 else softmax(outputs, dim=1)[:, 1]
    actual = targets.to(probability.dtype)
    common = (probability * actual).sum(dim=(1, 2))
    both = probability.sum(dim=(1, 2)) + actual.sum(dim=(1, 2))
    return 1 - ((2 * common + 1) / (both + 1)).mean()  # + 1: defined for two empty masks


def distillation_loss(outputs: Tensor, teacher_outputs: Tensor, section: DistillationSection) -> Tensor:
    """Return the Kullback-Leibler divergence from the teacher's softened probabilities, times temperature squared.

    Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), section 2: the square keeps the size
    of the gradients independent of the temperature.

    Args:
        outputs: (batch, classes, ...), logits.
        teacher_outputs: the same shape.
        section: gives the temperature.

    Returns:
        A scalar: the mean over images (and pixels).

    Raises:
        ArgumentError: the shapes differ.
    """
    if outputs.shape != teacher_outputs.shape:
        raise ArgumentError(
            f"distillation.teacher: must give outputs of shape {tuple(outputs.shape)}, as the network does, got "
            f"{tuple(teacher_outputs.shape)}"
        )
    if outputs.ndim == 4 and outputs.shape[1] == 1:  # as label_loss: the logit of foreground, against 0 for background
        outputs, teacher_outputs = (torch.cat([torch.zeros_like(one), one], 1) for one in (outputs, teacher_outputs))
    temperature = section.temperature
    student = log_softmax(outputs.float() / temperature, dim=1)
    teacher = log_softmax(teacher_outputs.float() / temperature, dim=1)
    divergence = kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1).mean()
    return divergence * temperature**2


def adversarial_loss(logits: Tensor, *, real: bool) -> Tensor:
    """Return the cross entropy of a discriminator's outputs against real or fake. A scalar, the mean over images.

    The discriminator learns by `real` as it is; the generator by real=True for what it made (Goodfellow et al.,
    "Generative Adversarial Nets" (2014), section 3: the gradient that does not vanish).

    Args:
        logits: (batch, 1), positive for real.
        real: what the images shall be taken for.
    """
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def total_loss(
    outputs: Tensor,
    targets: Tensor,
    section: TrainingSection,
    distillation: DistillationSection | None = None,
    teacher_outputs: Tensor | None = None,
) -> Tensor:
    """Return the loss of a step: against the labels and, if there is one, a teacher. A scalar."""
    loss = label_loss(outputs, targets, section)
    if distillation is None or teacher_outputs is None:
        return loss
    return torch.lerp(loss, distillation_loss(outputs, teacher_outputs, distillation), distillation.weight)
