"""Whether a training runs through the fused network: decided from sizes alone, so that it can be repeated."""

import torch
from torch import Tensor, nn

from tailcut.execution import FusedNetwork, pays_in_training
from tailcut.training.recipe import Recipe
from tailcut.weights import truncated_tensors

Execution = str
DENSE, FUSED = "dense", "fused"


def choose_execution(recipe: Recipe, model: nn.Module, pictures: Tensor) -> Execution:
    """How the network trains from here on: "dense" (its weights are rebuilt in each step) or "fused".

    The answer depends on the recipe, on the corners as they are and on the shape of the batch alone; the model is not
    changed. It may be asked for again only where vectors are shortened.

    Args:
        recipe: its `training.execution` decides, if it is not "auto".
        model: the network, on its device.
        pictures: a batch like those of the training, on that device.
    """
    wanted = recipe.training.execution
    if wanted != "auto":
        return wanted
    if recipe.training.precision != "fp32" or not truncated_tensors(model):
        return DENSE
    mode = model.training
    try:
        return FUSED if pays_in_training(model.train(), pictures) else DENSE
    finally:
        model.train(mode)


def trained_as(execution: Execution, model: nn.Module) -> nn.Module:
    """The module whose forward pass trains `model` in this way; it shares all parameters with it."""
    return FusedNetwork(model, engine="torch") if execution == FUSED else model


def example_batch(recipe: Recipe, picture_shape: tuple[int, ...], num_processes: int, device: torch.device) -> Tensor:
    """A batch of zeros of the shape that one process gets in each step."""
    return torch.zeros(recipe.data.batch_size // num_processes, *picture_shape, device=device)
