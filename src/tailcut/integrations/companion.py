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
    """Write the network to `model.tailcut` in a folder, which is made; see `tailcut.save` and `RateLoss.save`.

    Args:
        model: the network that is packed. It is not changed.
        folder: of the checkpoint.
        rate: of a training for bytes, which says the steps; None packs the network as `settings` say.
        settings: of `tailcut.save`, or of `RateLoss.save`.
    """
    path = make_folder(folder) / COMPANION
    return save(model, path, **settings) if rate is None else rate.save(path, **settings)
