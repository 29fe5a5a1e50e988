"""Names of the nodes of traced graphs."""

import operator

import torch

from tailcut.export_c.lowering.graph import op_name


def test_operations_are_named_without_their_overload() -> None:
    assert op_name(torch.ops.aten.add_.Tensor) == "add_"
    assert op_name(operator.getitem) == "getitem"
