import torch
from torch import Tensor

from tailcut.execution.ir import programs
from tailcut.execution.ir.expression import Affine, Function, Given, Pointwise

RELU = Function("relu", torch.relu, torch.relu_, True, 1, (0.0, float("inf")))
ADD = Function("add", torch.add)


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


def test_unknown_functions_and_too_many_maps_are_left_to_the_tiles() -> None:
    part = Affine(4, leaf(2, 1, 600), leaf(4, 2), None)
    assert programs.program_of(Pointwise(4, Function("sigmoid", torch.sigmoid), (part,))) is None
    assert programs.program_of(Pointwise(4, Function("sub", torch.sub), (part, part))) is None
    maps = tuple(Given(4, leaf(4, 1, 600)) for _ in range(3))
    assert programs.program_of(Pointwise(4, ADD, (part, *maps[:2]))) is not None
    assert programs.program_of(Pointwise(4, ADD, (part, *maps))) is None
    assert programs.program_of(Pointwise(4, RELU, (maps[0],))) is None


def test_a_source_used_twice_is_read_once() -> None:
    z = leaf(5, 1, 3000)
    part = Pointwise(9, ADD, (Affine(9, z, leaf(9, 5), None), Affine(9, z, leaf(9, 5), None)))
    program = programs.program_of(part)
    assert program is not None
    assert len(program.low_rank) == 1
    assert program.code.tolist() == [[0, 0, 5, 0, 0], [0, 0, 5, 5, 1], [4, 0, 1, 0, 0]]
