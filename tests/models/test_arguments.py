import pytest

from tailcut.errors import ArgumentError
from tailcut.models.arguments import check_channels, check_dropout


def test_counts_within_the_bounds_pass() -> None:
    check_channels("net", first=1, second=65_536)


@pytest.mark.parametrize("count", [0, -1, 65_537, 2**62, 1.0, "3", None, True])
def test_other_counts_are_named(count: object) -> None:
    with pytest.raises(ArgumentError, match=f"net: second must be an integer from 1 to 65,536, got {count!r}"):
        check_channels("net", first=1, second=count)  # type: ignore[arg-type]


def test_another_least_count() -> None:
    check_channels("net", at_least=0, first=0)
    check_channels("net", at_least=7, first=7)
    with pytest.raises(ArgumentError, match="net: first must be an integer from 7 to 65,536, got 6"):
        check_channels("net", at_least=7, first=6)


@pytest.mark.parametrize("dropout", [0, 0.0, 0.5, 0.999])
def test_shares_below_one_pass(dropout: float) -> None:
    check_dropout("net", dropout=dropout)


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.0, 7, float("nan"), "0.5", None, False])
def test_other_shares_are_refused(dropout: object) -> None:
    with pytest.raises(ArgumentError, match=f"net: dropout must be a number from 0 up to 1, not .*, got {dropout!r}"):
        check_dropout("net", dropout=dropout)  # type: ignore[arg-type]
