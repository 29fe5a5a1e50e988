"""The pages keep their word: links lead somewhere, commands parse, and nothing that they list is missing."""

import argparse
import dataclasses
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import tailcut
from tailcut import errors
from tailcut.channels.pruning.report import PrunedLayer, PruneReport, SkippedChannels
from tailcut.channels.scoring.scores import ScoredLayer
from tailcut.cli import COMMANDS
from tailcut.cli.parser import Parser
from tailcut.evaluation import EvaluateReport
from tailcut.evaluation.generation import GenerationReport
from tailcut.format import InspectReport
from tailcut.format.inspect import StoredOtherTensor, StoredTensor
from tailcut.inputs import FrequencyReport
from tailcut.printing import Report
from tailcut.reports import ReproducedRow, ReproduceReport, SeedMean
from tailcut.reports.comparison import ComparedNetwork, ComparedOutputs, ComparedTensor, ComparisonReport
from tailcut.reports.html.page import PageReport, SkippedPart
from tailcut.reports.html.speed import Speed
from tailcut.runs import Result
from tailcut.tasks import PredictReport
from tailcut.tasks.attack import AttackCurve, AttackReport
from tailcut.tasks.export import UnpackReport
from tailcut.tasks.list_models import Architecture, ModelsReport, ZooEntry
from tailcut.tasks.pack import PackReport
from tailcut.tasks.prediction.explain import ExplainReport, Explanation
from tailcut.tasks.prediction.sample import SampleReport
from tailcut.tasks.prune import PruneFileReport
from tailcut.tasks.score import ScoreReport
from tailcut.tasks.select_channels import SelectReport
from tailcut.training.recipe.schema import OverrideSection, Recipe
from tailcut.training.recipe.stages import stages_of
from tailcut.training.recipe.toml_files import find_recipe, parse_recipe, shipped_recipes
from tailcut.weights.regularization.regularize import RegularizationReport, RegularizedTensor, SkippedTensor

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
REPORTS: dict[str, tuple[type[Report], ...]] = {
    "train": (Result,),
    "report": (PageReport, Speed, SkippedPart),
    "compare": (ComparisonReport, ComparedNetwork, ComparedTensor, ComparedOutputs),
    "reproduce": (ReproduceReport, ReproducedRow, SeedMean),
    "pack": (PackReport, RegularizationReport, RegularizedTensor, SkippedTensor),
    "inspect": (InspectReport, StoredTensor, StoredOtherTensor),
    "evaluate": (EvaluateReport, GenerationReport),
    "predict": (PredictReport, SampleReport),
    "unpack": (UnpackReport,),
    "dct": (FrequencyReport,),
    "select": (SelectReport,),
    "score": (ScoreReport, ScoredLayer),
    "prune": (PruneFileReport, PruneReport, PrunedLayer, SkippedChannels),
    "attack": (AttackReport, AttackCurve),
    "explain": (ExplainReport, Explanation),
    "models": (ModelsReport, Architecture, ZooEntry),
}


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """The anchor of a heading: lower case, spaces as hyphens, other signs left out."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose(page.read_text("utf-8")), re.MULTILINE)}


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in links(page):
        path, _, fragment = link.partition("#")
        target = page if path == "" else page.parent / path
        is_there = path.startswith("https://") or target.exists()
        if not is_there or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            dead.append(link)
    assert dead == []


def python_names(page: Path) -> set[str]:
    """The dotted names of the package that a page's text mentions, files (`tailcut.h`) and JavaScript left out."""
    found = set(re.findall(r"`(tailcut(?:\.\w+)+)[`(]", prose(page.read_text(encoding="utf-8"))))
    return found - {"tailcut.h", "tailcut.fish", "tailcut.run", "tailcut.mask"}


def exists(name: str) -> bool:
    """Return whether a dotted name is an attribute or a module; the last part is not imported, it may need an extra."""
    found: Any = tailcut
    parts = name.split(".")
    for number, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            module = ".".join(parts[:number])
            if number == len(parts) or importlib.util.find_spec(module) is None:
                return importlib.util.find_spec(module) is not None
            importlib.import_module(module)
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_names_of_python_exist(page: Path) -> None:
    assert [name for name in sorted(python_names(page)) if not exists(name)] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md" and page.is_file():
            reached.add(page)
            waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    assert {page.relative_to(ROOT) for page in PAGES} - {page.relative_to(ROOT) for page in reached} == set()


def shown_commands(page: Path) -> Iterator[str]:
    """The commands in the bash blocks of a page; those that only show the syntax are left out."""
    for block in blocks(page.read_text(encoding="utf-8"), "bash"):
        for line in block.splitlines():
            if re.match("tailcut [a-z]", line) and "[" not in line:
                yield line


SHOWN_COMMANDS = [command for page in PAGES for command in shown_commands(page)]


def parser_of_all_commands() -> Parser:
    parser = Parser(prog="tailcut")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def test_there_are_commands() -> None:
    assert len(SHOWN_COMMANDS) > 20


@pytest.mark.parametrize("command", SHOWN_COMMANDS)
def test_command_parses(command: str) -> None:
    arguments = parser_of_all_commands().parse_args(shlex.split(command, comments=True)[1:])
    if arguments.command == "train" and not arguments.recipe.endswith(".toml"):
        find_recipe(arguments.recipe)


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    (choices,) = (
        action.choices for action in parser_of_all_commands()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(choices)


def section(name: str) -> str:
    """A part of the page on the command line, up to the next heading."""
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", COMMAND_LINE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/command-line.md has no section {name}"
    return found[1]


@pytest.mark.parametrize("command", sorted(command_parsers()))
def test_every_command_and_option_is_explained(command: str) -> None:
    assert f"[`{command}`](#{command})" in COMMAND_LINE
    options = [option for action in command_parsers()[command]._actions for option in action.option_strings]
    explained = section("Options of several commands") + section(command)
    missing = [
        option
        for option in options
        if option not in {"-h", "--help"} and not re.search(rf"(?<![\w-]){option}(?![\w-])", explained)
    ]
    assert missing == []


def fields_of(report: type[Report]) -> list[str]:
    assert dataclasses.is_dataclass(report)
    return [field.name for field in dataclasses.fields(report)]


@pytest.mark.parametrize("command", sorted(REPORTS))
def test_every_key_of_the_json_is_named(command: str) -> None:
    keys = {key for report in REPORTS[command] for key in fields_of(report)}
    assert [key for key in sorted(keys) if f"`{key}`" not in section(command)] == []


def recipe_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a recipe, dotted, with its default as the page gives it."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is not None and inner is not OverrideSection:
            yield from recipe_keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "required" if field.is_required() else default_text(field.default)


def default_text(value: Any) -> str:
    if value is None:
        return "none"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def test_every_key_of_a_recipe_is_explained_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \| .+ \|$", RECIPES, re.MULTILINE))
    expected = dict(recipe_keys(Recipe)) | {"name": "the file's name"}
    assert {key: default for key, default in rows.items() if "." in key or key in expected} == expected


def test_recipes_on_the_page_are_valid() -> None:
    examples = blocks(RECIPES, "toml")
    assert examples
    for example in examples:
        recipe = parse_recipe(example, source="docs/recipes.md")
        assert any(training.schedule for training in (recipe, *stages_of(recipe).values()))


def test_overrides_are_named() -> None:
    (row,) = re.findall(r"^\| `regularization.overrides` .*$", RECIPES, re.MULTILINE)
    assert [key for key in OverrideSection.model_fields if f"`{key}`" not in row] == []


def test_every_format_error_is_named() -> None:
    text = (ROOT / "docs" / "file-format.md").read_text(encoding="utf-8")
    kinds = [kind.__name__ for kind in errors.FormatError.__subclasses__()]
    assert len(kinds) >= 7
    assert [kind for kind in kinds if f"| `{kind}` |" not in text] == []


def test_pages_name_recipes_that_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"tailcut train ([\w/-]+) ", text)) - {"RECIPE"}
    known = {short for name in shipped_recipes() for short in (name, name.rpartition("/")[2])}
    assert named
    assert named - known == set()
