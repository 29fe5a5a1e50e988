"""The lists of public names on the page of the reference."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FunctionType, ModuleType

import tailcut
from tools.docs.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "weights",
    "inputs",
    "channels",
    "execution",
    "export_c",
    "export_html",
    "format",
    "models",
    "structure",
    "transform",
    "data",
    "evaluation",
    "compression",
    "reports",
    "runs",
    "errors",
)
MODULES = ("integrations.lightning", "integrations.transformers", "format.packets")
"""Imported by themselves, of users who have what they need: they are read here, not imported."""


def public_names() -> str:
    """Return every name of `tailcut.__all__`."""
    return markdown_table(["name", "what it is"], list(_entries(tailcut, "tailcut", tailcut.__all__)), "<<")


def package_names() -> str:
    """Return the public names of each package below."""
    parts = []
    for name in PACKAGES:
        module = importlib.import_module(f"tailcut.{name}")
        table = markdown_table(["name", "what it is"], list(_entries(module, module.__name__, exported(module))), "<<")
        parts.append(f"### tailcut.{name}\n\n{first_line(module)}\n\n{table}")
    return "\n\n".join([*parts, *map(_module, MODULES)])


def _module(name: str) -> str:
    """Return the public classes and functions that a module defines, by its source."""
    path = Path("src/tailcut", *name.split(".")).with_suffix(".py")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name[0] != "_"]
    rows = [
        [f"[`tailcut.{name}.{node.name}`](../../{path.as_posix()})", _first_line(ast.get_docstring(node))]
        for node in found
    ]
    table = markdown_table(["name", "what it is"], sorted(rows), "<<")
    return f"### tailcut.{name}\n\n{_first_line(ast.get_docstring(tree))}\n\n{table}"


def exported(module: ModuleType) -> list[str]:
    """Return the functions and classes that a module defines, or hands on as `from .x import X as X`."""
    source = inspect.getsource(module)
    names = re.findall(r"^from tailcut\.\S+ import (\w+) as \1$", source, re.MULTILINE)
    names += re.findall(r"^(?:class|def) ([A-Za-z]\w*)", source, re.MULTILINE)
    return sorted(name for name in names if isinstance(getattr(module, name), (type, FunctionType)))


def _entries(module: ModuleType, prefix: str, names: Sequence[str]) -> Iterator[list[str]]:
    for name in names:
        thing = getattr(module, name)
        source = Path(str(inspect.getsourcefile(inspect.unwrap(thing)))).resolve().relative_to(ROOT)
        yield [f"[`{prefix}.{name}`](../../{source.as_posix()})", first_line(thing)]


def first_line(thing: object) -> str:
    """Return the first sentence of a docstring, on one line."""
    return _first_line(inspect.getdoc(thing))


def _first_line(docstring: str | None) -> str:
    paragraph = (docstring or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")
