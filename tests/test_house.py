"""Rules of the house that no linter of the field checks: sizes, names, mirrored tests, files at the root."""

import ast
import functools
import importlib
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tailcut

REPOSITORY = Path(__file__).parent.parent
SOURCE = REPOSITORY / "src" / "tailcut"
MODULES = sorted(SOURCE.rglob("*.py"))
RECIPES = sorted((REPOSITORY / "recipes").rglob("*.toml"))

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 50
CHANGELOG_KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")

Rule = Callable[[Path, str, ast.Module], Iterator[str]]


def short_module(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    lines = text.count("\n")
    if lines >= MAX_MODULE_LINES:
        yield f"{lines} lines; a module has fewer than {MAX_MODULE_LINES}"


def _num_lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def short_functions(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # A full docstring does not make a function hard to read, so its lines are not counted.
            documentation = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            lines = _num_lines(node) - (_num_lines(documentation) if documentation else 0)
            if lines >= MAX_FUNCTION_LINES:
                yield f"{node.name} has {lines} lines; a function has fewer than {MAX_FUNCTION_LINES}"


def no_room_for_everything(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    if path.stem in {"utils", "util", "helpers", "helper", "misc", "common"}:
        yield "a module is named after what it holds"


def no_assert(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    yield from (f"assert in line {node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.Assert))


def no_bare_except(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"bare except in line {node.lineno}"


def no_pickle(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            origin = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & {
                origin,
                *(a.name for a in node.names),
            }:
                yield f"pickle or its like in line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if keywords.get("weights_only") != "True":
                yield f"torch.load without weights_only=True in line {node.lineno}"


def nothing_left_to_do(path: Path, text: str, tree: ast.Module) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            yield f"unfinished business in line {number}"


RULES: list[Rule] = [
    short_module,
    short_functions,
    no_room_for_everything,
    no_assert,
    no_bare_except,
    no_pickle,
    nothing_left_to_do,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_source_keeps_the_rule(rule: Rule) -> None:
    found = []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(SOURCE)}: {what}" for what in rule(path, text, ast.parse(text))]
    assert found == []


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (short_module, "a.py", "x = 1\n" * MAX_MODULE_LINES),
        (short_functions, "a.py", LONG_FUNCTION),
        (no_room_for_everything, "utils.py", ""),
        (no_assert, "a.py", "assert x"),
        (no_bare_except, "a.py", "try:\n    f()\nexcept:\n    pass"),
        (no_pickle, "a.py", "import pickle"),
        (no_pickle, "a.py", "from pickle import loads"),
        (no_pickle, "a.py", "torch.load(path)"),
        (no_pickle, "a.py", "torch.load(path, weights_only=False)"),
        (nothing_left_to_do, "a.py", "x = 1  # TO" + "DO: y"),
    ],
)
def test_rule_finds_a_breach(rule: Rule, name: str, text: str) -> None:
    assert len(list(rule(Path(name), text, ast.parse(text)))) == 1


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (short_module, "x = 1\n" * (MAX_MODULE_LINES - 1)),
        (short_functions, LONG_FUNCTION.removesuffix("    x = 1\n")),
        (short_functions, LONG_FUNCTION.replace("    x = 1\n", '    """One\n\n    Two."""\n', 1)),
        (no_pickle, "torch.load(path, weights_only=True)"),
        (no_bare_except, "try:\n    f()\nexcept OSError:\n    pass"),
    ],
)
def test_rule_lets_the_limit_pass(rule: Rule, text: str) -> None:
    assert list(rule(Path("a.py"), text, ast.parse(text))) == []


def _resolves(name: str) -> bool:
    """Return whether a dotted name is one of a module, or of something in it."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        try:
            functools.reduce(getattr, parts[count:], found)
        except AttributeError:
            return False
        return True
    return False


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_docstrings_name_what_there_is(path: Path) -> None:
    """Full names, and the files that the tables of the papers' equations name."""
    tree = ast.parse(path.read_text())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    for text in texts:
        named = [name for name in re.findall(r"`(tailcut(?:\.\w+)+)`", text) if not name.endswith(".h")]
        assert [name for name in named if not _resolves(name)] == []
        for row in re.findall(r"^\|.*?\(([\w/]+\.py)\)", text, re.MULTILINE):
            assert list(path.parent.rglob(row)), row
    for names, file in re.findall(r"((?:`[\w.]+`(?:, )?)+) \(([\w/]+\.py)\)", texts[0]):
        (found,) = path.parent.rglob(file)
        for name in re.findall(r"`(?:\w+\.)*(\w+)`", names):
            made = rf"^ *(?:def|class) {name}\b|^{name}(?::.*)? = "
            assert re.search(made, found.read_text(), re.MULTILINE), (name, file)


def test_tests_mirror_the_packages() -> None:
    """A module's tests are found from its name: in a file of its own, or one beside it that imports or runs it."""
    missing = []
    for path in MODULES:
        if path.name.startswith("__"):
            continue
        folder = (REPOSITORY / "tests" / path.relative_to(SOURCE)).parent
        dotted = ".".join(("tailcut", *path.relative_to(SOURCE).with_suffix("").parts))
        parent, _, stem = dotted.rpartition(".")
        named = re.compile(
            rf"{re.escape(dotted)}\b|from {re.escape(parent)} import (\([^)]*|.*)\b{stem}\b|tailcut\(\"{stem}\""
        )
        tests = [text.read_text(encoding="utf-8") for text in folder.glob("test_*.py")]
        if not (folder / f"test_{path.name}").is_file() and not any(named.search(text) for text in tests):
            missing.append(path.relative_to(SOURCE).as_posix())
    assert missing == []


def test_recipes_are_toml() -> None:
    assert RECIPES, "recipes/ holds no recipe"
    for path in RECIPES:
        assert tomllib.loads(path.read_text(encoding="utf-8")), f"{path} is empty"


def test_changelog_has_an_unreleased_section() -> None:
    """In the form of Keep a Changelog: kinds of changes in their order, each with its bullets."""
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    parts = re.split(r"^### (.*)\n", section[1], flags=re.MULTILINE)
    kinds, bullets = parts[1::2], parts[2::2]
    assert kinds
    assert kinds == [kind for kind in CHANGELOG_KINDS if kind in kinds]
    assert [kind for kind, text in zip(kinds, bullets, strict=True) if not text.startswith("\n- ")] == []


def _project() -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def test_version_is_the_same_everywhere() -> None:
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert tailcut.__version__ == _project()["version"]
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [_project()["version"]]


def test_versions_that_are_supported_are_said_and_tested() -> None:
    wanted = _project()["dependencies"]
    assert isinstance(wanted, list)
    (bounds,) = [re.fullmatch(r"torch>=2\.(\d+),<2\.(\d+)", one) for one in wanted if one.startswith("torch")]
    assert bounds is not None
    lowest, newest = int(bounds[1]), int(bounds[2]) - 1
    for page in ("README.md", "docs/quick-start.md"):
        assert f"torch 2.{lowest} to 2.{newest}" in (REPOSITORY / page).read_text(encoding="utf-8"), page
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (pairs,) = re.findall(r"^VERSIONS \?= (.*)$", makefile, re.MULTILINE)
    assert {pair.split(":")[1] for pair in pairs.split()} == {f"2.{lowest}.*", f"2.{newest}.*"}
    classifiers = _project()["classifiers"]
    assert isinstance(classifiers, list)
    named = {found[1] for one in classifiers if (found := re.search(r":: (3\.\d+)$", one))}
    assert {pair.split(":")[0] for pair in pairs.split()} == named
    assert f"'2.{newest}.*'" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_constraints_pin_every_dependency() -> None:
    project = _project()
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    assert isinstance(project["dependencies"], list)
    wanted = [*project["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]
    names = {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in wanted} - {"tailcut"}
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in pins if "==" in line}
    assert names - pinned == set()


def test_workflows_cover_the_versions_of_python_that_are_supported() -> None:
    classifiers = _project()["classifiers"]
    assert isinstance(classifiers, list)
    named = [found[1] for one in classifiers if (found := re.search(r":: (3\.\d+)$", one))]
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (row,) = re.findall(r"python-version: \[(.*)\]", workflow)
    assert re.findall(r'"([\d.]+)"', row) == named


def test_workflows_call_make_targets_that_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    called = [word for line in re.findall(r"run: make (.*)", workflow) for word in line.split() if "=" not in word]
    assert called
    assert [word for word in called if word not in targets] == []
