"""Launch of a training: its folder, its devices, and one trainer per process."""

import logging
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from tailcut.data import Roots, reading
from tailcut.errors import ArgumentError, RecipeError
from tailcut.files import write_atomically
from tailcut.runs import Result, Run
from tailcut.runtime.devices import Devices, is_global_zero, make_fabric
from tailcut.runtime.progress import log_to_file
from tailcut.runtime.signals import explaining_lost_places, stopping_at_once
from tailcut.training.checkpoints import remove_unfinished
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.stages import last_stage, stages_of
from tailcut.training.recipe.toml_files import check_replaceable, check_same, holds, to_toml
from tailcut.training.setup.job import Fabric, Job
from tailcut.training.trainer.base import Trainer

logger = logging.getLogger(__name__)


# The trainer of a recipe, which checks it.
TrainerOf = Callable[[Recipe], Callable[[Job], Trainer]]


def run_trainers(
    trainer_of: TrainerOf,
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool,
    devices: Devices | None,
    **settings: Any,
) -> Result:
    """Run one trainer in each process for each stage of a recipe; arguments, result and errors are those of `train`.

    No other training can begin or go on in the folder meanwhile.
    """
    for name, stage in stages_of(recipe).items():
        try:
            trainer_of(stage)
        except RecipeError as error:
            raise RecipeError(f"stage {name}: {error}") from error
    trainer_of(last_stage(recipe))
    run = Run(Path(out))
    with stopping_at_once(run), ExitStack() as held:
        fabric = make_fabric(devices or Devices(), recipe.training.precision)
        if is_global_zero():
            held.enter_context(run.locked())
            _take_up(run, recipe, resume=resume)
        work = partial(_run_stages, trainer_of=trainer_of, recipe=recipe, run=run, **settings)
        result: Result = fabric.launch(work)
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


def _run_stages(fabric: Fabric, *, recipe: Recipe, run: Run, roots: Roots, download: bool, **settings: Any) -> Result:
    """Train in one process the stages of a recipe that are not finished, then the recipe itself."""
    stages = stages_of(recipe)
    parts = {name: run.stage(name) for name in stages}
    unfinished = [] if run.has_checkpoint() else [name for name, part in parts.items() if not _is_finished(part)]
    fresh = dict(fabric.strategy.precision.state_dict())
    for name in unfinished:
        fabric.barrier()  # all have seen what is finished
        if fabric.is_global_zero:
            _take_up(parts[name], stages[name], resume=True)
        fabric.barrier()
        fabric.strategy.precision.load_state_dict(fresh)
        job = Job(stages[name], parts[name], fabric, roots, download)
        title = f"stage {name}, {list(stages).index(name) + 1} of {len(stages) + 1}"
        _run_trainer(job, recipes={parts[name]: stages[name], run: recipe}, title=title, **settings)
    fabric.barrier()
    fabric.strategy.precision.load_state_dict(fresh)
    job = Job(
        last_stage(recipe),
        run,
        fabric,
        roots,
        download,
        record=recipe,
        earlier_epochs=sum(stage.training.epochs for stage in stages.values()),
        earlier_seconds=sum(part.read_result().seconds for part in parts.values() if _is_finished(part)),
    )
    title = f"the last of {len(stages) + 1} trainings" if stages else ""
    return _run_trainer(job, recipes={run: recipe}, title=title, **settings)


def _is_finished(run: Run) -> bool:
    return run.result.is_file() and run.model.is_file()


def _run_trainer(
    job: Job, *, trainer_of: TrainerOf, recipes: dict[Run, Recipe], title: str, progress: bool, command: str
) -> Result:
    """Train one recipe without stages. `recipes` are written into their folders once the network stands."""
    data, is_first = job.recipe.data, job.fabric.is_global_zero
    how = reading(
        on_error=data.on_error,
        strict=data.strict,
        max_pixels=data.max_pixels,
        place="recipe",
        workers=data.workers,
    )
    log = log_to_file(job.run) if is_first else nullcontext()
    with log, explaining_lost_places(job.run), stopping_at_once(job.run), how as settings:
        if title and is_first:
            logger.info(title)
        trainer = trainer_of(job.recipe)(job)
        for run, recipe in recipes.items() if is_first else ():
            if not holds(run.recipe, recipe):  # else it may be the user's own, with comments
                write_atomically(run.recipe, to_toml(recipe))
        trainer.train_epochs(progress=progress)
        result = trainer.finish(command)
        if is_first:
            settings.report()
        return result
