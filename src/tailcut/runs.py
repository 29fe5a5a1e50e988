"""Run folders: the files that `train` writes, by name.

RUN/
  recipe.toml             the recipe as resolved: overrides applied, defaults written out
  start.tailcut           the network that the training started from, unless that had just fresh parameters
  metrics.jsonl           one JSON object per finished epoch
  checkpoints/last.pt     the state after the last finished epoch
  checkpoints/previous.pt the state one epoch earlier
  checkpoints/damaged.pt  a last checkpoint that could not be read when the run was resumed
  model.tailcut           the packed network
  discriminator.tailcut   the packed discriminator, of a GAN only
  result.json             the figures of the packed network and how it was trained
  curves.png              loss, metric and kept coefficients over the epochs
  log.txt                 the log
  stages/NAME/            a run folder for each stage of the recipe, where it has any

A training that runs holds a lock on the folder.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from tailcut.errors import ArgumentError, DataError
from tailcut.files import locked, make_folder, write_atomically
from tailcut.printing import Report, figure_text, plain, table

RUN_PREFIX = "run:"  # what a run beside this one is called in a recipe
STAGE_PREFIX = "stage:"  # what a stage of the same run is called

# What the values of the files may be, and the words for it. A figure that is no number is null there.
_WORDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    float | None: "a number or null",
    dict[str, Any]: "an object",
    dict[str, str]: "an object of texts",
    dict[str, int]: "an object of whole numbers",
    dict[str, float]: "an object of numbers",
    dict[str, float | None]: "an object of numbers",
}
_LINE_KINDS = {
    "epoch": int,
    "loss": float | None,
    "split": str,
    "metrics": dict[str, float | None],
    "lr": float | None,
    "num_kept": int,
    "coarse": int,
    "seconds": float | None,
}
_SECTIONS = ("data", "model", "paper", "pruning", "start", "training")
_PAPER_KINDS = {"source": str, "metrics": dict[str, float], "num_kept": int, "why_not": str}


@dataclass
class Result(Report):
    """The result of one training, as `result.json` holds it.

    Attributes:
        name: the recipe's name.
        command: the command line that trained it.
        recipe: the recipe as resolved.
        seed: the seed of everything random.
        epochs: how many epochs were trained.
        device: `cpu`, or the name of the GPU (`NVIDIA H200`); joined by "and" if a run went on on another.
        num_devices: devices on all machines together.
        num_threads: threads of torch on one device.
        seconds: time of all epochs together, validation included.
        versions: version of each package that matters.
        split_sizes: images per split (`train`, `validation`, `test`).
        metrics: figures of the packed file on the whole test split, 0 to 1; distances (`fid`) as they are;
            NaN for what is no number.
        validation: the same on the held-out images after the last epoch; empty without hold-out.
        num_kept: coefficients of weights that the file keeps.
        num_parameters: numbers that the dense network has.
        num_other: all other numbers of the file that were trained: biases, and those of batch norm, coefficients too.
        file_bytes: size of the packed file.
        paper: the paper's figures for the same row and where they stand; empty if there are none.
        start_fingerprint: `tailcut.format.fingerprint` of the network it went on from; empty for fresh parameters.
    """

    name: str
    command: str
    recipe: dict[str, Any]
    seed: int
    epochs: int
    device: str
    num_devices: int
    num_threads: int
    seconds: float
    versions: dict[str, str]
    split_sizes: dict[str, int]
    metrics: dict[str, float]
    validation: dict[str, float]
    num_kept: int
    num_parameters: int
    num_other: int
    file_bytes: int
    paper: dict[str, Any] = field(default_factory=dict)
    start_fingerprint: str = ""

    def __str__(self) -> str:
        """Return the figures as a table for people, beside the paper's if there are any."""
        rows = [
            (f"test {name}", figure_text(name, value), self._in_paper(name)) for name, value in self.metrics.items()
        ]
        rows += [(f"validation {name}", figure_text(name, value), "") for name, value in self.validation.items()]
        rows += [
            ("kept coefficients", f"{self.num_kept:,}", ""),
            ("other numbers", f"{self.num_other:,}", ""),
            ("dense parameters", f"{self.num_parameters:,}", ""),
            ("file", f"{self.file_bytes:,} bytes", ""),
            ("time", f"{self.seconds:,.0f} s, {self.epochs} epochs", ""),
        ]
        if not self.paper:
            return table([self.name, "here"], [row[:2] for row in rows], align="<>")
        return table([self.name, "here", "paper"], rows, align="<>>")

    def _in_paper(self, metric: str) -> str:
        value = self.paper.get("metrics", {}).get(metric)
        return "" if value is None else figure_text(metric, value)


class _Inside:
    """The path of a file or a folder in a run."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "Run", kind: type | None = None) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class Run:
    """A run folder. Only the names: the files may or may not exist yet.

    Attributes:
        path: the folder.
        whole: the run that this one is a stage of, if it is one.

    The others are the paths of the files that the module's docstring describes.
    """

    path: Path
    whole: "Run | None" = None

    _stages = _Inside("stages")
    recipe = _Inside("recipe.toml")
    metrics = _Inside("metrics.jsonl")
    checkpoints = _Inside("checkpoints")
    last_checkpoint = _Inside("checkpoints/last.pt")
    previous_checkpoint = _Inside("checkpoints/previous.pt")
    damaged_checkpoint = _Inside("checkpoints/damaged.pt")
    start = _Inside("start.tailcut")
    model = _Inside("model.tailcut")
    discriminator = _Inside("discriminator.tailcut")
    result = _Inside("result.json")
    curves = _Inside("curves.png")
    log = _Inside("log.txt")

    def stage(self, name: str) -> "Run":
        """Return the run folder of a stage."""
        return Run(self._stages / name, self)

    def has_stages(self) -> bool:
        """Return whether there are run folders of stages."""
        return self._stages.is_dir()

    @classmethod
    def create(cls, path: str | Path, *, resume: bool = False) -> "Run":
        """Make the folder (and its parents) for a new run, or take up one that exists.

        Args:
            path: the folder.
            resume: a folder that holds a run already is taken as it is; one without a finished epoch is begun anew.

        Raises:
            ArgumentError: the path is a file, holds a run and `resume` is False, has lost the recipe of its run, or
                holds files with names of ours that no training made.
        """
        run = cls(Path(path))
        make_folder(run.path)
        has_epochs = run.has_finished_epochs()
        if has_epochs and not run.recipe.is_file():
            raise ArgumentError(
                f"{run.path} holds a run whose {run.recipe.name} is lost, so it cannot go on; put "
                f"{run.recipe.name} back, or choose another folder"
            )
        if run.exists() and not resume:
            raise ArgumentError(
                f"{run.path} holds a run already; continue it with --resume, or choose another folder"
                if has_epochs
                else f"{run.path} holds a run that has not finished an epoch; begin it anew with --resume, or choose "
                "another folder"
            )
        run._check_foreign()
        if not has_epochs:  # of an earlier attempt, perhaps with another recipe, which the training writes over
            run.start.unlink(missing_ok=True)
            run.metrics.unlink(missing_ok=True)
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        return run

    def _check_foreign(self) -> None:
        """Raise `ArgumentError` for a file that would be deleted, in a folder where no training ever began."""
        if self.checkpoints.is_dir() or self.exists():
            return
        for path in (self.start, self.metrics):
            if path.exists():
                raise ArgumentError(
                    f"{path} is not of a training, which would write over it; move it away, or choose another folder"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder, which is made if needed, while the block runs.

        Raises:
            ArgumentError: another training runs in it, or the path is a file.
        """
        make_folder(self.path)
        taken = f"another training runs in {self.path}; wait until it ends, stop it, or choose another folder"
        with locked(self.path, taken):
            yield

    def exists(self) -> bool:
        """Return whether the folder holds a run (its recipe was written)."""
        return self.recipe.is_file()

    def has_finished_epochs(self) -> bool:
        """Return whether there is a file that a training writes only after its first epoch, here or of a stage."""
        written = (self.last_checkpoint, self.previous_checkpoint, self.model, self.result)
        stages = self._stages.iterdir() if self.has_stages() else ()
        return any(path.is_file() for path in written) or any(Run(path).has_finished_epochs() for path in stages)

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint file, readable or not."""
        return self.last_checkpoint.is_file() or self.previous_checkpoint.is_file()

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl`, with None for NaN; empty if there are none yet.

        Raises:
            DataError: the file cannot be read, a line is no JSON object, or a value is of another kind.
        """
        if not self.metrics.is_file():
            return []
        texts = _read_text(self.metrics, "metrics").splitlines()
        places = [f"{self.metrics}, line {number}" for number in range(1, len(texts) + 1)]
        lines = [_object(text, place) for text, place in zip(texts, places, strict=True)]
        for line, place in zip(lines, places, strict=True):
            _check_kinds(line, _LINE_KINDS, place)
        return lines

    def write_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write `metrics.jsonl`, whole or not at all."""
        write_atomically(self.metrics, "".join(json.dumps(plain(line), allow_nan=False) + "\n" for line in lines))

    def read_result(self) -> Result:
        """Return the result of a finished run.

        Raises:
            DataError: the run is not finished, or the file is damaged.
        """
        return read_result(self.result)

    def write_result(self, result: Result) -> None:
        """Write `result.json`, whole or not at all."""
        content = json.dumps(result.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        # Bytes of the command line that are no UTF-8 come as surrogates: JSON has them as escapes.
        write_atomically(self.result, f"{content}\n".encode(errors="backslashreplace"))


def packed_network(source: str | Path, *, beside: Run | None = None) -> str | Path:
    """Return the packed network of a run folder; any other source (a file, `zoo:NAME`) as it is.

    Args:
        source: where it is; `run:NAME` is the run folder NAME that lies beside another run.
        beside: that other run. `stage:NAME` is a stage of it.

    Raises:
        ArgumentError: `run:NAME` without a run that it may lie beside, or there is no finished run.
    """
    if source == "":  # which Path takes for the current folder
        raise ArgumentError("expected the name of a file, a run folder or zoo:NAME, got an empty one")
    whole = None if beside is None else beside.whole or beside
    if str(source).startswith(STAGE_PREFIX) and whole is not None:
        return whole.stage(str(source).removeprefix(STAGE_PREFIX)).model
    if str(source).startswith(RUN_PREFIX):
        return _network_beside(str(source).removeprefix(RUN_PREFIX), whole)
    return Run(Path(source)).model if Path(source).is_dir() else source


def _network_beside(name: str, beside: Run | None) -> Path:
    if beside is None:
        raise ArgumentError(f"{RUN_PREFIX}{name} means a run folder beside that of a training; there is none here")
    # "." and ".." have no parent in their names.
    folder = beside.path if beside.path.name not in ("", "..") else beside.path.resolve()
    network = Run(folder.parent / name).model
    if not network.is_file():
        raise ArgumentError(
            f"{RUN_PREFIX}{name} needs the finished run {network.parent}, which holds no {network.name}; "
            f"train it first, for example with tailcut train {name} --out {network.parent}"
        )
    return network


def read_result(path: str | Path) -> Result:
    """Read a `result.json`, of a run or kept elsewhere.

    Raises:
        DataError: there is no such file, it is no JSON object, keys are missing or unknown, or a value is of another
            kind.
    """
    values = _object(_read_text(Path(path), "result", "; has the run finished?"), str(path))
    fields = dataclasses.fields(Result)
    # Older results lack what has a default.
    needed = {item.name for item in fields if item.default is item.default_factory is dataclasses.MISSING}
    missing, unknown = sorted(needed - values.keys()), sorted(values.keys() - {item.name for item in fields})
    if missing or unknown:
        problems = [
            f"{what} {', '.join(keys)}" for what, keys in (("lacks", missing), ("has the unknown", unknown)) if keys
        ]
        raise DataError(f"{path} is no result of a run: it {' and '.join(problems)}")
    for name in ("metrics", "validation"):
        if isinstance(values[name], dict):
            values[name] = {key: math.nan if value is None else value for key, value in values[name].items()}
    _check_kinds(values, {item.name: item.type for item in fields}, str(path))
    _check_kinds(values.get("paper", {}), _PAPER_KINDS, f"{path}, paper")
    check_recipe(values["recipe"], f"{path}, recipe")
    if values["file_bytes"] < 1:
        raise DataError(f"{path}: file_bytes must be at least 1, found {values['file_bytes']}")
    return Result(**values)


def check_recipe(recipe: Mapping[str, Any], where: str) -> None:
    """Raise `DataError` if what is read of a stored recipe (in `where`) is of another kind than in a recipe."""
    sections = {key: recipe[key] for key in _SECTIONS if key in recipe}
    for key, section in sections.items():
        if not isinstance(section, Mapping):
            raise DataError(f"{where}: {key} must be a table, found {str(section)[:60]}")
    _check_kinds(sections.get("paper", {}), _PAPER_KINDS, f"{where}, paper")
    for key in ("data", "model"):
        _check_kinds(sections.get(key, {}), {"name": str}, f"{where}, {key}")
    if sections.get("pruning") and "name" not in sections.get("model", {}):
        raise DataError(f"{where}: it has a table pruning, but no model.name")


def tailcut_version() -> str:
    """Return the version of this Tailcut, as `tailcut.__version__` has it."""
    return str(sys.modules[__name__.partition(".")[0]].__version__)


def _read_text(path: Path, what: str, hint: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the {what} {path}: {error}{hint}") from error


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=lambda name: None)  # NaN, of files that older versions wrote
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return dict(value)


def _check_kinds(values: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> None:
    """Raise `DataError` for a value of another kind than its key's; keys may be missing."""
    for key, kind in kinds.items():
        if key in values and not _is_of_kind(values[key], kind):
            raise DataError(f"{where}: {key} must be {_WORDS[kind]}, found {json.dumps(values[key])[:60]}")


def _is_of_kind(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of one of the kinds in `_WORDS`."""
    if kind is Any:
        return True
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_of_kind(item, get_args(kind)[1]) for item in value.values())
    if isinstance(kind, UnionType):
        return any(_is_of_kind(value, one) for one in get_args(kind))
    if type(value) is int and abs(value) > sys.float_info.max:
        return False
    if kind is float and type(value) is int:  # true and false are no numbers
        return True
    return type(value) is kind
