"""Choice between fused and dense training, from sizes alone, so that it is reproducible."""

import torch
from torch import Tensor, nn

from tailcut.errors import TrainingError, how_to_install
from tailcut.evaluation.evaluate import fitting
from tailcut.execution import FusedNetwork, pays_in_training
from tailcut.execution.cpu.compiled import is_installed
from tailcut.training.recipe.schema import Recipe
from tailcut.weights import truncated_tensors

Execution = str
DENSE, FUSED, COMPILED = "dense", "fused", "compiled"


def choose_execution(recipe: Recipe, model: nn.Module, images: Tensor) -> Execution:
    """Return the execution mode of the training from here on.

    "dense": its weights are rebuilt in each step. "fused": through `tailcut.fuse`. "compiled": the same, with numba's
    loops, on a CPU where numba is installed. Beside that the answer depends on the recipe, on the corners as they are
    and on the shape of the batch alone. The model is not changed. It may be asked for again only where vectors are
    shortened.

    Args:
        recipe: its `training.execution` decides, if it is not "auto".
        model: the network, on its device.
        images: a batch like those of the training, on that device.

    Raises:
        ArgumentError: the network cannot take images of this shape.
    """
    wanted = recipe.training.execution
    fused = COMPILED if images.device.type == "cpu" and is_installed() else FUSED
    if wanted != "auto":
        return fused if wanted == FUSED else wanted
    recorded = recipe.training.cuda_graph and images.device.type == "cuda"
    if recorded or recipe.training.precision != "fp32" or not truncated_tensors(model):
        return DENSE
    mode = model.training
    try:
        with fitting(images):
            return fused if pays_in_training(model.train(), images) else DENSE
    finally:
        model.train(mode)


def trained_as(execution: Execution, model: nn.Module) -> nn.Module:
    """Return the module whose forward trains `model` in this mode; it shares all parameters with `model`.

    Raises:
        TrainingError: the way is "compiled", as a checkpoint may say, and numba is not installed.
    """
    if execution == DENSE:
        return model
    if execution == COMPILED and not is_installed():
        raise TrainingError(
            "this training began with compiled loops, and other loops would end in other digits: "
            f"{how_to_install('fast')}, or begin anew in another folder"
        )
    return FusedNetwork(model, engine="compiled" if execution == COMPILED else "torch")


def refresh_fused(module: nn.Module) -> None:
    """Have fused networks in `module` read their sources anew, after a change that they do not follow by themselves."""
    for part in module.modules():
        if isinstance(part, FusedNetwork):
            part.refresh()


def example_batch(recipe: Recipe, image_shape: tuple[int, ...], num_processes: int, device: torch.device) -> Tensor:
    """Return a batch of zeros with the shape of one process's batch."""
    return torch.zeros(recipe.data.batch_size // num_processes, *image_shape, device=device)
