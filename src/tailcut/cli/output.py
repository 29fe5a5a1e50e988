"""Standard output and error: what can be written to them, and messages, written by one of several processes."""

import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tailcut.cli.advice import NO_OPTIONS, for_command_line
from tailcut.cli.parser import UsageError
from tailcut.errors import ArgumentError, TrainingError
from tailcut.printing import printable


def open_streams() -> None:
    """Make standard output and error take everything: streams that are closed, and characters that they do not have."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # as after `>&-` in a shell: messages for the one must not go to the other
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper) and (stream.errors == "strict" or stream.encoding != "utf-8"):
            stream.reconfigure(errors="backslashreplace")


def drop_stdout() -> None:
    """Let what standard output still holds go nowhere: its reader has closed the pipe, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class LauncherError(ArgumentError):
    """A launcher (torchrun, srun) started more processes than the options say; each of them finds so."""


# What ends all processes alike: the first one says it for all.
SHARED_ERRORS = (UsageError, LauncherError, KeyboardInterrupt, TrainingError)


class _StderrHandler(logging.Handler):
    """Stream to the current standard error, which a live progress bar replaces temporarily."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__()
        self._options = options

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        message = for_command_line(record.getMessage(), self._options)
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed: no reason to end the work
            print(f"{prefix}{printable(message)}", file=sys.stderr)


def is_first_process() -> bool:
    """Return whether this process writes messages: only the first of those that a launcher started."""
    return _rank() == "0" and all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK"))


def say_error(prog: str, message: str, error: BaseException) -> None:
    """Say on standard error what went wrong; other processes than the first say their own errors only, with a mark."""
    line = f"{prog}: error: {printable(message)}"
    if not is_first_process():
        if isinstance(error, SHARED_ERRORS):
            return
        node = os.environ.get("NODE_RANK", "0")
        place = f"rank {_rank()}" if node == "0" else f"node {node}, rank {_rank()}"
        line = f"[{place}] {line}"
    with suppress(OSError, ValueError):  # where it cannot be written the exit code, and the JSON, still say it
        print(line, file=sys.stderr, flush=True)


def _rank() -> str:
    for name in ("RANK", "LOCAL_RANK"):
        if name in os.environ:
            return os.environ[name]
    # srun, whose variables a launcher within its tasks leaves as they are.
    several = os.environ.get("SLURM_NTASKS", "1") != "1"
    return os.environ.get("SLURM_PROCID", "0") if several else "0"


def check_processes(command: str, devices: int, num_nodes: int) -> None:
    """Raise `LauncherError` if a launcher started several processes of a command whose options count one only.

    Where they count several, the engine compares the numbers itself.
    """
    if (devices, num_nodes) != (1, 1):
        return
    # Not SLURM_NTASKS: a batch script has it too, outside of srun, and is one process.
    for launcher, name in (("torchrun", "WORLD_SIZE"), ("srun", "SLURM_STEP_NUM_TASKS")):
        count = os.environ.get(name, "1")
        if count != "1":
            raise LauncherError(
                f"{launcher} started {count} processes of tailcut {command} ({name}), but the options count one: each "
                "would do all the work. Give --devices (processes of each machine) and --num-nodes (machines), or "
                "start one process"
            )


@contextmanager
def messages_on_stderr(options: Mapping[str, str] = NO_OPTIONS) -> Iterator[None]:
    """Within the block, what Tailcut logs from INFO on is shown on standard error, by the first process only.

    Args:
        options: those of the command, which its messages name (see `advice.option_names`).
    """
    root = logging.getLogger("tailcut")
    handler, level = _StderrHandler(options), root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO if is_first_process() else logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
