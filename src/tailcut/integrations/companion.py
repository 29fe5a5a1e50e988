"""The packed file beside a checkpoint."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from tailcut.compression import RateLoss
from tailcut.files import make_folder
from tailcut.format import SaveReport, save
from tailcut.weights import TailTruncation

COMPANION = "model.tailcut"

_log = logging.getLogger(__name__)


def warn_if_unfinished(schedule: TailTruncation) -> None:
    """Warn where a training ends before all cuts are done: it keeps more than was asked for."""
    if not schedule.finished:
        _log.warning(
            "the training ended before its last cut: %s numbers are kept, %s were asked for; train more epochs, or "
            "give num_steps= fewer",
            f"{sum(schedule.num_kept.values()):,}",
            f"{sum(schedule.targets.values()):,}",
        )


def write_companion(
    model: nn.Module, folder: str | Path, rate: RateLoss | None, settings: dict[str, Any]
) -> SaveReport:
    """Write the network, which is not changed, to `model.tailcut` in the folder of a checkpoint, which is made.

    The settings are those of `tailcut.save`, or of `RateLoss.save` for the steps of a training for bytes.
    """
    path = make_folder(folder) / COMPANION
    return save(model, path, **settings) if rate is None else rate.save(path, **settings)
