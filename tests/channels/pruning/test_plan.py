import pytest

from tailcut.channels.pruning.plan import Amount, Rates
from tailcut.channels.pruning.selection import Limits


@pytest.mark.parametrize(
    ("rates", "expected"), [(None, False), (0.5, False), ("paper", True), ([0.1, 0.2], True), ({"conv1": 0.5}, True)]
)
def test_lists_and_dicts_name_layers(rates: Rates | None, expected: bool) -> None:
    amount = Amount(rates, None, None, Limits())
    assert amount.is_by_layer is expected
