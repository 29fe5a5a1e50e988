"""Checkpoints: everything that a run needs to resume, in files that are read without running code.

A checkpoint is a dict of tensors and plain values, written by `torch.save` and read with `weights_only=True`. A digest
of the whole file stands at its end (see `checkpoint_digest`) and is checked before anything is used.
"""

import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tailcut.errors import DataError, first_line
from tailcut.files import PREFIX, atomic_write, rename
from tailcut.format.conversion.checkpoints import read_torch_file
from tailcut.runs import Run
from tailcut.training.checkpoint_digest import save_with_digest, verify_digest

VERSION = 2
VERSION_WITHOUT_DIGEST = 1  # the same content without a digest
_NO_GAUSS = float("nan")
# What torch, numpy and Python raise for states that are none, or of something else.
_TORN = (KeyError, IndexError, TypeError, ValueError, OverflowError, RuntimeError)

logger = logging.getLogger(__name__)


def write_checkpoint(run: Run, state: Mapping[str, Any]) -> None:
    """Write the newest checkpoint; the one before stays as `previous`. At any moment one of them is whole."""
    run.checkpoints.mkdir(exist_ok=True)
    with atomic_write(run.last_checkpoint) as file:
        save_with_digest({"version": VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())  # the new one must be whole before the old one gives up its name
        if run.last_checkpoint.exists():
            rename(run.last_checkpoint, run.previous_checkpoint)


def newest_checkpoint(run: Run) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint of a run that can be read, and its file; None if the run has none.

    Where that is the one before the last, a warning says why.

    Raises:
        DataError: there are checkpoints, but none can be read.
    """
    errors: list[str] = []
    for path in (run.last_checkpoint, run.previous_checkpoint):
        if path.is_file():
            try:
                state = read_checkpoint(path)
            except DataError as error:
                errors.append(str(error))
                continue
            if errors:
                logger.warning("%s; the one before is taken, %s after epoch %d", errors[0], path.name, state["epoch"])
            return path, state
    if errors:
        raise DataError(
            f"{'; '.join(errors)}. No checkpoint of {run.path} can be read, so it cannot go on: train in another folder"
        )
    return None


def put_aside_damaged(run: Run) -> None:
    """Give the last checkpoint, which could not be read, another name.

    Else the next one would overwrite the previous one, which is readable.
    """
    if run.last_checkpoint.is_file():
        rename(run.last_checkpoint, run.damaged_checkpoint)


def remove_unfinished(run: Run) -> None:
    """Delete what a killed process left of a file it was writing."""
    for folder in (run.path, run.checkpoints):
        for path in folder.glob(f"{PREFIX}*.part"):
            path.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint, its tensors to the CPU, without running any code in it.

    Raises:
        DataError: the file is damaged or no checkpoint of a Tailcut run, or something in it is missing or of another
            kind.
    """
    has_digest = verify_digest(path)
    try:
        state = read_torch_file(path)
    except DataError as error:  # whose advice is for files of the user's own
        raise DataError(f"cannot read {path}: it is damaged, or was not written by a training") from error
    if not is_checkpoint(state):
        raise DataError(f"{path} is no checkpoint of a Tailcut run")
    version = state["version"]
    if version not in (VERSION_WITHOUT_DIGEST, VERSION):
        raise DataError(
            f"{path} was written by another version of Tailcut (checkpoint version {str(version)[:20]}, "
            f"this one reads {VERSION_WITHOUT_DIGEST} and {VERSION}); finish the run with that version"
        )
    if version != VERSION_WITHOUT_DIGEST and not has_digest:
        raise DataError(f"{path} is damaged: its digest is missing")
    _check_content(state, path)
    return dict(state)


def _check_content(state: Mapping[str, Any], path: Path) -> None:
    """Raise `DataError` if an entry that a run resumes from is missing or of another type."""
    for key, (fits, expected) in _PARTS.items():
        if key not in state or not fits(state[key]):
            found = f"found {str(state[key])[:40]!r}" if key in state else "it is missing"
            raise DataError(f"{path} is no whole checkpoint: {key!r} must be {expected}, {found}")
    if len(state["lines"]) != state["epoch"]:
        raise DataError(
            f"{path} is no whole checkpoint: it is of epoch {state['epoch']}, with the figures of {len(state['lines'])}"
        )
    try:
        for row in range(max(1, len(state["random"]["torch"]))):
            _parsed({name: value[row] for name, value in state["random"].items()})
    except _TORN as error:
        raise DataError(f"{path} is no whole checkpoint: its random state is none: {first_line(error)}") from error


@contextmanager
def applying(path: Path) -> Iterator[None]:
    """Within the block a checkpoint is given to the parts of a run; what they refuse becomes one clear error.

    Raises:
        DataError: the checkpoint is of another network or optimiser.
    """
    try:
        yield
    except (*_TORN, AttributeError) as error:
        raise DataError(
            f"{path} does not fit the recipe of its run ({type(error).__name__}: {first_line(error)}); train in "
            "another folder"
        ) from error


def check_same_origin(state: Mapping[str, Any], now: Mapping[str, Any], run: Run) -> None:
    """Raise `DataError` if a run was begun with other classes, images or another teacher than there are now.

    Args:
        state: a checkpoint; what an old one lacks is not compared.
        now: what there is now, by keys of the checkpoint.
        run: which resumes.
    """
    for key, value in now.items():
        if key in state and _as_tuple(state[key]) != _as_tuple(value):
            raise DataError(
                f"{run.path} was begun with {_difference(key, state[key], value)}: what it has learned does not fit; "
                "put back what it was begun with, or train in another folder"
            )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _difference(key: str, before: Any, now: Any) -> str:
    """Return in words what differs: what was there before, and what is there now."""
    if key == "teacher":
        return "another teacher than distillation.teacher is now"
    if key == "class_names" and before and now and len(before) == len(now):
        place = next(place for place, pair in enumerate(zip(before, now, strict=True)) if pair[0] != pair[1])
        return f"{before[place]!r} as class {place}, which is {now[place]!r} now"
    if key == "class_names":
        return f"{len(before or ())} classes, and there are {len(now or ())} now"
    if key == "image_size":
        return f"images of {_size_text(before)} pixels, and they have {_size_text(now)} now"
    if key == "image_shorter_side":
        return f"{_part_text(before)}, and there are {_part_text(now)} now"
    return f"{before:,} {_COUNTED[key]}, and there are {now:,} now"


def _size_text(size: Any) -> str:
    """Return height and width for people."""
    return "any number of" if size is None else " x ".join(str(side) for side in size)


def _part_text(shorter_side: int | None) -> str:
    """Return for people which part of an image is shown."""
    return "whole images" if shorter_side is None else f"middles of images, the shorter side {shorter_side} pixels"


def is_checkpoint(content: Any) -> bool:
    """Return whether the content of a file is a checkpoint of a Tailcut run."""
    return isinstance(content, dict) and "version" in content and isinstance(content.get("recipe"), str)


def say_resumed(path: Path, state: Mapping[str, Any]) -> None:
    """Log the position at which a run resumes, and the reasons why its numbers may differ."""
    logger.info("resumed from %s after epoch %d", path, state["epoch"])
    threads = torch.get_num_threads()
    if state["num_threads"] != threads:
        logger.warning(
            "this run began with %d threads and goes on with %d: its numbers will differ in the last bits",
            state["num_threads"],
            threads,
        )


def random_state() -> dict[str, Tensor]:
    """Return the states of all global random number generators of this process, as tensors for a gather."""
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
    python, numpy, generator = _parsed(state)
    random.setstate(python.getstate())
    np.random.set_state(numpy.get_state())
    torch.set_rng_state(generator.get_state())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu().clone())


def _parsed(state: Mapping[str, Tensor]) -> tuple[random.Random, np.random.RandomState, torch.Generator]:
    """Return local generators in these states. Raises one of `_TORN` for an invalid state."""
    *integers, gauss = state["python"].tolist()
    python = random.Random()  # noqa: S311  # the state of the user's own draws
    python.setstate((3, tuple(int(value) for value in integers), None if gauss != gauss else gauss))
    *key, position, has_gauss, numpy_gauss = state["numpy"].tolist()
    words = np.array(key, dtype=np.uint32)
    numpy = np.random.RandomState()
    numpy.set_state(("MT19937", words, int(position), int(has_gauss), numpy_gauss))
    generator = torch.Generator()
    # Copies: torch reads from the beginning of the storage, where a row of several states is not.
    generator.set_state(state["torch"].cpu().clone())
    return python, numpy, generator


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _has_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, Tensor) for item in value.values())


def _has_lines(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(line, dict) and isinstance(line.get("seconds"), int | float) for line in value
    )


def _has_random_states(value: object) -> bool:
    return isinstance(value, Mapping) and _has_tensors(value) and {"python", "numpy", "torch"} <= value.keys()


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _may_be_mapping(value: object) -> bool:
    return value is None or isinstance(value, Mapping)


_COUNTED = {"num_train": "training images", "num_held_out": "held-out images"}

# What a checkpoint holds beside its version and recipe, and the words for it.
_PARTS: dict[str, tuple[Callable[[object], bool], str]] = {
    "epoch": (_is_count, "the number of finished epochs"),
    "lines": (_has_lines, "the figures of the epochs"),
    "num_threads": (_is_count, "a number of threads"),
    "model": (_has_tensors, "tensors by name"),
    "optimizer": (_is_mapping, "the optimiser's state"),
    "schedule": (_may_be_mapping, "the schedule's state, or none"),
    "average": (_may_be_mapping, "the averages, or none"),
    "scaler": (_is_mapping, "the state of the precision"),
    "random": (_has_random_states, "the states of the random number generators"),
}
