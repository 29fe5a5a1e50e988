"""Operations of torch by their names."""

import pytest

import tailcut
from tailcut.export_c.lowering.lowering import four
from tailcut.export_c.lowering.operations import (
    activations,
    attention,
    layers,
    norms,
    permutation,
    pointwise,
    recurrent,
    resizing,
    shapes,
)
from tailcut.export_c.lowering.operations.table import HANDLERS


def test_weights_have_two_axes_of_channels() -> None:
    assert four((3, 4)) == (3, 4, 1, 1)
    assert four((3, 4, 5)) == (3, 4, 1, 5)
    assert four((3, 4, 5), is_column=True) == (3, 4, 5, 1)
    with pytest.raises(tailcut.errors.StructureError, match="of shape"):
        four((3, 4, 5, 6, 7))
    assert {"conv2d", "linear", "batch_norm", "cat"} <= set(HANDLERS)


def test_the_operations_are_those_of_their_modules() -> None:
    for module in (activations, attention, layers, norms, permutation, pointwise, recurrent, resizing, shapes):
        assert module.HANDLERS
        assert set(module.HANDLERS) <= set(HANDLERS)
