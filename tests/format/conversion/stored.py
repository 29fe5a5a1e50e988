"""Checkpoints as other projects write them."""

from pathlib import Path

import torch


def stored(path: Path, content: object) -> Path:
    """The path, where `torch.save` has written the content."""
    torch.save(content, path)
    return path
