"""Early ends of a training: Ctrl-C, lost processes, a loss that is not finite, and the messages for them."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from tailcut.errors import TailcutError, TrainingError, first_line
from tailcut.runs import Run

# PyTorch's errors for lost processes: a class of their own, or Gloo's messages in a RuntimeError.
_DIST_ERROR: type[Exception] | tuple[()] = getattr(torch.distributed, "DistError", ())
_LOST_WORDS = ("gloo/transport", "connection closed by peer", "connection reset by peer", "connectfullmesh")


class Interruption:
    """Flag that is set when Ctrl-C asks the training to stop.

    Args:
        at_once: the first signal raises `KeyboardInterrupt`, not only the second.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.wanted = False
        self._at_once = at_once

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Take a signal, as a handler of Python's `signal`."""
        asked_before, self.wanted = self.wanted, True
        if asked_before or self._at_once:
            raise KeyboardInterrupt


@contextmanager
def listen_for_interruption(*, at_once: bool = False) -> Iterator[Interruption]:
    """Within the block, SIGINT (Ctrl-C) and SIGTERM set `wanted`; a second one stops at once.

    Signals reach Python's main thread only; in another thread nothing is changed. What is ignored stays so, as `&` in
    a shell and nohup want it.

    Args:
        at_once: the first one does so already.
    """
    interruption = Interruption(at_once=at_once)
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    # None is a handler of another language, which Python cannot put back.
    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, interruption.ask) for number in heard}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopping_at_once(run: Run) -> Iterator[None]:
    """Within the block, SIGINT (Ctrl-C) and SIGTERM end the training at once, with the message how to go on.

    For what has no steps, so that it need not be asked twice. A block of `listen_for_interruption` may lie within.

    Raises:
        TrainingError: it was asked for.
        KeyboardInterrupt: it was asked twice, of such a block; the message is the same.
    """
    try:
        with listen_for_interruption(at_once=True) as interruption:
            yield
    except KeyboardInterrupt as error:
        if interruption.wanted:
            raise TrainingError(interrupted_at_once_message(run)) from error
        raise KeyboardInterrupt(interrupted_at_once_message(run)) from error
    if interruption.wanted:  # where no error can be raised, as in a destructor
        raise TrainingError(interrupted_at_once_message(run))


def is_lost_connection(error: BaseException) -> bool:
    """Return whether the error means that another process of the group cannot be reached."""
    text = str(error).lower()
    words_of_gloo = isinstance(error, RuntimeError) and any(words in text for words in _LOST_WORDS)
    return words_of_gloo or isinstance(error, _DIST_ERROR)


def lost_connection_message(error: BaseException) -> str:
    """Return the message for a process that lost its connection to the others."""
    reason = first_line(error).partition(". ")[0]  # advice follows
    return (
        "another process of the same work has ended; its own error stands above or below, marked [rank N]. "
        f"What was seen of it here: {reason}"
    )


def interrupted_message(run: Run, epoch: int, step: int, num_saved: int) -> str:
    """Return the message after Ctrl-C at this step of this epoch, both counted from 0; a checkpoint has `num_saved`."""
    return f"interrupted in {_stage(run)}epoch {epoch + 1}, step {step + 1}; {_saved(run, epoch, num_saved)}"


def interrupted_after_message(run: Run, num_epochs: int, num_saved: int) -> str:
    """Return the message after Ctrl-C while the last of so many finished epochs was validated or saved."""
    return f"interrupted after {_stage(run)}epoch {num_epochs}; {_saved(run, num_epochs, num_saved)}"


def interrupted_at_once_message(run: Run) -> str:
    """Return the message after Ctrl-C outside of the steps: before the first, while packing, or between stages."""
    whole = run.whole or run
    stage = "" if run.whole is None else f" in stage {run.path.name}"
    if not whole.has_finished_epochs():
        return f"interrupted{stage}; nothing is saved yet: the same command with --resume begins again"
    return f"interrupted{stage}; what is finished is saved in {whole.path}: the same command with --resume goes on"


def _stage(run: Run) -> str:
    return "" if run.whole is None else f"stage {run.path.name}, "


def _saved(run: Run, num_epochs: int, num_saved: int) -> str:
    """Say what a checkpoint has of the finished epochs, and how to go on."""
    epochs = "1 finished epoch is" if num_saved == 1 else f"{num_saved} finished epochs are"
    saved = f"{epochs} saved in {run.path}" if num_saved else f"no epoch is {'saved' if num_epochs else 'finished'} yet"
    goes_on = "goes on" if num_saved else _begins_again(run)
    return f"{saved}: the same command with --resume {goes_on}"


def _begins_again(run: Run) -> str:
    return "begins this stage again" if run.whole is not None or run.has_stages() else "begins again"


@contextmanager
def explaining_lost_places(run: Run) -> Iterator[None]:
    """Convert errors of a run folder that is missing or not writable within the block to one clear error.

    Raises:
        TrainingError: in place of the error that came of it.
    """
    try:
        yield
    except (OSError, TailcutError) as error:
        if not run.path.is_dir():
            raise TrainingError(
                f"the run folder {run.path} was deleted or moved while the training ran, so nothing more can be saved "
                "there; put it back and go on with --resume, or train anew"
            ) from error
        if isinstance(error, TailcutError) or not _lies_in(error.filename, run.path):
            raise
        goes_on = "goes on after the last saved epoch" if run.has_checkpoint() else _begins_again(run)
        raise TrainingError(
            f"cannot write {error.filename}: {error.strerror}. What was written before is whole: when this is mended, "
            f"the same command with --resume {goes_on}"
        ) from error


def _lies_in(path: object, folder: Path) -> bool:
    return isinstance(path, str | os.PathLike) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def divergence_message(loss: float, epoch: int, step: int, lr: float, num_saved: int) -> str:
    """Return the message for a loss that is not finite after this step of this epoch, both counted from 0.

    The newest checkpoint is the one after `num_saved` epochs.
    """
    kept = f"the checkpoint after epoch {num_saved} is kept" if num_saved else "there is no checkpoint yet"
    # The run's folder resumes with the same recipe only, which would end here again.
    return (
        f"the loss is {loss} in epoch {epoch + 1}, step {step + 1}, at learning rate {lr:.3g}; {kept}. Train "
        "anew in another folder with a lower optimizer.lr, optimizer.clip_norm = 1.0, a longer "
        'optimizer.lr_schedule.warmup, or training.precision = "fp32"'
    )
