import copy
from dataclasses import dataclass
from typing import Self

import pytest
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.structure import (
    Base,
    Edit,
    Reader,
    Record,
    Writer,
    add_edit,
    base_of,
    edit_kind,
    record_of,
    register_edit,
    set_record,
)
from tailcut.structure import record as record_module


@dataclass(frozen=True)
class Widen(Edit):
    """An edit as small as can be."""

    number = 201
    kind = "widen"

    width: int

    def apply(self, model: nn.Module) -> None:
        model.__dict__["width"] = self.width

    def check(self, model: nn.Module) -> None:
        return None

    def current(self, model: nn.Module) -> Self:
        return self

    def encode(self, writer: Writer, model: nn.Module | None) -> None:
        writer.uint(self.width)

    @classmethod
    def decode(cls, reader: Reader, model: nn.Module | None) -> Self:
        return cls(reader.uint())


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "_edit_kinds", dict(record_module._edit_kinds))


def test_a_plain_module_has_an_empty_record() -> None:
    model = nn.Linear(2, 2)
    assert record_of(model) == Record(None, [])
    assert base_of(model) is None
    assert record_of(model) is not record_of(model)


def test_edits_are_appended_in_order() -> None:
    model = nn.Linear(2, 2)
    set_record(model, Record(Base("net", {"width": 3})))
    add_edit(model, Widen(4))
    before = record_of(model)
    add_edit(model, Widen(5))
    assert record_of(model) == Record(Base("net", {"width": 3}), [Widen(4), Widen(5)])
    assert before.edits == [Widen(4)]
    assert base_of(model) == Base("net", {"width": 3})


def test_record_survives_deepcopy_and_is_the_copys_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    set_record(model, Record(Base("net", {}), [Widen(4)]))
    copied = copy.deepcopy(model)
    add_edit(copied, Widen(5))
    assert record_of(copied).edits == [Widen(4), Widen(5)]
    assert record_of(model).edits == [Widen(4)]


def test_record_is_no_state_and_no_module() -> None:
    model = nn.Linear(2, 2)
    add_edit(model, Widen(4))
    assert set(model.state_dict()) == {"weight", "bias"}
    assert len(list(model.modules())) == 1
    model.double().to("meta")
    assert record_of(model).edits == [Widen(4)]


def test_record_is_of_this_module_alone() -> None:
    inner = nn.Linear(2, 2)
    add_edit(inner, Widen(4))
    assert record_of(nn.Sequential(inner)) == Record(None, [])


def test_an_empty_record_leaves_no_trace() -> None:
    model = nn.Linear(2, 2)
    untouched = set(model.__dict__)
    add_edit(model, Widen(4))
    assert set(model.__dict__) != untouched
    set_record(model, Record(None, []))
    assert set(model.__dict__) == untouched
    set_record(model, Record(None, []))


def test_edits_are_found_by_number() -> None:
    assert edit_kind(201) is None
    assert register_edit(Widen) is Widen
    assert edit_kind(201) is Widen
    with pytest.raises(ArgumentError, match="edit number 201 is taken by 'widen'"):
        register_edit(Widen)


def test_an_edit_keeps_no_coefficients_by_default() -> None:
    assert Widen(3).coefficients(nn.Linear(2, 2)) == []
    assert Widen(3).coefficient_layouts() == []
