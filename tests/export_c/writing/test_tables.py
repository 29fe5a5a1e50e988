"""Programs as rows of the C structures."""

import numpy as np
from tests.export_c.networks import unet_program

from tailcut.export_c.program.memory import plan
from tailcut.export_c.program.weights import StoredNumbers
from tailcut.export_c.writing.tables import Arrays, NumberType, Tables


def test_equal_numbers_are_there_once() -> None:
    arrays = Arrays()
    first = arrays.pointer(StoredNumbers(np.arange(4, dtype=np.int8)), "coefficients")
    again = arrays.pointer(StoredNumbers(np.arange(4, dtype=np.int8), 2.0), "dense weights")
    other = arrays.pointer(StoredNumbers(np.arange(4, dtype=np.int16)), "dense weights")
    assert first == again != other
    assert arrays.bytes_for == {"coefficients": 4, "dense weights": 8, "other parameters": 0}


def test_rows_point_at_rows() -> None:
    """Each index in a row is that of a row which is there."""
    program = unet_program()
    plan(program)
    rows = Tables(program).rows
    assert len(rows["stage"]) == len(program.stages)
    for row in rows["stage"]:
        for kind, name in (("leaf", "leaves"), ("segment", "segments"), ("op", "ops")):
            assert row.fields[f"first_{kind}"] + row.fields[f"num_{name}"] <= len(rows[kind])
        assert -1 <= row.fields["weight"] < len(rows["weight"])
    assert all(row.fields["array"][3] == NumberType.FLOAT32 for row in rows["weight"])
