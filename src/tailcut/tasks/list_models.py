"""Lists of the registered architectures and of the zoo's trained networks with their metrics."""

import contextlib
import textwrap
from dataclasses import dataclass
from typing import Any

from tailcut.errors import MissingExtraError
from tailcut.format import inspect, resolve, zoo_names
from tailcut.format.container.contents import decode
from tailcut.format.network.building import named_base, on_meta
from tailcut.printing import Report, figure_text, sizes, table
from tailcut.runs import read_result
from tailcut.structure import Base, family, model_names

ARGUMENTS_WIDTH = 64  # characters


@dataclass
class Architecture(Report):
    """A registered network with its default arguments.

    Attributes:
        name: for `create_model` and files.
        arguments: name -> default.
        example_shape: of an input, batch first.
        num_parameters: of the network with its defaults; None if a package is missing that building it needs.
    """

    name: str
    arguments: dict[str, Any]
    example_shape: tuple[int, ...]
    num_parameters: int | None


@dataclass
class ZooEntry(Report):
    """A trained network that ships in the package.

    Attributes:
        name: it is read as `zoo:NAME`.
        model: its registered architecture.
        arguments: of the architecture, where they differ from the defaults.
        file_bytes: size of its file.
        num_kept: coefficients in the file.
        num_parameters: of the dense network.
        data: the data set it was trained on, None if no result was committed for it.
        metrics: figures on the whole test split, 0 to 1; distances (`fid`) as they are.
        paper: the figures of the paper's row.
    """

    name: str
    model: str | None
    arguments: dict[str, Any]
    file_bytes: int
    num_kept: int
    num_parameters: int
    data: str | None
    metrics: dict[str, float]
    paper: dict[str, Any]


@dataclass
class ModelsReport(Report):
    """Architectures and trained networks, each sorted by name."""

    models: list[Architecture]
    zoo: list[ZooEntry]

    def __str__(self) -> str:
        """Return two tables."""
        architectures = [row for entry in self.models for row in _rows(entry)]
        trained = [
            (
                f"zoo:{entry.name}",
                entry.data or "",
                ", ".join(f"{key} {figure_text(key, value)}" for key, value in entry.metrics.items()),
                f"{entry.num_kept:,}",
                f"{entry.num_parameters:,}",
                f"{entry.file_bytes:,}",
            )
            for entry in self.zoo
        ]
        header = ["architecture", "example input", "parameters", "arguments and defaults"]
        text = table(header, architectures, align="<<><")
        if not trained:
            return text
        header = ["trained network", "data", "test", "kept", "parameters", "bytes"]
        return f"{text}\n\n{table(header, trained, align='<<<>>>')}"


def _rows(entry: Architecture) -> list[tuple[str, ...]]:
    """Return one row of the table, and more where the arguments are too many for one line."""
    arguments = ", ".join(f"{key}={value}" for key, value in entry.arguments.items())
    first, *others = textwrap.wrap(arguments, ARGUMENTS_WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
    number = "?" if entry.num_parameters is None else f"{entry.num_parameters:,}"
    return [(entry.name, sizes(entry.example_shape), number, first), *(("", "", "", line) for line in others)]


def list_models() -> ModelsReport:
    """Return all registered architectures (the user's too, once imported) and the whole zoo."""
    return ModelsReport(
        models=[_architecture(name) for name in model_names()], zoo=[_zoo_entry(name) for name in zoo_names()]
    )


def _architecture(name: str) -> Architecture:
    chosen = family(name)
    num_parameters: int | None = None
    with contextlib.suppress(MissingExtraError):
        num_parameters = sum(parameter.numel() for parameter in on_meta(Base(name, {})).parameters())
    return Architecture(name, dict(chosen.defaults), chosen.example_shape(), num_parameters)


def _zoo_entry(name: str) -> ZooEntry:
    path = resolve(f"zoo:{name}")
    record = path.with_suffix(".json")
    if not record.is_file():
        stored = inspect(path)
        counts = (stored.file_bytes, stored.num_kept, stored.num_parameters)
        return ZooEntry(name, stored.model, stored.arguments, *counts, data=None, metrics={}, paper={})
    # Its record says how much a file holds; to decode all files would take seconds.
    result, base = read_result(record), decode(path.read_bytes()).base
    return ZooEntry(
        name=name,
        model=None if base is None else base.name,
        arguments={} if base is None else dict(named_base(base).arguments),
        file_bytes=result.file_bytes,
        num_kept=result.num_kept,
        num_parameters=result.num_parameters,
        data=result.recipe["data"]["name"],
        metrics=result.metrics,
        paper=result.paper,
    )
