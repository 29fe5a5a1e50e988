"""What the tests of the weights share: the paper's equation 2 by SciPy."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.fft import dctn, idctn
from torch import Tensor, from_numpy

Truncate = Callable[..., Tensor]


def _truncate(
    weight: Tensor, num_kept: int, axes: Sequence[int] | None = None, weights: Sequence[int] | None = None
) -> Tensor:
    chosen = tuple(range(weight.ndim)) if axes is None else tuple(axes)
    weights = [1] * len(chosen) if weights is None else weights
    whole = [axis for axis in range(weight.ndim) if axis not in chosen]
    spectrum = weight.detach().double().numpy()
    if chosen:
        spectrum = dctn(spectrum, axes=chosen, norm="ortho")

    def place(index: tuple[int, ...]) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        frequency = tuple(index[axis] for axis in chosen)
        total = sum(weight * part for weight, part in zip(weights, frequency, strict=True))
        return total, frequency, tuple(index[axis] for axis in whole)

    order = sorted(itertools.product(*(range(size) for size in weight.shape)), key=place)
    kept = np.zeros(weight.shape)
    for index in order[: min(num_kept, math.prod(weight.shape))]:
        kept[index] = spectrum[index]
    return from_numpy(idctn(kept, axes=chosen, norm="ortho") if chosen else kept).to(weight.dtype)


@pytest.fixture(scope="session")
def truncate() -> Truncate:
    """(weight, num_kept, axes=None, weights=None) -> the weight of its first coefficients, by SciPy and a sort."""
    return _truncate
