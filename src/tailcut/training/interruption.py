"""Ends before the end: Ctrl-C as a wish, and what is said to the user then or when the loss is no number."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tailcut.runs import Run


class Interruption:
    """Whether somebody asked the training to stop."""

    def __init__(self) -> None:
        self.wanted = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt  # asked twice: at once
        self.wanted = True


@contextmanager
def listen_for_interruption() -> Iterator[Interruption]:
    """Within the block, SIGINT (Ctrl-C) and SIGTERM set `wanted`; a second one stops at once.

    Signals reach Python's main thread only; in another thread nothing is changed.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption._ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupted(run: Run, epoch: int, step: int) -> str:
    """What to tell whoever pressed Ctrl-C after this step of this epoch, both counted from 0."""
    epochs = "1 finished epoch is" if epoch == 1 else f"{epoch} finished epochs are"
    saved = f"{epochs} saved in {run.path}" if epoch else "no epoch is finished yet"
    where = f"interrupted in epoch {epoch + 1}, step {step + 1}"
    return f"{where}; {saved}: the same command with --resume goes on"


def not_a_number(loss: float, epoch: int, step: int, lr: float) -> str:
    """What to tell a user whose loss is no number after this step of this epoch, both counted from 0."""
    kept = f"the checkpoint after epoch {epoch} is kept" if epoch else "there is no checkpoint yet"
    # The run's own folder goes on with the same recipe only, which would end here again.
    return (
        f"the loss is {loss} in epoch {epoch + 1}, step {step + 1}, at learning rate {lr:.3g}; {kept}. Train "
        "anew in another folder with a lower optimizer.lr, optimizer.clip_norm = 1.0, a longer "
        'optimizer.lr_schedule.warmup, or training.precision = "fp32"'
    )
