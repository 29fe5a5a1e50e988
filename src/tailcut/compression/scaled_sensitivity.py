"""Sensitivities made fit for training: in other units, with steps that can be coded, without error feedback."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from tailcut.compression.lattices import TrainedTensor
from tailcut.format.row_steps import fitted_size
from tailcut.format.sensitivity import Sensitivity

LEAST_STEP = 2.0**-17
"""The finest step of a tensor, in parts of its largest number: one that is four times as fine could not be coded."""

LARGEST_LOG = 128
"""Base-2 logarithms of variances are smaller than this."""


def fitted(sensitivity: Sensitivity, trained: Sequence[TrainedTensor]) -> Sensitivity:
    """Return the sensitivity without blocks: in their place steps that suit them, along the axes of plain weights."""
    blocks = {block.names[0]: block for block in sensitivity.blocks if len(block.names) == 1}
    curvature = dict(sensitivity.curvature)
    shifts: dict[str, Mapping[int, np.ndarray]] = {}
    for tensor in trained:
        if tensor.name in blocks and not tensor.is_kept and curvature.get(tensor.name, 0.0) > 0:
            size, found = fitted_size(blocks[tensor.name], tensor.shape, curvature[tensor.name] ** -0.5)
            curvature[tensor.name] = size**-2
            shifts |= {tensor.name: found} if found else {}
    return replace(sensitivity, curvature=curvature, shifts=shifts, blocks=())


def codable(sensitivity: Sensitivity, values: Mapping[str, Tensor]) -> Sensitivity:
    """Return the sensitivity without steps that are too fine to be coded, whatever the transform of the values."""
    curvature = dict(sensitivity.curvature)
    for name in curvature.keys() & values.keys():
        norm = float(values[name].detach().double().norm())
        if norm > 0:
            curvature[name] = min(curvature[name], (LEAST_STEP * norm) ** -2)
    most = (LEAST_STEP * LARGEST_LOG) ** -2
    logs = {name: min(size, most) for name, size in sensitivity.log_curvature.items()}
    return replace(sensitivity, curvature=curvature, log_curvature=logs)


def times(sensitivity: Sensitivity, factor: float) -> Sensitivity:
    """Return the sensitivity with all curvatures times a factor."""
    return replace(
        sensitivity,
        curvature={name: factor * size for name, size in sensitivity.curvature.items()},
        log_curvature={name: factor * size for name, size in sensitivity.log_curvature.items()},
    )
