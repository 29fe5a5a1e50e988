"""Messages on standard error."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _StderrHandler(logging.Handler):
    """Writes to what standard error is at that moment: a live progress bar stands in for it for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        print(f"{prefix}{record.getMessage()}", file=sys.stderr)


def is_first_process() -> bool:
    """Whether this process may talk: of the processes that a launcher started for one training, the first."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


@contextmanager
def messages_on_stderr() -> Iterator[None]:
    """Within the block, what Tailcut logs from INFO on is shown on standard error, by the first process only."""
    root = logging.getLogger("tailcut")
    handler, level = _StderrHandler(), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO if is_first_process() else logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
