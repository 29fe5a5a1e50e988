"""One row of the table of pruned networks, on a small network."""

from bench.pruning import _row, what_is_left
from tests.channels.slim_networks import Plain

from tailcut.channels.pruning.report import PruneReport, SkippedChannels


def test_a_row_compares_both_on_the_same_network() -> None:
    row = _row("plain", lambda: Plain().eval(), 16, 1)
    assert row["after"] == "runs"
    assert float(row["tailcut s"] or 0) > 0
    assert 30 < float(row["parameters, tailcut %"] or 0) < 90
    assert row["left"] == "1 x the network's output"


def test_reasons_are_counted_without_their_places() -> None:
    left = tuple(SkippedChannels(str(number), 8, f"is reshaped, in blocks.{number}") for number in range(3))
    report = PruneReport(1, 1, 1, 1, (), (*left, SkippedChannels("head", 2, "the network's output")))
    assert what_is_left(report) == "3 x is reshaped; 1 x the network's output"
