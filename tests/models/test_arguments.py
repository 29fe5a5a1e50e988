import pytest

from tailcut.errors import ArgumentError
from tailcut.models.arguments import check_channels


def test_counts_within_the_bounds_pass() -> None:
    check_channels("net", first=1, second=65_536)


@pytest.mark.parametrize("count", [0, -1, 65_537, 2**62, 1.0, "3", None, True])
def test_other_counts_are_named(count: object) -> None:
    with pytest.raises(ArgumentError, match=f"net: second must be an integer from 1 to 65,536, got {count!r}"):
        check_channels("net", first=1, second=count)  # type: ignore[arg-type]
