"""Initialisation of coefficients from the `regularization` section of a recipe."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from tailcut.data import Dataset
from tailcut.errors import ArgumentError, RecipeError, StructureError
from tailcut.evaluation.random_batches import network_inputs
from tailcut.training.recipe.schema import Recipe, RegularizationSection
from tailcut.weights import (
    TruncatedTensor,
    initialize_coefficients,
    initialize_norms,
    kept_counts,
    lsuv_init,
    norm_counts,
    regularize,
    to_dense,
    truncated_tensors,
)


def regularized(model: nn.Module, section: RegularizationSection | None, *, truncates_norms: bool = False) -> nn.Module:
    """Return the model, regularised as in the section (changes the module); unchanged without a section.

    A model that is truncated already keeps its coefficients if the section is empty. Otherwise a dense copy of
    it is regularised, which must have a corner for each tensor again: coefficients inside of the old and the new one
    keep their values, those new to it are zero. With `truncates_norms` the caller truncates batch norm afterwards.

    Raises:
        RecipeError: the section does not fit the network.
    """
    if section is None:
        return model
    before = {tensor.name for tensor in truncated_tensors(model)}
    if before:
        if section == RegularizationSection():
            return model
        if section.keep_ratio is None and section.num_kept is None:
            raise RecipeError(
                "regularization: the network of [start] is truncated, and without keep_ratio or num_kept all of its "
                "coefficients would come back; give one of them, or leave the section empty to go on with those it has"
            )
        before -= norm_counts(model).keys() if truncates_norms else set()
        model = to_dense(model)
    _regularize(model, section)
    dense = sorted(before - kept_counts(model).keys())
    if dense:
        raise RecipeError(
            f"regularization: the network of [start] is truncated, and would be left dense in {', '.join(dense)}; name "
            "these too, or leave the section empty to go on with its coefficients (a [schedule] cuts them further)"
        )
    if section.initialization != "model":
        initialize_coefficients(model, "he" if section.initialization == "lsuv" else section.initialization)
    if section.norm_std:
        try:
            initialize_norms(model, section.norm_std)
        except StructureError as error:
            raise RecipeError(f"regularization.norm_std: {error}") from error
    if section.num_drawn is not None:
        _draw(model, section.num_drawn, enlarge=section.initialization != "model")
    return model


def _regularize(model: nn.Module, section: RegularizationSection) -> None:
    """`regularize` as in the section (changes the module); its errors are the recipe's."""
    overrides = {pattern: override.model_dump(exclude_none=True) for pattern, override in section.overrides.items()}
    try:
        regularize(
            model,
            keep_ratio=section.keep_ratio,
            num_kept=section.num_kept,
            min_kept=section.min_kept,
            axes=section.axes,
            order_weights=section.order_weights,
            include=section.include,
            exclude=section.exclude,
            overrides=overrides,
            warn=False,  # it is trained next
        )
    except ArgumentError as error:
        raise RecipeError(f"regularization: {error}") from error


def standardize_start(recipe: Recipe, model: nn.Module, dataset: Dataset) -> None:
    """Scale the coefficients by the outputs of the layers (changes the module) if the initialisation is `lsuv`.

    The outputs are those for one batch of `dataset`, which is the same for the same seed.

    Raises:
        RecipeError: the outputs of a layer have no variance that could be made 1.
    """
    section = recipe.regularization
    if section is None or section.initialization != "lsuv":
        return
    (inputs,) = network_inputs(model, dataset, recipe.data.batch_size, 1, recipe.training.seed)
    try:
        lsuv_init(model, inputs)
    except (ArgumentError, StructureError) as error:
        raise RecipeError(f"regularization.initialization 'lsuv': {error}") from error


def num_in_use(model: nn.Module, section: RegularizationSection | None) -> int:
    """Return the number of coefficients in use: the kept ones, or with drawn coefficients those that are not zero.

    The model is not changed.
    """
    if section is None or section.num_drawn is None:
        return sum(kept_counts(model).values())
    return sum(int(tensor.vector.count_nonzero()) for tensor in truncated_tensors(model))


def _draw(model: nn.Module, counts: int | Mapping[str, int], *, enlarge: bool) -> None:
    """Draw the coefficients that each tensor keeps, by torch's global generator (changes the module).

    The others are zero and get no gradient. `enlarge` preserves the variance of the weights.
    """
    for tensor in truncated_tensors(model):
        number = _number_drawn(tensor, counts)
        mask = torch.zeros_like(tensor.vector.detach())
        mask[torch.randperm(tensor.num_kept)[:number]] = 1.0
        with torch.no_grad():
            tensor.vector.mul_(mask * (math.sqrt(tensor.num_kept / number) if enlarge else 1.0))
        tensor.vector.register_hook(lambda gradient, mask=mask: gradient * mask.to(gradient))


def _number_drawn(tensor: TruncatedTensor, counts: int | Mapping[str, int]) -> int:
    number = min(counts, tensor.num_kept) if isinstance(counts, int) else counts.get(tensor.name)
    if number is None or number > tensor.num_kept:
        raise RecipeError(
            f"regularization.num_drawn: expected at most {tensor.num_kept} coefficients of {tensor.name}, which keeps "
            f"so many, got {'none' if number is None else number}"
        )
    return number
