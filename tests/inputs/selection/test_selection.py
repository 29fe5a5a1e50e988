import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailcut import inputs
from tailcut.errors import ArgumentError, DataError
from tailcut.inputs import Selection
from tailcut.inputs.selection.patterns import PUBLISHED
from tailcut.inputs.selection.selection import MAX_FILE_BYTES

CHANNELS = st.lists(st.integers(0, 191), unique=True, min_size=1)


@given(channels=CHANNELS)
def test_a_list_is_kept_sorted_in_the_order_of_channels(channels: list[int]) -> None:
    selection = Selection.of(channels)
    assert list(selection.indices) == sorted(channels)
    assert selection.num_channels == len(channels)
    assert [64 * place + index for place, part in enumerate(selection.components().values()) for index in part] == (
        sorted(channels)
    )
    assert list(selection.components()) == ["luma", "chroma_blue", "chroma_red"]
    again = Selection.of(channels[::-1])
    assert again == selection
    assert hash(again) == hash(selection)


@given(channels=CHANNELS)
def test_json_there_and_back(channels: list[int]) -> None:
    selection = Selection.of(channels)
    assert Selection.from_json(selection.to_json()) == selection


def test_what_of_takes() -> None:
    assert Selection.of(24) == Selection(
        (*range(4), *range(8, 12), *range(16, 20), *range(24, 28)), (0, 1, 8, 9), (0, 1, 8, 9)
    )
    assert Selection.of(192).indices == tuple(range(192))
    assert Selection.of(12) == inputs.square(12) == inputs.square((8, 2, 2))
    for channels in PUBLISHED:
        assert Selection.of(channels).num_channels == channels
    selection = Selection.of(64)
    assert Selection.of(selection) is selection
    assert Selection.of(range(64, 70)).chroma_blue == tuple(range(6))
    assert Selection.of(np.array([130, 2])) == Selection.of(torch.tensor([2, 130])) == Selection((2,), (), (2,))  # type: ignore[arg-type]


def test_patterns() -> None:
    for channels in (6, 24, 32):
        assert inputs.square(channels) == Selection.of(channels)
    assert inputs.triangle((3, 1, 0)) == Selection((0, 1, 8), (0,))
    assert inputs.triangle(24).components().keys() == Selection.of(24).components().keys()
    assert Selection.learned().num_channels == 24


def test_the_learned_selection_is_what_the_paper_says_of_its_heat_map() -> None:
    """In Cb and Cr channels 6 and 9 are favoured over 5 and 3 (section 3.3), which counts in zigzag order."""
    from tailcut.transform.block import zigzag_order

    zigzag = zigzag_order().tolist()
    for part in (Selection.learned().chroma_blue, Selection.learned().chroma_red):
        assert {zigzag[6], zigzag[9]} <= set(part)
        assert not {zigzag[5], zigzag[3]} & set(part)


@given(values=st.lists(st.integers(-3, 3), min_size=192, max_size=192), count=st.integers(1, 192))
def test_top_takes_the_largest_and_of_equal_ones_the_first(values: list[int], count: int) -> None:
    expected = sorted(sorted(range(192), key=lambda channel: (-values[channel], channel))[:count])
    assert list(Selection.top(torch.tensor(values), count).indices) == expected
    energy = [float(value + 3) for value in values]
    assert list(Selection.by_energy(energy, count).indices) == expected


def test_top_of_a_tensor_with_a_gradient_in_half_precision() -> None:
    importance = torch.linspace(1, 0, 192, dtype=torch.float16).requires_grad_()
    assert Selection.top(importance, 3).indices == (0, 1, 2)


def test_random_follows_its_seed() -> None:
    assert Selection.random(24, seed=1) == Selection.random(24, seed=1)
    assert Selection.random(24, seed=1) != Selection.random(24, seed=2)
    assert Selection.random(24, seed=1).num_channels == 24
    assert Selection.random(192, seed=3) == Selection.of(192)


def test_random_leaves_the_global_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Selection.random(5, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_text_has_both_numbers() -> None:
    lines = str(Selection.of(24)).splitlines()
    assert lines[0] == "24 channels: luma 16, chroma_blue 4, chroma_red 4"
    assert len(lines) == 1 + 3 * 10
    assert lines[2].split() == ["luma,", "row-major", "luma,", "zigzag"]
    assert lines[3].split() == ["0", "1", "2", "3", *"....", "0", "1", "5", "6", *"...."]
    assert lines[6].split() == ["24", "25", "26", "27", *"....", "9", "11", "18", "24", *"...."]
    assert lines[7].split() == [*"........", *"........"]
    assert str(Selection((), (63,))).splitlines()[20].split() == [*".......", "63", *".......", "63"]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "selection.json"
    Selection.of(24).save(path)
    assert Selection.load(path) == Selection.of(24)
    assert set(json.loads(path.read_text())) == {"luma", "chroma_blue", "chroma_red"}
    with pytest.raises(ArgumentError, match="does not exist; create it first"):
        Selection.of(24).save(tmp_path / "nowhere" / "a.json")
    with pytest.raises(DataError, match=r"cannot read the selection .*none\.json: No such file"):
        Selection.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[" * 60_000, "is not valid JSON"),
        (b"9" * 60_000, "is not valid JSON"),
        (b" " * (MAX_FILE_BYTES + 1), f"more than {MAX_FILE_BYTES} bytes"),
        (b"[]", "must be one JSON object with the lists luma, chroma_blue, chroma_red"),
        (b'{"luma": [0]}', "must be one JSON object with the lists"),
        (b'{"luma": [0], "chroma_blue": [], "chroma_red": [], "more": []}', "must be one JSON object"),
        (b'{"luma": [0], "luma": [1], "chroma_blue": [], "chroma_red": []}', "a key comes twice"),
        (b'{"luma": 0, "chroma_blue": [], "chroma_red": []}', "luma must be a list of integers of 0 to 63"),
        (b'{"luma": "01", "chroma_blue": [], "chroma_red": []}', "luma must be a list of integers"),
        (b'{"luma": [64], "chroma_blue": [], "chroma_red": []}', "the frequencies of luma must be integers of 0 to 63"),
        (b'{"luma": [], "chroma_blue": [1.0], "chroma_red": []}', "the frequencies of chroma_blue must be integers"),
        (b'{"luma": [], "chroma_blue": [true], "chroma_red": []}', "the frequencies of chroma_blue must be integers"),
        (b'{"luma": [], "chroma_blue": [NaN], "chroma_red": []}', "the frequencies of chroma_blue must be integers"),
        (b'{"luma": [[0]], "chroma_blue": [], "chroma_red": []}', "the frequencies of luma must be integers"),
        (b'{"luma": [], "chroma_blue": [], "chroma_red": [1, 1]}', "the frequencies of chroma_red must be different"),
        (b'{"luma": [], "chroma_blue": [], "chroma_red": []}', "keeps at least one frequency, got none"),
    ],
)
def test_hostile_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        Selection.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (25, r"no published selection of 25 channels, only of 6, 12, 24, 32, 48, 64 and 192; for others give a list"),
        (0, "no published selection of 0 channels"),
        ([], "keeps at least one frequency"),
        ([192], "channels must be integers of 0 to 191, got "),
        ([-1], "channels must be integers of 0 to 191"),
        ([0, 0], "channels must be different"),
        ([0.0], "channels must be integers"),
        (True, "channels must be integers"),
        ("24", "channels must be integers"),
        (None, "channels must be integers"),
    ],
)
def test_no_such_channels(channels: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Selection.of(channels)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 193, 2.0, True])
def test_no_such_number_of_channels(count: int) -> None:
    with pytest.raises(ArgumentError, match="expected 1 to 192 channels to keep, got"):
        Selection.top(torch.ones(192), count)
    with pytest.raises(ArgumentError, match="expected 1 to 192 channels to keep, got"):
        Selection.random(count, seed=0)


def test_no_such_importance() -> None:
    for values in (torch.ones(191), torch.ones(3, 64), torch.full((192,), torch.nan)):
        with pytest.raises(ArgumentError, match="expected the importance of 192 channels, all finite"):
            Selection.top(values, 3)
    with pytest.raises(ArgumentError, match="an energy is never negative"):
        Selection.by_energy(-torch.ones(192), 3)


def test_it_is_a_value() -> None:
    selection = Selection.of(6)
    with pytest.raises(AttributeError):
        selection.luma = (1,)  # type: ignore[misc]
    assert Selection([3, 1]).luma == (1, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor])
def test_a_count_may_be_any_integer(kind: Any) -> None:
    for count in (6, 12, 24, 192):
        assert Selection.of(kind(count)) == Selection.of(count)
    with pytest.raises(ArgumentError, match="no published selection of 25 channels"):
        Selection.of(kind(25))


@pytest.mark.parametrize("given", [24.0, np.float32(24), torch.tensor(24.0), torch.tensor(True), np.array(True), 2j])
def test_what_is_neither_a_count_nor_a_list_is_refused(given: Any) -> None:
    with pytest.raises(ArgumentError, match="channels must be integers of 0 to 191 in a list, got"):
        Selection.of(given)
    with pytest.raises(ArgumentError, match="the frequencies of luma must be integers of 0 to 63 in a list, got 5"):
        Selection(5)  # type: ignore[arg-type]
