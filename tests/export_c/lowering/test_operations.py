"""Operations of torch by their names."""

import operator

import pytest
import torch

import tailcut
from tailcut.export_c.lowering import (
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
from tailcut.export_c.lowering.graph import op_name
from tailcut.export_c.lowering.lowering import four
from tailcut.export_c.lowering.operations import HANDLERS


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


def test_operations_are_named_without_their_overload() -> None:
    assert op_name(torch.ops.aten.add_.Tensor) == "add_"
    assert op_name(operator.getitem) == "getitem"
