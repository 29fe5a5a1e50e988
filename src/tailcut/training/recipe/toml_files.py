"""Recipe files (TOML): found by name, read, overridden from the command line, written as resolved."""

import importlib.resources
import json
import os
import re
import shlex
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import ValidationError

from tailcut.errors import RecipeError, did_you_mean, shown
from tailcut.training.recipe.keys import problems_of, remove_key, split_key, unknown_key
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.stages import stages_of

WITHOUT_EFFECT = ("data.workers", "training.checkpoint_every")  # keys that change no number of a training

_TABLE = re.compile(r"\s*\[+([^\[\]]+)\]+\s*(#.*)?$")
_STAGE = re.compile(r"^stage\.[^.]+\.")
_KEY = re.compile(r"\s*([^=#\[\]{}]+?)\s*=")


def read_toml(content: str, source: str) -> dict[str, Any]:
    """Read the values of a TOML document. `source` is its name in errors.

    Raises:
        RecipeError: it is no TOML, or passes Python's limits: for the digits of an integer, and for nesting. The error
            names line and key.
    """
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source}: this is no TOML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{source}: {_place(content)} is nested too deeply") from error
    except ValueError as error:  # of Python's `int`
        raise RecipeError(f"{source}: {_place(content)} has an integer of too many digits") from error


def _place(content: str) -> str:
    """Return the key, and the line, of a syntax error."""
    lines = content.splitlines(keepends=True)
    low, high = 0, len(lines)
    while low + 1 < high:  # a document is read from its beginning: the limit is passed once the line is there
        middle = (low + high) // 2
        low, high = (low, middle) if _passes_a_limit("".join(lines[:middle])) else (middle, high)
    return f"{shown(_key_at(lines[:high]), at_most=80)} (line {high})"


def _passes_a_limit(content: str) -> bool:
    try:
        tomllib.loads(content)
    except tomllib.TOMLDecodeError:
        return False
    except (RecursionError, ValueError):
        return True
    return False


def _key_at(lines: Sequence[str]) -> str:
    """Return the key of the last value that begins in these lines, dotted."""
    key = next((found[1] for line in reversed(lines) if (found := _KEY.match(line))), "the document")
    table = next((found[1].strip() for line in reversed(lines) if (found := _TABLE.match(line))), "")
    return f"{table}.{key}" if table else key


SUFFIX = ".toml"


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: see `find_recipe`.
        overrides: `KEY=VALUE` each, the key dotted (`optimizer.lr`), the value as TOML; a value that is no TOML
            is taken as text, an empty one removes the key or section (`distillation=`) if it is there. It holds for
            all stages, whatever these say of the key. A name with dots stands in quotes unless it ends the key
            (`regularization.overrides."conv.weight".axes=[0]`).

    Raises:
        RecipeError: not found, no TOML, or a key is unknown, missing or has a wrong value.
    """
    path = find_recipe(name_or_path)
    try:
        content = path.read_text(encoding="utf-8-sig")  # Windows editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    return parse_recipe(content, source=str(path), overrides=overrides)


def parse_recipe(content: str, *, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Check the text of a recipe. `source` is its name in errors. Raises as `load_recipe`."""
    values = read_toml(content, source)
    for override in overrides:
        _override(values, override, source)
    if "name" not in values:
        values = {"name": Path(source).stem, **values}
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems = problems_of(error)
        lines = problems[0] if len(problems) == 1 else "".join(f"\n  {problem}" for problem in problems)
        raise RecipeError(f"{source}: {lines}") from error
    try:
        stages_of(recipe)
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from error
    return recipe


def training_command(
    source: str,
    out: str,
    *,
    overrides: Sequence[str] = (),
    imports: Sequence[str] = (),
    devices: int = 1,
    num_nodes: int = 1,
) -> str:
    """Return the command that reproduces this result, without paths of this machine.

    Args:
        source: the recipe's name or file.
        out: the run folder.
        overrides: see `load_recipe`.
        imports: modules that register the recipe's network.
        devices: processes of each machine.
        num_nodes: machines.
    """
    words = ["tailcut", "train", source, "--out", out]
    for option, values in (("--import", imports), ("--set", overrides)):
        words += [word for value in values for word in (option, value)]
    for option, number in (("--devices", devices), ("--num-nodes", num_nodes)):
        words += [option, str(number)] if number != 1 else []
    return shlex.join(words)


def find_recipe(name_or_path: str | PurePath) -> Path:
    """Return the file of a recipe.

    Args:
        name_or_path: a path; or the name of a recipe that comes with Tailcut, with or without its folder
            (`frequency-regularization/lenet5-776`, `lenet5-776`).

    Raises:
        RecipeError: there is no such file and no such name, or the name is not unique.
    """
    return find_shipped(name_or_path, "recipe")


def find_shipped(name_or_path: str | PurePath, kind: Literal["recipe", "experiment"]) -> Path:
    """Return the file of a recipe or an experiment, as `find_recipe` does."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    wanted = (name_or_path if isinstance(name_or_path, str) else name_or_path.as_posix()).replace(os.sep, "/")
    wanted = wanted.removesuffix(SUFFIX)
    known = shipped(kind)
    found = [name for name in known if wanted in (name, name.rpartition("/")[2])]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise RecipeError(f"the {kind} name {wanted!r} is not unique: {', '.join(found)}; give one of these")
    if path.is_dir():
        own = path / f"{kind}{SUFFIX}"  # as a run folder has it
        raise RecipeError(f"{path} is a folder, no {kind}{f'; the one in it is {own}' if own.is_file() else ''}")
    hint = did_you_mean(wanted, [*known, *(name.rpartition("/")[2] for name in known)])
    hint = hint or f"{kind}s that come with Tailcut: {', '.join(known) or 'none'}"
    raise RecipeError(f"there is no file {path} and no {kind} of that name; {hint}")


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes: name with folder -> file, sorted by name."""
    return shipped("recipe")


def shipped(kind: Literal["recipe", "experiment"]) -> dict[str, Path]:
    """Return the shipped files of a kind: name with folder, if it lies in one -> file, sorted by name."""
    package = Path(str(importlib.resources.files("tailcut")))
    for folder in (package / f"{kind}s", package.parents[1] / f"{kind}s"):  # installed; source checkout
        if folder.is_dir():
            files = sorted(folder.rglob(f"*{SUFFIX}"))
            return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    return {}


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML with all defaults written out; `parse_recipe` gives an equal one back."""
    return "\n".join(_toml_lines(recipe.model_dump(mode="json", exclude_none=True), "")) + "\n"


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Return the differences between two recipes, one line per key: `optimizer.lr: 0.01 and 0.02`."""
    left, right = _leaves(one.model_dump(mode="json")), _leaves(other.model_dump(mode="json"))
    keys = [*left, *(key for key in right if key not in left)]
    return [
        f"{key}: {left.get(key, 'nothing')} and {right.get(key, 'nothing')}"
        for key in keys
        if left.get(key) != right.get(key)
    ]


def changed_since(recorded: Mapping[str, Any], recipe: Recipe, aside: Collection[str] = ()) -> list[str]:
    """Return the differences between a result's recipe and `recipe`; see `differences`.

    Keys `aside` may differ, and those that change no number of a training.
    """
    try:
        changed = differences(Recipe.model_validate(recorded), recipe)
    except ValidationError:
        return ["a recipe that this version of Tailcut does not know"]
    return [line for line in _with_effect(changed) if line.partition(":")[0] not in aside]


def _with_effect(changed: Sequence[str]) -> list[str]:
    """Leave out the differences in keys that change no number, of the recipe and of its stages."""
    return [line for line in changed if _STAGE.sub("", line).partition(":")[0] not in WITHOUT_EFFECT]


def holds(path: Path, recipe: Recipe) -> bool:
    """Return whether the file `path` exists and holds exactly this recipe."""
    try:
        return path.is_file() and load_recipe(path) == recipe
    except RecipeError:
        return False


def check_replaceable(recipe: Recipe, path: Path) -> None:
    """Raise `RecipeError` if another recipe in `path` is somebody's own file, which nobody could write again."""
    if not path.is_file() or holds(path, recipe):
        return
    try:
        written_by_us = path.read_text(encoding="utf-8") == to_toml(load_recipe(path))
    except (RecipeError, UnicodeDecodeError):
        written_by_us = False
    if not written_by_us:
        raise RecipeError(
            f"{path} is a recipe of your own, and the training would write another one over it; put the changes into "
            "the file, or choose another folder for the run"
        )


def check_same(recipe: Recipe, path: Path) -> None:
    """Raise `RecipeError` unless `path` holds this recipe: a run resumes with the recipe of its start.

    Keys that change no number of a training may differ.
    """
    if path.is_file():
        changed = _with_effect(differences(load_recipe(path), recipe))
        if changed:
            raise RecipeError(
                f"the run was begun with another recipe ({path}); it can only go on with the same: give that file, or "
                f"the same --set again. Different, there and here: {'; '.join(changed)}"
            )


def _override(values: dict[str, Any], override: str, source: str) -> None:
    key, equals, text = override.partition("=")
    parts = split_key(key)
    if not equals or not parts:
        raise RecipeError(
            f"--set {override}: expected KEY=VALUE, for example optimizer.lr=0.01; a name with other characters than "
            "letters, digits, - and _ stands in quotes"
        )
    stages = values.get("stage")
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict) and parts[0] not in ("name", "without"):
            remove_key(stage, parts)
    if not text.strip():
        problem = unknown_key(parts)
        if problem is not None:
            raise RecipeError(f"{source}: {problem}")
        remove_key(values, parts)
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    table = values
    for part in parts[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = table[part] = {}  # a table by tensor name replaces one number for all
        table = inner
    table[parts[-1]] = value


def _toml_lines(values: Mapping[str, Any], prefix: str) -> list[str]:
    tables = {key: item for key, item in values.items() if isinstance(item, dict)}
    arrays = {key: item for key, item in values.items() if _is_array_of_tables(item)}
    others = {key: item for key, item in values.items() if key not in tables and key not in arrays}
    lines = [f"{_toml_key(key)} = {toml_value(item)}" for key, item in others.items()]
    for key, item in tables.items():
        name = f"{prefix}{_toml_key(key)}"
        lines += ["", f"[{name}]", *_toml_lines(item, f"{name}.")]
    for key, items in arrays.items():
        name = f"{prefix}{_toml_key(key)}"
        for item in items:
            lines += ["", f"[[{name}]]", *_toml_lines(item, f"{name}.")]
    return lines


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else toml_value(key)


def toml_value(value: Any) -> str:
    """Return a value as TOML on one line; raise `TypeError` for what is no value of a recipe."""
    if isinstance(value, list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):  # inside a list
        return f"{{{', '.join(f'{_toml_key(key)} = {toml_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, float):
        return repr(value)  # 1.0, 1e-05: both are TOML
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON text and numbers are TOML


def _leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    if _is_array_of_tables(values):
        values = {item.get("name", str(number)): item for number, item in enumerate(values)}
    if not isinstance(values, dict):
        return {prefix: values}
    leaves: dict[str, Any] = {}
    for key, item in values.items():
        leaves |= _leaves(item, f"{prefix}.{key}" if prefix else key)
    return leaves
