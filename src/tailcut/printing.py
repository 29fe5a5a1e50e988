"""Reports: typed objects that print as text and convert to JSON from one definition."""

import dataclasses
import json
import logging
import math
import re
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO, TypeVar

from tailcut.errors import LimitError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
LOG_SECONDS = 10.0
"""Between two lines about long work."""

_TRACERS = ("torch", "onnxscript", "onnx_ir")
_PLAIN_METRICS = ("fid", "elbo", "seconds")


class Report:
    """Base of all report dataclasses: `to_dict` and `to_json` follow the fields, `str` is for people."""

    @property
    def failed(self) -> bool:
        """True if the report is of a failure, for the exit code of a command."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values, in the order of their definition."""
        if not dataclasses.is_dataclass(self):
            raise TypeError(f"{type(self).__name__} must be a dataclass")
        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def to_json(self) -> str:
        """Return the fields as one JSON object on one line."""
        try:
            return json.dumps(self.to_dict(), allow_nan=False)
        except RecursionError as error:
            raise LimitError("a value, such as a file's metadata, is nested too deeply for a report in JSON") from error


def plain(value: Any) -> Any:
    """`value` with reports, tuples and paths turned into what JSON can hold; None for what is no finite number."""
    if isinstance(value, Report):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_fraction(metric: str) -> bool:
    """Return whether a metric is a fraction in 0..1 (`accuracy`, `dice`), not a distance, a logarithm or a time."""
    return not metric.startswith(_PLAIN_METRICS)


def figure_text(metric: str, value: float) -> str:
    """Return the value of a metric as text: in percent if it is a fraction.

    >>> figure_text("accuracy", 0.98261), figure_text("fid", 93.957)
    ('98.26 %', '93.96')
    """
    return f"{100 * value:.2f} %" if is_fraction(metric) else f"{value:,.2f}"


def difference_text(metric: str, ours: float | None, theirs: float | None) -> str:
    """Return how much a figure lies above another one, in points if they are fractions; nothing without both."""
    if ours is None or theirs is None:
        return ""
    return f"{(100 if is_fraction(metric) else 1) * (ours - theirs):+.2f}"


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of two or more figures; not a number where one of them is none."""
    if not all(math.isfinite(value) for value in values):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values)


def spread_text(metric: str, mean: float, spread: float) -> str:
    """Mean and spread of a metric for people.

    >>> spread_text("accuracy", 0.9826, 0.0012), spread_text("fid", 93.957, 1.5)
    ('98.26 ± 0.12 %', '93.96 ± 1.50')
    """
    scale, unit = (100, " %") if is_fraction(metric) else (1, "")
    return f"{scale * mean:,.2f} ± {scale * spread:.2f}{unit}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Return a table in Markdown; `align` has one `<` or `>` per column.

    >>> print(markdown_table(["name", "kept"], [["fc", "33"]], "<>"))
    | name | kept |
    | --- | ---: |
    | fc | 33 |
    """
    rule = ["---:" if side == ">" else "---" for side in align]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def printable(text: str) -> str:
    r"""Return the text with control characters, but line feeds and tabs, written out: names of files may have any.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, align: str | None = None) -> str:
    """Rows of cells as aligned text columns under a header and a rule.

    Args:
        header: one title per column.
        rows: the cells; each is shown with `str`.
        align: one character per column, `<` left or `>` right; numbers are usually right. Left when None.
    """
    cells = [[printable(str(cell)).replace("\n", "\\n") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    align = align or "<" * len(header)
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def named(names: Sequence[object], at_most: int = 3) -> str:
    """Return the first names of a list, and how many more there are.

    >>> named(["a", "b", "c", "d", "e"]), named(["a"])
    ('a, b, c and 2 more', 'a')
    """
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(map(str, names[:at_most])) + more


def sizes(shape: Sequence[int]) -> str:
    """Return a tensor's shape as text: `64 x 3 x 3 x 3`."""
    return " x ".join(map(str, shape)) or "scalar"


class LogLines:
    """A line in a log every now and then: how many of a total are done.

    Args:
        what: what is counted, for example `images`.
        total: how many there are.
        interval: seconds between two lines.
    """

    def __init__(self, what: str, total: int, interval: float = LOG_SECONDS) -> None:
        self._what, self._total, self._interval = what, total, interval
        self._last = time.monotonic()

    def show(self, done: int, note: str = "") -> None:
        """Say that `done` of the total are done, if it is time to; `note` is the current status."""
        if time.monotonic() - self._last > self._interval:
            self._last = time.monotonic()
            logger.info("%d of %d %s%s", done, self._total, self._what, note and f"  {note}")


def logged(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield the items; where that takes long, say in the log how many of `total` are done."""
    lines = LogLines(what, total)
    for done, item in enumerate(items):
        lines.show(done)
        yield item


@contextmanager
def silenced() -> Iterator[Callable[[Callable[[str], object]], Callable[[str], object]]]:
    """Within the block, hide what torch says of a trace: pages, beside the error that says it in a line.

    That is warnings, the logs of torch and of the libraries with which it writes ONNX, and what this thread writes to
    standard error: torch.export prints the graph of a failed trace there. Other logs and threads are not touched.

    Gives a function that makes another one write as outside of the block, for progress.
    """
    before = sys.stderr
    own = _OtherThreads(before)

    def loudly(say: Callable[[str], object]) -> Callable[[str], object]:
        def said(text: str) -> None:
            with redirect_stderr(before):
                say(text)

        return said

    try:
        with warnings.catch_warnings(), _without_logs(), redirect_stderr(own):
            warnings.simplefilter("ignore")
            yield loudly
    finally:
        own.hides = False  # another thread may have kept it


class _OtherThreads:
    """A stream that passes on what other threads write, and of the thread that made it nothing while `hides`."""

    def __init__(self, stream: TextIO) -> None:
        self.hides = True
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        is_hidden = self.hides and threading.get_ident() == self._thread
        return len(text) if is_hidden else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _without_logs() -> Iterator[None]:
    """Within the block, hide the logs of `_TRACERS`, also of loggers below them that have a level of their own."""
    below = [name for name in list(logging.root.manager.loggerDict) if name.partition(".")[0] in _TRACERS]
    loggers = [logging.getLogger(name) for name in {*_TRACERS, *below}]
    levels = {one: one.level for one in loggers if one.name in _TRACERS or one.level != logging.NOTSET}
    for one in levels:
        one.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for one, level in levels.items():
            one.setLevel(level)
