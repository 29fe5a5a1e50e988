"""The packed file beside a checkpoint."""

from pathlib import Path
from typing import Any

from torch import nn

from tailcut.compression import RateLoss
from tailcut.files import make_folder
from tailcut.format import SaveReport, save

COMPANION = "model.tailcut"


def write_companion(
    model: nn.Module, folder: str | Path, rate: RateLoss | None, settings: dict[str, Any]
) -> SaveReport:
    """Write the network, which is not changed, to `model.tailcut` in the folder of a checkpoint, which is made.

    The settings are those of `tailcut.save`, or of `RateLoss.save` for the steps of a training for bytes.
    """
    path = make_folder(folder) / COMPANION
    return save(model, path, **settings) if rate is None else rate.save(path, **settings)
