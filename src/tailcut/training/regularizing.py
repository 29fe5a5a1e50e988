"""From the `regularization` section of a recipe to coefficients and their initial values."""

import math

import torch
from torch import nn

from tailcut.errors import ArgumentError, RecipeError
from tailcut.training.recipe import RegularizationSection
from tailcut.weights import regularize, truncated_tensors


def regularized(model: nn.Module, section: RegularizationSection | None) -> nn.Module:
    """The model itself, regularised as the section says (changes the module); as it is without a section.

    Raises:
        RecipeError: the section does not fit the network.
    """
    if section is None:
        return model
    try:
        regularize(
            model,
            keep_ratio=section.keep_ratio,
            num_kept=section.num_kept,
            axes=section.axes,
            order_weights=section.order_weights,
            include=section.include,
            exclude=section.exclude,
            overrides={
                pattern: override.model_dump(exclude_none=True) for pattern, override in section.overrides.items()
            },
        )
    except ArgumentError as error:
        raise RecipeError(f"regularization: {error}") from error
    _initialize(model, section.initialization)
    return model


def _initialize(model: nn.Module, initialization: str) -> None:
    """Give the coefficients the variance that the recipe wants (changes the module).

    The transform is orthonormal: white noise of N coefficients has the same variance in the tensor, and the first
    n of them hold n / N of its energy.
    """
    with torch.no_grad():
        for tensor in truncated_tensors(model):
            enlarged = math.sqrt(math.prod(tensor.shape) / tensor.num_kept)
            if initialization == "rescaled":
                tensor.vector.mul_(enlarged)
            elif initialization == "he" and len(tensor.shape) == 1:
                tensor.vector.zero_()  # a bias
            elif initialization == "he":
                num_inputs = math.prod(tensor.shape[1:])
                tensor.vector.normal_(std=enlarged * math.sqrt(2 / num_inputs))
