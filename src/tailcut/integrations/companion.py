"""The packed file beside a checkpoint."""

import logging
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from tailcut.compression import RateLoss
from tailcut.errors import ArgumentError
from tailcut.files import make_folder
from tailcut.format import SaveReport, save
from tailcut.runs import Run
from tailcut.weights import TailTruncation

NUM_EPOCHS = "num_epochs"

_log = logging.getLogger(__name__)


class EpochCuts:
    """Cuts a schedule once an epoch, also where a checkpoint was written behind an epoch's last step, before its cut.

    Args:
        schedule: of the network, which the cuts change.
    """

    def __init__(self, schedule: TailTruncation) -> None:
        self._schedule = schedule
        self._num_epochs: int | None = None  # after which it was cut; None until the training begins

    def begin(self, num_epochs: int) -> None:
        """Make up the cut of an epoch that the framework counts as finished: the checkpoint was behind its steps."""
        while self._num_epochs is not None and self._num_epochs < num_epochs:
            self.end_epoch()
        self._num_epochs = num_epochs

    def end_epoch(self) -> None:
        """Cut once."""
        self._num_epochs = (self._num_epochs or 0) + 1
        if not self._schedule.finished:
            self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: that of the schedule, and the epochs that are done."""
        return {**self._schedule.state_dict(), NUM_EPOCHS: self._num_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint (changes the network: its masks)."""
        self._num_epochs = state.get(NUM_EPOCHS)
        self._schedule.load_state_dict({name: value for name, value in state.items() if name != NUM_EPOCHS})


def warn_if_unfinished(schedule: TailTruncation) -> None:
    """Warn where a training ends before all cuts are done: it keeps more than was asked for."""
    if not schedule.finished:
        _log.warning(
            "the training ended before its last cut: %s numbers are kept, %s were asked for; train more epochs, or "
            "give num_steps= fewer",
            f"{sum(schedule.num_kept.values()):,}",
            f"{sum(schedule.targets.values()):,}",
        )


def check_settings(rate_loss: RateLoss | None, settings: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` for settings that `write_companion` does not take: the first checkpoint is hours away."""
    taken = signature(save if rate_loss is None else rate_loss.save).parameters
    own = [name for name, each in taken.items() if each.kind == each.KEYWORD_ONLY or name == "loader"]
    unknown = [name for name in settings if name not in own]
    if unknown:
        raise ArgumentError(f"PackCallback takes no {', '.join(unknown)}; it takes {', '.join(own)}")


def write_companion(
    model: nn.Module, folder: str | Path, rate_loss: RateLoss | None, settings: dict[str, Any]
) -> SaveReport:
    """Write the network, which is not changed, to `model.tailcut` in the folder of a checkpoint, which is made.

    The settings are those of `tailcut.save`, or of `RateLoss.save` for the steps of a training for bytes.
    """
    path = Run(make_folder(folder)).model
    return save(model, path, **settings) if rate_loss is None else rate_loss.save(path, **settings)
