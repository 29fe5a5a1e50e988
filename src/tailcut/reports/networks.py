"""Networks of a report: the data that a run folder, a file or the zoo holds of each, and reasons for missing data."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, DataError, FormatError, MissingExtraError, first_line
from tailcut.format import InspectReport, inspect, load, resolve
from tailcut.format.file_bytes import read_contents
from tailcut.format.zoo import PREFIX
from tailcut.inputs import transform_of
from tailcut.runs import Result, Run, check_recipe, packed_network, read_result
from tailcut.structure import check_pixels, edit_kind, example_shape, image_size
from tailcut.transform.block import BLOCK_SIZE


@dataclass(frozen=True)
class ReportedNetwork:
    """A network of a report.

    Attributes:
        name: what the report calls it.
        source: the run folder, the file or `zoo:NAME`, as it was given.
        result: its training and metrics; None if unknown.
        recipe: its recipe, {} if unknown.
        lines: one per epoch, as `Run.read_metrics` gives them; empty if there are none.
        stored: what its file holds; None without a file, or where that of a run is damaged.
        model: the network; None if it cannot be built.
        missing: reasons, for `lines`, `stored` and `model` where they are missing, and for a `result` that is damaged.
    """

    name: str
    source: str
    result: Result | None
    recipe: Mapping[str, Any]
    lines: Sequence[dict[str, Any]]
    stored: InspectReport | None
    model: nn.Module | None
    missing: Mapping[str, str] = field(default_factory=dict)

    def recipe_section(self, name: str) -> Mapping[str, Any]:
        """Return a section of the recipe; {} where it has none."""
        section = self.recipe.get(name)
        return section if isinstance(section, Mapping) else {}


def reported_networks(sources: Sequence[str | Path]) -> list[ReportedNetwork]:
    """Return the networks of a report, each under a unique name.

    Args:
        sources: run folders, .tailcut files or `zoo:NAME`, in the order of the report.

    Raises:
        ArgumentError: one is given twice, or the zoo has no such network.
        DataError: a folder holds no run, or one without a recipe; a record of the zoo is damaged.
        FormatError: a .tailcut file that is given by itself cannot be loaded.
        FileNotFoundError: there is no such file.
    """
    check_named_once(sources)
    texts = [str(source) for source in sources]
    short = [_short_name(text) for text in texts]
    names = [text if short.count(name) > 1 else name for text, name in zip(texts, short, strict=True)]
    return [reported_network(text, name) for text, name in zip(texts, names, strict=True)]


def check_named_once(sources: Sequence[str | Path]) -> None:
    """Raise `ArgumentError` if one of the files or folders is given twice: nothing would tell the two apart."""
    texts = [str(source) for source in sources]
    for text in texts:
        if texts.count(text) > 1:
            raise ArgumentError(f"{text} is given twice")


def reported_network(source: str | Path, name: str) -> ReportedNetwork:
    """Return one network of a report, under this name; see `reported_networks`."""
    text = str(source)
    if Path(text).is_dir():
        return _open_run(Run(Path(text)), text, name)
    beside = resolve(text).with_suffix(".json")
    is_of_zoo = text.startswith(PREFIX)
    result = read_result(beside) if is_of_zoo and beside.is_file() else None
    kind = "a network of the zoo comes" if is_of_zoo else "a .tailcut file comes"
    missing = {"lines": f"{kind} without the figures of its epochs; give the run folder to see them"}
    return _complete(text, name, result, {} if result is None else result.recipe, [], missing)


def edit_names(source: str | Path) -> list[str]:
    """Return the kinds of edits that a .tailcut file records, in their order: `regularize`, `prune`, ...

    Raises as `tailcut.inspect`.
    """
    kinds = [edit_kind(number) for number, _ in read_contents(source).edits]
    return ["unknown" if kind is None else kind.kind for kind in kinds]


def example_input(model: nn.Module, num: int = 1) -> Tensor | None:
    """Random inputs of the shape that the network was trained on, the same in every call; None for a user's own class.

    For images that is the recorded size (`tailcut.inputs.image_size`), else its family's.

    Args:
        model: a network; not changed.
        num: how many.

    Raises:
        LimitError: its recorded size is beyond `tailcut.structure.MAX_INPUT_PIXELS`.

    Returns:
        (num, ...): standard normal numbers for vectors (the codes of generators), else numbers of 0 to 1 (pixels).
    """
    shape = example_shape(model)
    if shape is None:
        return None
    size = image_size(model)
    if size is not None and len(shape) == 4:
        # Frequency channels are smaller than the images by the side of a block.
        factor = 1 if transform_of(model) is None else BLOCK_SIZE
        check_pixels(model, size)
        shape = (*shape[:2], *(max(1, side // factor) for side in size))
    draw = torch.rand if len(shape) > 2 else torch.randn
    # Several inputs begin with the same ones as fewer do: the numbers are drawn one after another.
    return draw(num, *shape[1:], generator=torch.Generator().manual_seed(0))


def _short_name(text: str) -> str:
    if text.startswith(PREFIX):
        return text
    path = Path(text)
    return path.resolve().name if path.is_dir() else path.stem


def _open_run(run: Run, text: str, name: str) -> ReportedNetwork:
    if not run.exists():
        raise DataError(
            f"{run.path} holds no run: it has no recipe.toml; give a run folder, a .tailcut file or zoo:NAME"
        )
    missing: dict[str, str] = {}
    result, lines = None, []
    try:
        result = run.read_result() if run.result.is_file() else None
    except DataError as error:
        missing["result"] = first_line(error)
    try:
        lines = run.read_metrics()
        if not lines:
            missing["lines"] = _why_no_lines(run, result)
    except DataError as error:
        missing["lines"] = first_line(error)
    recipe = _read_recipe(run) if result is None else result.recipe
    reason = _why_no_network(run, len(lines))
    if not reason:
        try:
            return _complete(text, name, result, recipe, lines, missing)
        except FormatError as error:
            reason = first_line(error)
    missing |= {"stored": reason, "model": reason}
    return ReportedNetwork(name, text, result, recipe, lines, None, None, missing)


def _why_no_lines(run: Run, result: Result | None) -> str:
    if result is None:
        return "no epoch of it is finished yet"
    return "it was trained for 0 epochs" if result.epochs == 0 else f"its {run.metrics.name} is missing or empty"


def _why_no_network(run: Run, num_epochs: int) -> str:
    """Return the reason why the run has no packed network; empty if it has one."""
    if run.model.is_file():
        return ""
    if run.result.is_file():
        return f"the run is finished, but its {run.model.name} is not there any more"
    epochs = "1 epoch" if num_epochs == 1 else f"{num_epochs} epochs"
    return f"the run is not finished ({epochs} so far): there is no packed network yet"


def _read_recipe(run: Run) -> dict[str, Any]:
    try:
        recipe = tomllib.loads(run.recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the recipe {run.recipe}: {error}") from error
    check_recipe(recipe, str(run.recipe))
    return recipe


def _complete(
    text: str,
    name: str,
    result: Result | None,
    recipe: Mapping[str, Any],
    lines: Sequence[dict[str, Any]],
    missing: dict[str, str],
) -> ReportedNetwork:
    """With what the .tailcut file holds."""
    file = packed_network(text)
    stored = inspect(file)
    model = None
    if stored.model is None:
        missing["model"] = "the file holds a network of a user's own class, which cannot be built from the file alone"
    else:
        try:
            model = load(file)
        except MissingExtraError as error:
            missing["model"] = str(error)
    return ReportedNetwork(name, text, result, recipe, lines, stored, model, missing)
