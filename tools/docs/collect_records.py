"""Copies what finished runs measured into docs/results, and small networks of ours into the zoo.

    python -m tools.docs.collect_records NAME ... [--runs runs]

NAME is a recipe, whose runs are RUNS/NAME and RUNS/NAME-SEED, or an experiment (`tailcut sweep`), whose runs are
RUNS/NAME/VARIANT-SEED. Results of a recipe's stages go to docs/results/stages. A run that was trained with other
settings than the recipe has now is left out with a warning. Older records of a recipe get the keys that are newer than
they are, at their defaults, so that all its seeds compare.
Run `python -m tools.docs.build_tables` and `python -m tools.docs.make_images` afterwards.
"""

import argparse
import json
import sys
from pathlib import Path

from tailcut.errors import ArgumentError, TailcutError
from tailcut.files import write_atomically
from tailcut.format import zoo_folder
from tailcut.format.zoo import PREFIX as ZOO_PREFIX
from tailcut.runs import RUN_PREFIX, Result, Run, read_result
from tailcut.training.experiments.definition import load_experiment, shipped_experiments, trials_of
from tailcut.training.experiments.sweep import find_results
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.stages import stages_of
from tailcut.training.recipe.toml_files import changed_since, load_recipe, shipped_recipes
from tailcut.training.setup.initial_network import needed_runs, sources

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
ZOO_BYTES = 2_000_000  # a larger network does not ship


def main(words: list[str] | None = None) -> int:
    """Collect the records of the names given. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a recipe or an experiment")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the run folders")
    arguments = parser.parse_args(words)
    try:
        for name in arguments.names:
            for path in collect(name, arguments.runs, RESULTS, zoo_folder()):
                print(path)
    except TailcutError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def collect(name: str, runs: Path, results: Path, zoo: Path) -> list[Path]:
    """Copy the records of a recipe or an experiment, and the recipe's network if it ships; the files written.

    Raises:
        ArgumentError: there is no such recipe or experiment, or no finished run of it.
        DataError: a result is damaged.
    """
    if name in shipped_experiments():
        written = _experiment(name, runs, results / "experiments" / name)
    else:
        written = _recipe(name, runs, results, zoo)
    if not written:
        raise ArgumentError(f"{name}: no finished run of its settings in {runs}")
    return written


def _experiment(name: str, runs: Path, folder: Path) -> list[Path]:
    trials = trials_of(load_experiment(name), runs)
    finished = find_results(trials)
    found = [trial for trial in trials if (trial.variant, trial.seed) in finished]
    return [_copy(trial.run.result, folder / f"{trial.run.path.name}.json") for trial in found]


def _recipe(name: str, runs: Path, results: Path, zoo: Path) -> list[Path]:
    source = next((known for known in shipped_recipes() if known.rpartition("/")[2] == name), None)
    if source is None:
        raise ArgumentError(f"there is no recipe and no experiment {name!r}")
    recipe = load_recipe(source)
    own = recipe.training.seed
    folder = results / source.rpartition("/")[0]
    written = []
    for run in [Run(runs / name), *(Run(path) for path in sorted(runs.glob(f"{name}-*")))]:
        result = read_result(run.result) if run.result.is_file() else None
        if result is not None and result.name == recipe.name and _same_settings(run, result, recipe):
            numbered = result.seed != own or (folder / f"{name}-{own}.json").is_file()
            stem = f"{name}-{result.seed}" if numbered else name
            written.append(_copy(run.result, folder / f"{stem}.json"))
            for stage in recipe.stage:
                target = results / "stages" / folder.name / f"{stem}-{stage.name}.json"
                written.append(_copy(run.stage(stage.name).result, target))
            if result.seed == own and is_ours(recipe) and result.file_bytes < ZOO_BYTES:
                written += [_copy(run.model, zoo / f"{name}.tailcut"), _copy(run.result, zoo / f"{name}.json")]
    if not written:
        return []
    stages = [
        (path, own) for stage, own in stages_of(recipe).items() for path in _records_of_stage(name, stage, results)
    ]
    records = [(path, recipe) for path in _records_of(name, folder, zoo)]
    return written + [path for path, own in records + stages if _complete(path, own)]


def _records_of_stage(name: str, stage: str, results: Path) -> list[Path]:
    """Return the records of a stage of a recipe that are there, of all its seeds."""
    return sorted((results / "stages").glob(f"*/{name}-{stage}.json")) + sorted(
        path
        for path in (results / "stages").glob(f"*/{name}-*-{stage}.json")
        if path.stem.removeprefix(f"{name}-").removesuffix(f"-{stage}").isdecimal()
    )


def _records_of(name: str, folder: Path, zoo: Path) -> list[Path]:
    """Return the records of a recipe that are there."""
    seeds = [path for path in sorted(folder.glob(f"{name}-*.json")) if path.stem.removeprefix(f"{name}-").isdecimal()]
    return [path for path in (folder / f"{name}.json", *seeds, zoo / f"{name}.json") if path.is_file()]


def _complete(path: Path, recipe: Recipe) -> bool:
    """Write the keys that are newer than a record into its recipe. Returns whether it lacked any."""
    recorded = read_result(path).recipe
    if changed_since(recorded, recipe, aside=("training.seed",)):
        return False  # of other settings
    complete = Recipe.model_validate(recorded).model_dump(mode="json", exclude_none=True)
    if recorded == complete:
        return False
    values = {**json.loads(path.read_bytes()), "recipe": complete}
    write_atomically(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    return True


def _same_settings(run: Run, result: Result, recipe: Recipe) -> bool:
    """Return whether the run was trained by this recipe, but for its seed."""
    changed = changed_since(result.recipe, recipe, aside=("training.seed",))
    if changed:
        print(f"{run.path}: left out, its settings differ: {'; '.join(changed)}", file=sys.stderr)
    return not changed


def is_ours(recipe: Recipe) -> bool:
    """Return whether no file of another's training went into the network, as start, teacher or backbone."""
    given = [source for source in sources(recipe) if source != "start"]
    return all(source.startswith((RUN_PREFIX, ZOO_PREFIX)) for source in given) and all(
        is_ours(load_recipe(needed)) for needed in needed_runs(recipe)
    )


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, source.read_bytes())
    return target


if __name__ == "__main__":
    sys.exit(main())
