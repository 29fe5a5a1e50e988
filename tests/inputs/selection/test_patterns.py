import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.errors import ArgumentError
from tailcut.inputs.selection.patterns import LEARNED, PUBLISHED, split_channels, square_indices, triangle_indices

# Rows of kept columns, from the paper's published networks: a row of the block per number, counted from the left.
ROWS = {
    6: ((2, 2), (1,)),
    24: ((4, 4, 4, 4), (2, 2)),
    32: ((5, 5, 5, 4, 3), (3, 2)),
    48: ((6, 6, 6, 6, 4, 4), (3, 3, 2)),
    64: ((7, 7, 6, 6, 6, 6, 6), (3, 3, 2, 2)),
    192: ((8,) * 8, (8,) * 8),
}


def of_rows(counts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(8 * row + column for row, count in enumerate(counts) for column in range(count))


@pytest.mark.parametrize("channels", ROWS)
def test_published_tables(channels: int) -> None:
    luma, chroma = PUBLISHED[channels]
    assert (luma, chroma) == tuple(map(of_rows, ROWS[channels]))
    assert len(luma) + 2 * len(chroma) == channels


@pytest.mark.parametrize(("channels", "counts"), [(24, (16, 4, 4)), (48, (32, 8, 8)), (64, (44, 10, 10))])
def test_totals_are_split_as_the_paper_says(channels: int, counts: tuple[int, int, int]) -> None:
    assert split_channels(channels) == counts
    luma, chroma = PUBLISHED[channels]
    assert (len(luma), len(chroma), len(chroma)) == counts


def test_learned_has_14_5_5() -> None:
    assert tuple(map(len, LEARNED)) == (14, 5)


@given(channels=st.integers(1, 192))
def test_every_total_can_be_split(channels: int) -> None:
    luma, blue, red = split_channels(channels)
    assert luma + blue + red == channels
    assert blue == red
    assert 0 <= blue <= luma <= 64 or (luma, blue) == (63, 64)


def l1(index: int) -> int:
    return index // 8 + index % 8


@given(count=st.integers(0, 64))
def test_a_triangle_has_the_lowest_norms(count: int) -> None:
    kept = triangle_indices(count)
    assert len(set(kept)) == count
    norms = sorted(l1(index) for index in range(64))
    assert sorted(map(l1, kept)) == norms[:count]


@given(count=st.integers(1, 64))
def test_a_square_is_as_small_as_can_be_and_lacks_its_highest(count: int) -> None:
    kept = square_indices(count)
    assert len(set(kept)) == count
    side = max(max(divmod(index, 8)) for index in kept) + 1
    assert (side - 1) ** 2 < count <= side**2
    missing = {8 * v + u for v in range(side) for u in range(side)} - set(kept)
    assert max(map(l1, kept)) <= min(map(l1, missing), default=14)


def test_full_squares_and_triangles() -> None:
    for side in range(1, 9):
        assert square_indices(side * side) == of_rows((side,) * side)
        assert triangle_indices(side * (side + 1) // 2) == of_rows(tuple(range(side, 0, -1)))
    assert square_indices(0) == triangle_indices(0) == ()


@pytest.mark.parametrize("channels", [0, 193, -1, True])
def test_totals_out_of_range(channels: int) -> None:
    with pytest.raises(ArgumentError, match="expected 1 to 192 channels, got"):
        split_channels(channels)


@pytest.mark.parametrize("counts", [(0, 0, 0), (1, 2), (65, 0, 0), (1, -1, 0), (1.0, 1, 1), "abc", None, 2.5])
def test_counts_that_are_none(counts: object) -> None:
    with pytest.raises(ArgumentError, match=r"three counts of 0 to 64 for luma, blue and red chroma, got"):
        split_channels(counts)  # type: ignore[arg-type]
