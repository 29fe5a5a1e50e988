from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tailcut = Callable[..., Any]


def test_two_networks_are_shown_side_by_side(tailcut: Tailcut) -> None:
    shown = tailcut("compare", "zoo:lenet300-2816", "zoo:lenet300-4238")
    assert shown.code == 0, shown.err
    assert "structure: the same" in shown.out
    assert "2,816" in shown.out
    assert "4,238" in shown.out
    assert "outputs for a random input of 1 x 1 x 28 x 28" in shown.out


def test_machines_get_an_object(tailcut: Tailcut, packed: Path) -> None:
    shown = tailcut("compare", packed, "zoo:lenet300-2816", "--json")
    assert shown.code == 0, shown.err
    assert [network["num_kept"] for network in shown.json["networks"]] == [150, 2816]
    assert shown.json["same_structure"] is False  # one has biases
    assert shown.json["outputs"]["input_shape"] == [1, 1, 28, 28]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["zoo:lenet5-776"], 2, "required: FILE"),
        (["zoo:lenet5-776", "nowhere.tailcut"], 1, "no such file: nowhere.tailcut"),
        (["zoo:lenet5-776", "zoo:nothing"], 2, "the zoo has no"),
    ],
)
def test_bad_usage(words: list[str], code: int, message: str, tailcut: Tailcut) -> None:
    shown = tailcut("compare", *words)
    assert shown.code == code
    assert message in shown.err
