"""Launch of a training: its folder, its devices, and one trainer per process."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from tailcut.data import Roots, reading
from tailcut.errors import ArgumentError
from tailcut.files import write_atomically
from tailcut.runs import Result, Run
from tailcut.runtime.devices import Devices, is_first_process, make_fabric
from tailcut.runtime.progress import log_to_file
from tailcut.runtime.signals import explaining_lost_places
from tailcut.training.checkpoints import remove_unfinished
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import check_replaceable, check_same, holds, to_toml
from tailcut.training.setup.job import Fabric, Job
from tailcut.training.trainer.base import Trainer


def run_trainers(
    kind: Callable[[Job], Trainer],
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool,
    devices: Devices | None,
    **settings: Any,
) -> Result:
    """Run one trainer of this kind in each process; arguments, result and errors are those of `train`.

    No other training can begin or go on in the folder meanwhile.
    """
    run = Run(Path(out))
    fabric = make_fabric(devices or Devices(), recipe.training.precision)
    with ExitStack() as held:
        if is_first_process():
            held.enter_context(run.locked())
            _take_up(run, recipe, resume=resume)
        result: Result = fabric.launch(partial(_run_trainer, kind=kind, recipe=recipe, run=run, **settings))
    return result


def _take_up(run: Run, recipe: Recipe, *, resume: bool) -> None:
    """Make the folder of a new run, or check that the one in it can go on with this recipe; see `Run.create`.

    Raises:
        ArgumentError: there is a finished run without its checkpoints, which would be trained anew and overwritten.
        RecipeError: the run was started with another recipe, or a file of the user's is where its recipe belongs.
    """
    Run.create(run.path, resume=resume)
    if run.has_finished_epochs():
        check_same(recipe, run.recipe)
    check_replaceable(recipe, run.recipe)
    if recipe.training.epochs and run.result.is_file() and not run.has_checkpoint():
        raise ArgumentError(
            f"{run.path} holds a finished run whose checkpoints are missing, so it cannot resume, and training anew "
            "would overwrite it; keep it as it is, or choose another folder"
        )
    remove_unfinished(run)


def _run_trainer(
    fabric: Fabric,
    *,
    kind: Callable[[Job], Trainer],
    recipe: Recipe,
    run: Run,
    roots: Roots,
    download: bool,
    progress: bool,
    command: str,
) -> Result:
    """Train in one process, and return the result."""
    data = recipe.data
    how = reading(on_error=data.on_error, strict=data.strict, max_pixels=data.max_pixels, place="recipe")
    log = log_to_file(run) if fabric.is_global_zero else nullcontext()
    with log, explaining_lost_places(run), how as settings:
        trainer = kind(Job(recipe, run, fabric, roots, download))
        if fabric.is_global_zero and not holds(run.recipe, recipe):  # else it may be the user's own, with comments
            write_atomically(run.recipe, to_toml(recipe))
        trainer.train_epochs(progress=progress)
        result = trainer.finish(command)
        if fabric.is_global_zero:
            settings.report()
        return result
