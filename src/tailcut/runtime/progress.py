"""Progress of long work: a live bar in a terminal, lines elsewhere; how many images are done in a second."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from tailcut.printing import Item, LogLines, figure_text
from tailcut.runs import Run

logger = logging.getLogger(__name__)


class Throughput:
    """Images per second, and the part of the time that is spent waiting for them; from the moment it is made."""

    def __init__(self) -> None:
        self._start, self._num_images, self._waited = time.perf_counter(), 0, 0.0

    def waiting_for(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches, and note how long each was waited for: read here, or by workers that are behind."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - start
            yield batch

    def count(self, num_images: int) -> None:
        """Count images that are done."""
        self._num_images += num_images

    def figures(self) -> dict[str, float]:
        """Return `images_per_second`, and `waiting_ratio`, 0 to 1, until now."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        return {
            "images_per_second": round(self._num_images / seconds, 2),
            "waiting_ratio": round(min(self._waited / seconds, 1.0), 4),
        }

    def __str__(self) -> str:
        """Return the figures as people read them."""
        return throughput_text(self.figures())


def throughput_text(figures: dict[str, Any]) -> str:
    """Return the figures of a `Throughput` as text."""
    rate = figures["images_per_second"]
    return f"{rate:,.{0 if rate >= 10 else 1}f} images/s, {100 * figures['waiting_ratio']:.0f} % of the time waiting"


class Progress:
    """A live bar in a terminal; elsewhere a line every now and then.

    Args:
        what: what is counted, for example `images`.
        total: how many there are.
        bar: the `rich` bar; None where there is no terminal.
        interval: seconds between two lines; none are written when None.
    """

    def __init__(self, what: str, total: int, *, bar: Any = None, interval: float | None = None) -> None:
        self._bar, self._lines = bar, None if interval is None else LogLines(what, total, interval)
        self._task = None if bar is None else bar.add_task(what, total=total, note="")

    def show(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are done; `note` is the current status."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif self._lines is not None:
            self._lines.show(done, note)


@contextmanager
def live_progress(wanted: bool, what: str, total: int, *, interval: float | None = None) -> Iterator[Progress]:
    """Progress on standard error while the block runs, if that is wanted; see `Progress`."""
    if not wanted or not sys.stderr.isatty() or find_spec("rich") is None:
        yield Progress(what, total, interval=interval if wanted else None)
        return
    import rich.progress
    from rich.console import Console

    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Progress(what, total, bar=bar)


@contextmanager
def log_to_file(run: Run) -> Iterator[None]:
    """Write Tailcut's log to the run's `log.txt` too within the block, and an error that ends it."""
    handler = _LogFile(run.log, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("tailcut")
    before = root.level
    root.addHandler(handler)
    if root.getEffectiveLevel() > logging.INFO:
        root.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "%s", (error,), None))
        raise
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        with suppress(OSError):  # of a full disk: what the log lacks then is not worth a training
            handler.close()


class _LogFile(logging.FileHandler):
    """A log that does without the lines that cannot be written: the disk is full, and the training will say so."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Say nothing of an `OSError`."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def epoch_line(line: dict[str, Any], num_epochs: int) -> str:
    """Return a line of `metrics.jsonl` as readable text."""
    parts = [f"epoch {line['epoch']}/{num_epochs}", f"loss {line['loss']:.4f}"]
    if line.get("split"):
        parts += [f"{line['split']} {name} {figure_text(name, value)}" for name, value in line["metrics"].items()]
        if line.get("coarse", 1) > 1:  # batch norm's statistics are then of other images than these
            parts.append(f"(trained on images {line['coarse']} times smaller so far)")
    parts += [f"lr {line['lr']:.2e}", f"kept {line['num_kept']:,}", f"{line['seconds']:.1f} s"]
    if "images_per_second" in line:
        parts.append(f"({throughput_text(line)})")
    return "  ".join(parts)
