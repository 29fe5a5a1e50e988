"""Exponents of what functions and products read: where an expression changes them, and how many there are."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c import integer_program_of
from tailcut.export_c.integer.units import MAX_UNITS, with_units
from tailcut.export_c.program.program import Kind, Leaf, Map, Op, Operation, Resampling, Segment, Stage, Value
from tailcut.export_c.sources import runtime_folder


def leaf() -> Op:
    return Op(Operation.LEAF, Leaf(Map(2, 3, 3), 2, 3, 3))


def stage(*segments: tuple[Op, ...], behind: tuple[Op, ...] = ()) -> Stage:
    resampling = Resampling.NEAREST if behind else Resampling.AS_IT_IS
    parts = tuple(Segment(2, ops) for ops in segments)
    return Stage(Kind.STORE, Value(parts, (3, 3), (3, 3), resampling, ops=behind), Map(2, 3, 3))


def kinds(ops: tuple[Op, ...]) -> list[str]:
    """Names of operations; of a change of unit the unit."""
    return [str(int(op.low)) if op.kind == Operation.UNIT else op.kind.name for op in ops]


def test_expressions_without_functions_have_one_unit_and_operations_of_their_own() -> None:
    given = stage((leaf(), Op(Operation.SCALE), leaf(), Op(Operation.ADD)))
    made, units = with_units(given)
    (before,), (after,) = given.value.segments, made.value.segments
    assert units.count == 1
    assert kinds(after.ops) == ["LEAF", "SCALE", "LEAF", "ADD"]
    assert all(one is not two for one, two in zip(before.ops, after.ops, strict=True))


def test_each_factor_and_what_a_function_reads_has_a_unit() -> None:
    made, units = with_units(
        stage((leaf(), Op(Operation.SCALE), Op(Operation.SILU), leaf(), Op(Operation.MULTIPLY), Op(Operation.CLAMP)))
    )
    (segment,) = made.value.segments
    assert kinds(segment.ops) == ["3", "LEAF", "SCALE", "1", "SILU", "2", "LEAF", "0", "MULTIPLY", "CLAMP"]
    sources = [units.sources.get(id(op)) for op in segment.ops]
    assert [source for source in sources if source] == [(3,), (1, 2)]


def test_both_terms_of_a_sum_are_in_its_unit() -> None:
    made, _ = with_units(stage((leaf(), Op(Operation.TANH), leaf(), Op(Operation.ADD), leaf(), Op(Operation.ADD))))
    (segment,) = made.value.segments
    assert kinds(segment.ops) == ["1", "LEAF", "0", "TANH", "LEAF", "ADD", "LEAF", "ADD"]


def test_what_stands_behind_a_change_of_size_begins_where_the_expressions_end() -> None:
    made, units = with_units(stage((leaf(),), behind=(Op(Operation.GELU), Op(Operation.SCALE))))
    (segment,) = made.value.segments
    assert kinds(segment.ops) == ["1", "LEAF"]
    assert kinds(made.value.ops) == ["0", "GELU", "SCALE"]
    assert units.count == 2


def test_units_are_shared_by_the_parts_of_a_map() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 2, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([functional.silu(layer(x)) * torch.tanh(layer(x)) for layer in self.layers], 1)

    program = integer_program_of(Parts().eval(), example_input=torch.rand(1, 3, 4, 4))
    assert max(item.units.count for item in program.stages) == 5  # the result, two factors, what each is a function of


def test_more_units_than_there_can_be() -> None:
    functions = (Op(Operation.TANH),) * MAX_UNITS
    with pytest.raises(StructureError, match="at most 15 can be; export with the arithmetic float32"):
        with_units(stage((leaf(), *functions)))


def test_the_c_code_has_room_for_as_many() -> None:
    text = (runtime_folder() / "tailcut_integer_numbers.h").read_text(encoding="utf-8")
    assert f"#define TAILCUT_MAX_UNITS {MAX_UNITS} " in text
