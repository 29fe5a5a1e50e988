import json
import logging
import math
import sys
import threading
import warnings
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tailcut.errors import LimitError
from tailcut.format import inspect, save
from tailcut.printing import (
    Report,
    figure_text,
    is_fraction,
    logged,
    mean_and_spread,
    plain,
    printable,
    silenced,
    sizes,
    table,
)
from tailcut.structure import create_model


@dataclass(frozen=True)
class Inner(Report):
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Outer(Report):
    zeta: float
    alpha: Path
    inner: Inner
    many: tuple[Inner, ...] = ()
    by_name: dict[str, Any] = field(default_factory=dict)
    nothing: None = None


OUTER = Outer(
    0.5,
    Path("runs") / "a",
    Inner("conv.weight", (3, 4)),
    (Inner("a", ()), Inner("b", (1,))),
    {"first": Inner("c", (2,)), "second": [Path("x"), {"third": (True, None)}]},
)
EXPECTED = {
    "zeta": 0.5,
    "alpha": "runs/a",
    "inner": {"name": "conv.weight", "shape": [3, 4]},
    "many": [{"name": "a", "shape": []}, {"name": "b", "shape": [1]}],
    "by_name": {"first": {"name": "c", "shape": [2]}, "second": ["x", {"third": [True, None]}]},
    "nothing": None,
}


def test_a_report_as_plain_values_in_the_order_of_its_fields() -> None:
    assert OUTER.to_dict() == EXPECTED
    assert list(OUTER.to_dict()) == list(EXPECTED)


def test_a_report_as_json_on_one_line() -> None:
    text = OUTER.to_json()
    assert "\n" not in text
    assert json.loads(text) == EXPECTED


def test_json_holds_no_numbers_that_json_has_not() -> None:
    for number in ("nan", "inf", "-inf"):
        outer = Outer(float(number), Path("a"), Inner("a", ()), by_name={"many": (float(number), 1.5)})
        values = json.loads(outer.to_json(), parse_constant=pytest.fail)
        assert values["zeta"] is None
        assert values["by_name"] == {"many": [None, 1.5]}


def test_a_report_must_be_a_dataclass() -> None:
    class Bare(Report):
        pass

    with pytest.raises(TypeError, match="Bare must be a dataclass"):
        Bare().to_dict()


def test_plain_leaves_plain_values() -> None:
    for value in (1, 1.5, "a", None, True):
        assert plain(value) is value
    assert plain({1: (2,)}) == {"1": [2]}


def test_table_aligns_its_columns() -> None:
    assert table(("name", "bytes"), [("a", 12), ("longer", 3456)], align="<>").splitlines() == [
        "name    bytes",
        "------  -----",
        "a          12",
        "longer   3456",
    ]


def test_table_is_left_aligned_without_trailing_blanks() -> None:
    assert table(("a", "b"), [("long", ""), ("", "x")]).splitlines() == ["a     b", "----  -", "long", "      x"]


def test_table_without_rows() -> None:
    assert table(("one", "two"), []) == "one  two\n---  ---"


def test_table_refuses_rows_of_another_width() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(("a", "b"), [(1, 2, 3)])


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("accuracy", 0.98261, "98.26 %"),
        ("box_AP", 0.4, "40.00 %"),
        ("fid", 93.957, "93.96"),
        ("elbo", -1098.3764, "-1,098.38"),
        ("seconds", 79.0, "79.00"),
    ],
)
def test_fractions_are_percent_and_other_metrics_plain(metric: str, value: float, text: str) -> None:
    assert figure_text(metric, value) == text
    assert is_fraction(metric) is text.endswith("%")


@pytest.mark.parametrize(("shape", "text"), [((64, 3, 3), "64 x 3 x 3"), ((5,), "5"), ((), "scalar")])
def test_sizes(shape: tuple[int, ...], text: str) -> None:
    assert sizes(shape) == text


def test_the_spread_of_figures_of_which_one_is_no_number() -> None:
    assert mean_and_spread([0.5, 0.7]) == pytest.approx((0.6, 0.1 * 2**0.5))
    for strange in (math.nan, math.inf):
        assert all(math.isnan(value) for value in mean_and_spread([0.5, strange, 0.7]))


def test_silence_hides_pages_and_lets_progress_through(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with silenced() as loudly:
        warnings.warn("a page", stacklevel=1)
        logging.getLogger("torch").error("a page")
        print("a page", file=sys.stderr)
        loudly(lambda text: sys.stderr.write(text))("making it small")
        loudly(logging.getLogger("tailcut").warning)("tracing")
    assert capsys.readouterr().err == "making it small"
    assert [record.getMessage() for record in caplog.records] == ["tracing"]
    logging.getLogger("tailcut").warning("after")
    assert caplog.messages[-1] == "after"


def test_silence_is_of_torch_and_of_one_thread(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    loud = logging.getLogger("torch.of_this_test")
    loud.setLevel(logging.DEBUG)
    with silenced():
        loud.error("a page")
        logging.getLogger("torch.of_this_test.new").error("a page")
        logging.getLogger("torchvision").warning("of another library")
        logging.getLogger("mine").warning("mine")
        other = threading.Thread(target=lambda: print("of another thread", file=sys.stderr))
        other.start()
        other.join()
        kept = sys.stderr
    assert caplog.messages == ["of another library", "mine"]
    assert loud.level == logging.DEBUG
    loud.warning("after")
    assert caplog.messages[-1] == "after"
    print("by a thread that has kept it", file=kept)
    assert capsys.readouterr().err == "of another thread\nby a thread that has kept it\n"


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b]0;b\x07\x9b1m\tc\nd") == "a\\x1b]0;b\\x07\\x9b1m\tc\nd"
    assert table(["name"], [["red\x1b[31m\nline"]]).splitlines()[-1] == "red\\x1b[31m\\nline"


def test_long_work_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    # So many seconds each time it is asked.
    monkeypatch.setattr("tailcut.printing.time.monotonic", count(step=4).__next__)
    with caplog.at_level(logging.INFO, logger="tailcut"):
        assert list(logged(range(5), "things", 5)) == [0, 1, 2, 3, 4]
    assert caplog.messages == ["2 of 5 things"]


def test_what_is_nested_too_deeply_is_one_error(tmp_path: Path) -> None:
    deep: dict[str, Any] = {}
    for _ in range(600):
        deep = {"a": deep}
    save(create_model("lenet300"), tmp_path / "a.tailcut", metadata=deep)
    with pytest.raises(LimitError, match="nested too deeply for a report in JSON"):
        inspect(tmp_path / "a.tailcut").to_json()
