"""The command `tailcut`, from its first moment: it takes seconds to import torch, in which it can be interrupted too.

It lies outside of the package `tailcut`, whose own import is what takes the time.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

FAILED = 1  # the exit code of an interrupted command


def main() -> int:
    """Run one command with the words of this process, and return its exit code, see `tailcut.cli.main`.

    SIGINT (Ctrl-C) and SIGTERM end it with a line and the exit code 1 while it is being imported as well.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    waited_for = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # by nohup and "&"
    try:
        for number in waited_for:
            signal.signal(number, _end)
        from tailcut.cli import main as run

        for number in waited_for:
            signal.signal(number, before[number])
        return run()
    except KeyboardInterrupt:
        return _say_interrupted()


def _end(number: int, frame: FrameType | None) -> None:
    """End at once: an exception could be taken for its own by any of the modules that are being imported."""
    os._exit(_say_interrupted())


def _say_interrupted() -> int:
    """Say so on standard error, and with --json on standard output. Returns the exit code."""
    with suppress(OSError):  # nobody reads it
        os.write(2, b"tailcut: error: interrupted\n")
        if "--json" in sys.argv[1:]:
            error = {"error": {"type": "KeyboardInterrupt", "message": "interrupted"}}
            os.write(1, f"{json.dumps(error)}\n".encode())
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
