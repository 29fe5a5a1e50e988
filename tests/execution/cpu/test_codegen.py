from dataclasses import replace

import pytest
import torch
from tests.execution.cpu.test_program_calls import (
    leaf,
    one_layer,
    residual_chain,
)

from tailcut.execution.cpu import codegen, compiled, program_calls, tiles
from tailcut.execution.ir.expression import Affine
from tailcut.execution.ir.programs import program_of

pytest.importorskip("numba")


@pytest.fixture(autouse=True)
def _every_call_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codegen, "MIN_FLOPS", 0)
    monkeypatch.setattr(compiled, "MIN_ELEMENTS", 0)
    torch.manual_seed(0)


def test_what_is_no_number_stays_so_and_threads_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_calls, "pieces", lambda *_: [(0, 600), (600, 1400)])
    leaves, [part] = one_layer(6, 3)
    with torch.no_grad():
        leaves[0][0, 1, 500] = float("nan")
    found = tiles.project([part], torch.ones(1, 6, dtype=torch.float64), engine="compiled")
    assert found.isnan().nonzero().tolist() == [[0, 1, 500]]
    torch.testing.assert_close(found, tiles.project([part], torch.ones(1, 6).double()), equal_nan=True)


def test_a_form_tells_all_that_a_loop_is_written_for() -> None:
    _, [part] = residual_chain()
    program = program_of(part)
    assert program is not None
    form = program_calls.form_of(program, 3)
    assert (form.num_rows, form.num_columns, form.num_out) == (12, 12, 4)
    assert form.code == ((0, 0, 4, 0, 0), (3, 0, 0, 0, 0), (0, 4, 8, 4, 1), (4, 1, 2, 0, 0), (3, 3, 0, 0, 0))
    assert codegen.forward_loop(form) is codegen.forward_loop(replace(form))


def test_sizes_alone_say_which_calls_have_a_loop_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    program = program_of(Affine(8, leaf(4, 1, 600), leaf(8, 4), None))
    assert program is not None
    form = program_calls.form_of(program, 4)
    assert codegen.pays(form, codegen.MIN_FLOPS)
    assert not codegen.pays(form, codegen.MIN_FLOPS - 1)
    assert not codegen.pays(replace(form, num_out=codegen.MAX_SUMS), codegen.MIN_FLOPS)
    shortest = int(codegen.MIN_FLOPS / (2 * 8 * (4 + 4)))
    assert program_calls.pays(program, 4, shortest + 1, is_projected=True)
    assert not program_calls.pays(program, 4, shortest - 1, is_projected=True)
