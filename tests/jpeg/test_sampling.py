import pytest

from tailcut.errors import DataError
from tailcut.jpeg.sampling import CHROMA_FACTORS, check_factors, num_blocks, sampling_of


@pytest.mark.parametrize(("size", "blocks"), [((1, 8), (1, 1)), ((9, 16), (2, 2)), ((17, 24), (3, 3))])
def test_blocks_cover_the_samples(size: tuple[int, int], blocks: tuple[int, int]) -> None:
    assert num_blocks(size) == blocks


def test_samplings_have_their_factors() -> None:
    for name, factors in CHROMA_FACTORS.items():
        assert sampling_of([factors] if name == "grayscale" else [factors, (1, 1), (1, 1)]) == name
    assert sampling_of([(2, 2), (2, 1), (2, 1)]) == "4:2:2"
    assert sampling_of([(4, 3)]) == "grayscale"


@pytest.mark.parametrize(
    "factors", [[(1, 4), (1, 1), (1, 1)], [(2, 2), (1, 2), (1, 1)], [(1, 1), (1, 1)], [(4, 4), (4, 4), (4, 4)]]
)
def test_others_are_refused(factors: list[tuple[int, int]]) -> None:
    with pytest.raises(DataError, match="supported are 4:4:4"):
        sampling_of(factors)
    check_factors(factors)


@pytest.mark.parametrize("factor", [0, 5])
def test_factors_are_1_to_4(factor: int) -> None:
    with pytest.raises(DataError, match="not 1 to 4"):
        check_factors([(1, 1), (factor, 1)])
