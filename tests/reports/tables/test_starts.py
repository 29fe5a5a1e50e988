import dataclasses

import pytest

from tailcut.format import fingerprint, load
from tailcut.format.zoo import zoo_folder
from tailcut.reports import start_is_older, start_of
from tailcut.runs import Result, read_result


def result(file: str | None, found: str = "") -> Result:
    fresh = read_result(zoo_folder() / "lenet5-776.json")
    if file is None:
        return fresh
    return dataclasses.replace(fresh, recipe=fresh.recipe | {"start": {"file": file}}, start_fingerprint=found)


def test_the_start_is_that_of_the_recipe() -> None:
    assert start_of(result(None)) is None
    assert start_of(result("run:other")) == "run:other"


def test_a_network_of_the_zoo_is_still_the_same_or_another() -> None:
    now = fingerprint(load("zoo:lenet5-7668"))
    assert start_is_older(result("zoo:lenet5-7668", now)) is False
    assert start_is_older(result("zoo:lenet5-7668", "0" * 64)) is True


@pytest.mark.parametrize(
    ("file", "found"),
    [
        (None, ""),
        ("zoo:lenet5-7668", ""),
        ("zoo:gone", "0" * 64),
        ("run:lenet5-7668", "0" * 64),
        ("lenet5-7668", "0" * 64),
    ],
)
def test_where_nothing_is_known_of_it(file: str | None, found: str) -> None:
    assert start_is_older(result(file, found)) is None
