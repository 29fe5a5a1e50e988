import copy
import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.structure import are_names, as_metadata, class_names, create_model, name_of, set_class_names

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def test_a_network_is_told_and_forgets() -> None:
    model = nn.Linear(2, 3)
    assert class_names(model) is None
    set_class_names(model, ["a", "b", "c"])
    assert class_names(model) == class_names(copy.deepcopy(model)) == ("a", "b", "c")
    assert not model.state_dict().keys() - {"weight", "bias"}
    set_class_names(model, None)
    assert class_names(model) is None


def test_a_view_has_the_names_of_its_source() -> None:
    model = create_model("lenet300")
    tailcut.regularize(model, num_kept=100)
    fast = tailcut.fuse(model)
    set_class_names(fast, DIGITS)
    assert class_names(fast) == class_names(model) == DIGITS


@pytest.mark.parametrize(
    "names", [[], "abc", ["a", 1], ["a\x1b[2J"], ["\u202e"], ["line\nbreak"], ["x" * 201], {"a": 1}, 3]
)
def test_what_is_no_list_of_names(names: Any) -> None:
    assert not are_names(names)
    model = nn.Linear(2, 3)
    with pytest.raises(ArgumentError, match="class names must be a list of texts of at most 200 printable"):
        set_class_names(model, names)
    assert class_names(model) is None


def test_more_names_than_a_file_has_room_for() -> None:
    with pytest.raises(ArgumentError, match="21000 class names take"):
        set_class_names(nn.Linear(2, 3), [f"class {number}" for number in range(21_000)])


def test_metadata_with_more_names_than_that_can_be_loaded(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(4_000)]
    tailcut.save(create_model("lenet300"), tmp_path / "a.tailcut", metadata={"class_names": names})
    assert class_names(tailcut.load(tmp_path / "a.tailcut")) is None
    assert tailcut.inspect(tmp_path / "a.tailcut").metadata == {"class_names": names}


def test_a_file_without_names_takes_none_away(tmp_path: Path) -> None:
    tailcut.save(create_model("lenet300"), tmp_path / "a.tailcut")
    mine = create_model("lenet300")
    set_class_names(mine, DIGITS)
    assert class_names(tailcut.load(tmp_path / "a.tailcut", into=mine)) == DIGITS


def test_names_for_another_number_of_classes_are_not_used() -> None:
    model = nn.Linear(2, 3)
    assert name_of(model, 1, 3) is None
    set_class_names(model, ["a", "b", "c"])
    assert name_of(model, 1, 3) == "b"
    assert name_of(model, 1, 4) is None


@pytest.mark.parametrize("registered", [True, False])
def test_a_file_keeps_them(registered: bool, tmp_path: Path) -> None:
    model, file = create_model("lenet300"), tmp_path / "a.tailcut"
    set_class_names(model, DIGITS)
    tailcut.save(model, file, metadata={"by": "me"}, registered=registered)
    again = tailcut.load(file, into=None if registered else create_model("lenet300"))
    assert class_names(again) == DIGITS
    report = tailcut.inspect(file)
    assert report.metadata == {"class_names": list(DIGITS), "by": "me"}
    assert "classes          10: zero, one, two" in str(report)
    assert "metadata         {'by': 'me'}" in str(report)
    tailcut.save(again, tmp_path / "b.tailcut", metadata={"by": "me"}, registered=registered)
    assert (tmp_path / "b.tailcut").read_bytes() == file.read_bytes()


def test_metadata_of_that_name_that_holds_no_names_stays_the_user_s(tmp_path: Path) -> None:
    model, file = create_model("lenet300"), tmp_path / "a.tailcut"
    set_class_names(model, DIGITS)
    tailcut.save(model, file, metadata={"class_names": ["\x1b[2J"]})
    assert class_names(tailcut.load(file)) is None
    report = tailcut.inspect(file)
    assert report.metadata == {"class_names": ["\x1b[2J"]}
    assert "\x1b" not in str(report)
    assert "class_names" in str(report)


def test_other_formats_store_them_as_a_text() -> None:
    model = create_model("lenet300")
    assert as_metadata(model) == {}
    set_class_names(model, ["naïve", 'a "b"'])
    assert as_metadata(model) == {"class_names": '["naïve", "a \\"b\\""]'}
    assert json.loads(as_metadata(model)["class_names"]) == ["naïve", 'a "b"']
