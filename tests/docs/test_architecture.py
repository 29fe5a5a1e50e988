"""The pages on the architecture tell of the house as it is: its layers, and files that exist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "tailcut"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MAP = (ROOT / "docs" / "package-map.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


def layers(container: str) -> list[set[str]]:
    """The layers of a package, from the top, as the contracts of import-linter have them."""
    (contract,) = [one for one in CONTRACTS if one["type"] == "layers" and one["containers"] == [container]]
    return [set(re.split(r" [|:] ", line)) for line in contract["layers"]]


def drawn_arrows() -> list[tuple[str, str]]:
    (diagram,) = re.findall(r"^```mermaid\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    arrows = re.findall(r"^    (\w+)(?:\[.*?\])? --> (.+)$", diagram, re.MULTILINE)
    return [(upper, re.sub(r"\[.*", "", lower)) for upper, rest in arrows for lower in rest.split(" & ")]


def test_every_layer_is_drawn_and_arrows_point_downward() -> None:
    place = {name: number for number, names in enumerate(layers("tailcut")) for name in names}
    bottom = max(place.values())
    drawn = {name for arrow in drawn_arrows() for name in arrow}
    assert drawn == {name for name, number in place.items() if number < bottom} - {"__main__"} | {"bottom"}
    place["bottom"] = bottom
    assert [(upper, lower) for upper, lower in drawn_arrows() if place[upper] >= place[lower]] == []


def test_every_module_of_the_bottom_is_named() -> None:
    (named,) = re.findall(r'bottom\["(.*)"\]', PAGE)
    assert set(named.split(", ")) == layers("tailcut")[-1]


def test_every_package_has_its_row() -> None:
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages == set(re.findall(r"^\| \[`(\w+)`\]\(\.\./src/tailcut/\w+\) \|", PAGE, re.MULTILINE)) & packages


INSIDE = [one["containers"][0].removeprefix("tailcut.") for one in CONTRACTS if one["name"].startswith("Inside ")]


@pytest.mark.parametrize("package", INSIDE)
def test_maps_name_every_part_of_a_package(package: str) -> None:
    found = re.search(rf"^\| in [^\n]*\[`{package}`\].*?(?=^$)", MAP, re.MULTILINE | re.DOTALL)
    assert found is not None
    for name in set().union(*layers(f"tailcut.{package}")):
        assert re.search(rf"[`/]{name}(/|\.py)`", found[0]), name


@pytest.mark.parametrize("page", [PAGE, MAP], ids=["architecture", "map"])
def test_named_files_exist(page: str) -> None:
    paths = [path.relative_to(ROOT).as_posix() for path in SOURCE.rglob("*")]
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", page))
    assert len(named) > 30
    missing = [
        name
        for name in sorted(named)
        if not (ROOT / name).exists() and not any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in paths)
    ]
    assert missing == []


def test_the_path_for_newcomers_has_ten_files() -> None:
    part = PAGE.partition("## One hour's path")[2]
    assert [int(number) for number in re.findall(r"^(\d+)\. \[`", part, re.MULTILINE)] == list(range(1, 11))
