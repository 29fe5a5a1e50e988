from collections.abc import Callable
from typing import Any

from tailcut.format import zoo_names
from tailcut.structure import model_names

Tailcut = Callable[..., Any]


def test_json_lists_both_kinds_by_name(tailcut: Tailcut) -> None:
    outcome = tailcut("models", "--json")
    assert outcome.code == 0
    assert list(outcome.json) == ["models", "zoo"]
    assert [entry["name"] for entry in outcome.json["models"]] == model_names()
    assert [entry["name"] for entry in outcome.json["zoo"]] == zoo_names()


def test_a_table_is_shown(tailcut: Tailcut) -> None:
    outcome = tailcut("models")
    assert outcome.code == 0
    assert "lenet5" in outcome.out
    assert "430,500" in outcome.out or "431,080" in outcome.out
