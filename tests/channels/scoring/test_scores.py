"""Scores as a dict, and their file: whole or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tailcut.channels import Formula, MapParts, Scores
from tailcut.channels.scoring.scores import formula_settings
from tailcut.errors import ArgumentError, DataError


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def spectral(formula: Formula | None = None) -> Scores:
    formula = formula or Formula()
    parts = {
        "conv1": MapParts(vector(3, 1), vector(0.5, 0.25), vector(1.6, 0.2), vector(2, 4)),
        "layer1.conv": MapParts(vector(1e-300), vector(1), vector(0.1), vector(1 / 3)),
    }
    importance = {name: formula.combine(*part) for name, part in parts.items()}
    return Scores(
        importance,
        method="spectral",
        settings=formula_settings(formula),
        num_images=640,
        parts=parts,
        skipped={"aux": "it did not run"},
    )


def assert_same(found: Scores, expected: Scores) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == torch.float64
        assert torch.equal(found[name], values)
    assert (found.method, found.settings, found.num_images, found.skipped) == (
        expected.method,
        expected.settings,
        expected.num_images,
        expected.skipped,
    )
    assert list(found.parts) == list(expected.parts)
    for name, parts in expected.parts.items():
        assert all(torch.equal(own, other) for own, other in zip(found.parts[name], parts, strict=True))


def test_a_file_gives_back_the_scores_exactly(tmp_path: Path) -> None:
    for scores in (spectral(), spectral(Formula("published", "whole", None)), Scores({"a": vector(0.1)}, method="l1")):
        scores.save(tmp_path / "scores.json")
        assert_same(Scores.load(tmp_path / "scores.json"), scores)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_every_number_comes_back(values: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("scores") / "scores.json"
    Scores({"conv": vector(*values)}, method="random").save(path)
    assert torch.equal(Scores.load(path)["conv"], vector(*values))


def test_scores_are_a_dict_that_prints() -> None:
    scores = spectral()
    assert isinstance(scores, dict)
    lines = str(scores).splitlines()
    assert lines[0].split() == ["layer", "channels", "lowest", "median", "highest"]
    assert lines[2].split() == ["conv1", "2", "0.32", "0.32", "1.66"]
    assert lines[-1].split()[0] == "aux"
    assert repr(scores) == "Scores(method='spectral', 2 layers, num_images=640)"


def test_other_weights_need_no_new_pass() -> None:
    found = spectral().combined(Formula(spatial_weight=0.5))
    assert found["conv1"].tolist() == [1.6 + 0.5 * 2, 0.2 + 0.5 * 4]
    assert found.settings["spatial_weight"] == 0.5
    assert spectral().combined(Formula(components=("spatial",)))["conv1"].tolist() == [2, 4]
    assert spectral().combined(Formula(components=("spectral",)))["conv1"].tolist() == [3, 1]


@pytest.mark.parametrize("formula", [Formula("published"), Formula(block_size=2), Formula(gaussian_sigma=None)])
def test_other_transforms_need_one(formula: Formula) -> None:
    with pytest.raises(ArgumentError, match="score anew"):
        spectral().combined(formula)


def test_scores_of_weights_have_no_parts_to_combine() -> None:
    with pytest.raises(ArgumentError, match="scores by l1"):
        Scores({"a": vector(1)}, method="l1").combined(Formula())


def plain(tmp_path: Path) -> dict[str, Any]:
    spectral().save(tmp_path / "whole.json")
    content = json.loads((tmp_path / "whole.json").read_text())
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, 'does not say "format": "tailcut channel scores"'),
        ({"version": 2}, "version 2, this Tailcut reads version 1"),
        ({"method": 3}, "method must be of type str, found int"),
        ({"settings": []}, "settings must be of type dict, found list"),
        ({"num_images": -1}, "num_images is negative"),
        ({"num_images": True}, "num_images must be of type int, found bool"),
        ({"skipped": {"a": 1}}, "a reason in skipped is no text"),
        ({"fallback": "conv"}, "fallback must be a list of names of its layers"),
        ({"fallback": ["other"]}, "fallback must be a list of names of its layers"),
        ({"layers": None}, "layers must be of type dict, found NoneType"),
        ({"layers": {"a": [1.0]}}, "layer a must have the list importance"),
        ({"layers": {"a": {"spatial": [1.0]}}}, "layer a must have the list importance"),
        ({"layers": {"a": {"importance": []}}}, "importance of layer a must be a list of finite numbers"),
        ({"layers": {"a": {"importance": ["1"]}}}, "importance of layer a must be a list of finite numbers"),
        ({"layers": {"a": {"importance": [True]}}}, "importance of layer a must be a list of finite numbers"),
        ({"layers": {"a": {"importance": [1e999]}}}, "no score"),
        ({"layers": {"a": {"importance": [10**400]}}}, "finite numbers"),
    ],
)
def test_damaged_content_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(plain(tmp_path) | change))
    with pytest.raises(DataError) as caught:
        Scores.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_lists_of_one_layer_have_one_length(tmp_path: Path) -> None:
    content = plain(tmp_path)
    content["layers"]["conv1"]["dist"] = [1.0]
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="the lists of layer conv1 differ in length"):
        Scores.load(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\xff\xfe", "[" * 100_000, '{"format": NaN}', "PK\x03\x04"])
def test_what_is_no_json_of_scores_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="is no file of channel scores, or it is damaged"):
        Scores.load(path)


@given(cut=st.floats(0, 0.999))
def test_a_file_that_was_cut_off_is_refused(cut: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("scores") / "scores.json"
    spectral().save(path)
    content = path.read_bytes().rstrip()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(DataError):
        Scores.load(path)


def test_a_missing_file_and_a_missing_folder(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "nothing.json", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(DataError) as error:
            Scores.load(path)
        assert str(error.value) == f"cannot read the scores {path}: {why} (make them with tailcut score)"
    with pytest.raises(ArgumentError, match="does not exist"):
        spectral().save(tmp_path / "nowhere" / "scores.json")
