"""Checkpoints: all that a run needs to go on, in files that are read without running code.

A checkpoint is a dict of tensors and plain values, written by `torch.save` and read with `weights_only=True`.
"""

import logging
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tailcut.errors import DataError
from tailcut.files import atomic_write
from tailcut.format.checkpoints import read_torch_file
from tailcut.runs import Run

VERSION = 1
_NO_GAUSS = float("nan")

logger = logging.getLogger("tailcut.training")


def write_checkpoint(run: Run, state: Mapping[str, Any]) -> None:
    """Write the newest checkpoint; the one before stays as `previous`. At any moment one of them is whole."""
    with atomic_write(run.last_checkpoint) as file:
        _save(state, file)
        file.flush()
        os.fsync(file.fileno())  # the new one must be whole before the old one gives up its name
        if run.last_checkpoint.exists():
            run.last_checkpoint.replace(run.previous_checkpoint)


def _save(state: Mapping[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save({"version": VERSION, **state}, file)
    except RuntimeError as error:  # torch's own end of a file hides why it could not be written: the disk is full
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def newest_checkpoint(run: Run) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be read, and its file; None if the run has none.

    Raises:
        DataError: there are checkpoints, but none can be read.
    """
    errors = []
    for path in (run.last_checkpoint, run.previous_checkpoint):
        if path.is_file():
            try:
                return path, read_checkpoint(path)
            except DataError as error:
                errors.append(str(error))
    if errors:
        raise DataError("; ".join(errors))
    return None


def remove_unfinished(run: Run) -> None:
    """Delete what a killed process left of a file it was writing."""
    for folder in (run.path, run.checkpoints):
        for path in folder.glob(".*.part"):
            path.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint, its tensors to the CPU, without running any code in it.

    Raises:
        DataError: the file is damaged or no checkpoint of a Tailcut run.
    """
    state = read_torch_file(path)
    if not is_checkpoint(state):
        raise DataError(f"{path} is no checkpoint of a Tailcut run")
    if state["version"] != VERSION:
        raise DataError(
            f"{path} was written by another version of Tailcut (checkpoint version {state['version']}, "
            f"this one reads {VERSION}); finish the run with that version"
        )
    return dict(state)


def is_checkpoint(content: Any) -> bool:
    """Whether what was read from a file is a checkpoint of a Tailcut run."""
    return isinstance(content, dict) and "version" in content and isinstance(content.get("recipe"), str)


def say_resumed(path: Path, state: Mapping[str, Any]) -> None:
    """Log where a run goes on, and what will keep it from the same numbers."""
    logger.info("resumed from %s after epoch %d", path, state["epoch"])
    threads = torch.get_num_threads()
    if state["num_threads"] != threads:
        logger.warning(
            "this run began with %d threads and goes on with %d: its numbers will differ in the last bits",
            state["num_threads"],
            threads,
        )


def random_state() -> dict[str, Tensor]:
    """The states of all global random number generators of this process, as tensors that can be gathered."""
    _, integers, python_gauss = random.getstate()
    legacy: Any = np.random.get_state()
    _, numpy_key, numpy_position, has_gauss, numpy_gauss = legacy
    state = {
        "python": torch.tensor([*integers, _NO_GAUSS if python_gauss is None else python_gauss], dtype=torch.float64),
        "numpy": torch.tensor([*numpy_key.tolist(), numpy_position, has_gauss, numpy_gauss], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put back what `random_state` gave; a generator that this machine lacks is left out."""
    *integers, gauss = state["python"].tolist()
    random.setstate((3, tuple(int(value) for value in integers), None if gauss != gauss else gauss))
    *key, position, has_gauss, numpy_gauss = state["numpy"].tolist()
    words = np.array(key, dtype=np.uint32)
    np.random.set_state(("MT19937", words, int(position), int(has_gauss), numpy_gauss))
    # Copies: torch reads from the beginning of the storage, where a row of several states is not.
    torch.set_rng_state(state["torch"].cpu().clone())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu().clone())
