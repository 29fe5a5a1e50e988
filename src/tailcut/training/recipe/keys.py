"""Recipe keys in the form of `--set`, their check, and error messages that name them."""

import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tailcut.errors import did_you_mean
from tailcut.training.recipe.schema import Recipe

# What pydantic says of a value that is of another type than this branch of a union: another branch may want it.
_OTHER_TYPE = re.compile(r"_(type|parsing|from_float)$|^literal_error$")
# pydantic's names for the branches of unions in an error's location.
_BRANCHES = ("int", "str", "float", "constrained-int")


def split_key(text: str) -> list[str]:
    """Return the parts of a dotted key; a part with dots is quoted. Empty if this is not a key."""
    try:
        values: Any = tomllib.loads(f"{text} = 0")
    except (ValueError, RecursionError):
        return []
    parts = []
    while isinstance(values, dict) and len(values) == 1:
        (part, values), *_ = values.items()
        parts.append(part)
    return parts if values == 0 and all(parts) else []


def remove_key(values: dict[str, Any], parts: Sequence[str]) -> bool:
    """Remove a key of nested tables (changes them), if it is there. Returns whether it was."""
    table: Any = values
    for index, part in enumerate(parts):
        if not isinstance(table, dict):
            return False
        rest = ".".join(parts[index:])
        if rest in table:  # the last part, or the name of a tensor with its dots
            del table[rest]
            return True
        table = table.get(part)
    return False


def unknown_key(parts: Sequence[str]) -> str | None:
    """Return the error for a key that no recipe has, or None for a valid key."""
    kind: Any = Recipe
    for index, part in enumerate(parts):
        section, entry = _section_of(kind), _entry_of(kind)
        if section is None and entry is None:
            before = ".".join(parts[:index])
            return f"{before}.{part}: is no key of a recipe; {before} has no keys"
        if section is None:
            of_entry = _section_of(entry)
            if of_entry is None or _is_one_name(parts[index:], of_entry):
                return None
            kind = entry
        elif part not in section.model_fields:
            given: Any = 0
            for inner in reversed(parts[index + 1 :]):
                given = {inner: given}
            return _unknown(parts[: index + 1], given)
        else:
            kind = section.model_fields[part].annotation
    return None


def _is_one_name(parts: Sequence[str], section: type[BaseModel]) -> bool:
    """Return whether these parts are just the dotted name of a tensor's section, without a key of it."""
    return len(parts) == 1 or ("." not in parts[0] and parts[-1] not in section.model_fields)


def problems_of(error: ValidationError) -> list[str]:
    """Return the errors in the values of a recipe, one line per key."""
    found: dict[str, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        found.setdefault(_key(item["loc"]), []).append(item)
    return [
        problem_of(key, items, _unknown) for key, items in found.items() if not _is_reported_within(key, items, found)
    ]


def _is_reported_within(key: str, items: Sequence[ErrorDetails], found: Iterable[str]) -> bool:
    """Return whether the value has a form that the key may have, so that the error is inside it."""
    of_other_forms = all(item["loc"] and _is_branch(item["loc"][-1]) for item in items)
    return of_other_forms and any(other.startswith(f"{key}.") for other in found)


def problem_of(key: str, items: Sequence[ErrorDetails], unknown: Callable[[Sequence[str], Any], str]) -> str:
    """Return the error for one value, from pydantic's error items.

    Args:
        key: the key as the user knows it.
        items: what pydantic says of it: more than one where a value may have several forms.
        unknown: what to say of a key, given in parts and with its value, that there is not.
    """
    first = items[0]
    if first["type"] == "missing":
        return f"{key}: is missing"
    if first["type"] == "extra_forbidden":
        return unknown([str(part) for part in first["loc"]], first["input"])
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    of_its_type = [item for item in items if not _OTHER_TYPE.search(item["type"])]
    wanted = " or ".join(dict.fromkeys(_wanted(item) for item in of_its_type or items))
    return f"{key}: must be {wanted}, got {first['input']!r}"


def _wanted(item: ErrorDetails) -> str:
    """Return the expected value of a pydantic error in TOML's terms."""
    if item["type"] == "invalid-json-value":  # a date: records in JSON could not hold it
        return "a number, a text, true, false, a list or a table"
    message = item["msg"].removeprefix("Input should be ")
    if not item["type"].endswith("_error"):  # "a valid number, unable to parse string as a number"
        message = message.partition(",")[0]
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a table", message)
    return message.replace("a valid integer", "an integer").replace("a valid tuple", "a list").replace("a valid ", "a ")


def _unknown(parts: Sequence[str], given: Any) -> str:
    """Return the error for the last of these parts, an unknown key; `given` is its value."""
    kind: Any = Recipe
    named = None  # the position of a name in a table of sections
    for index, part in enumerate(parts[:-1]):
        section, entry = _section_of(kind), _entry_of(kind)
        if section is not None and part in section.model_fields:
            kind = section.model_fields[part].annotation
        elif entry is not None:
            kind, named = entry, index
    section = _section_of(kind)
    known = [] if section is None else list(section.model_fields)
    if named is not None and isinstance(given, dict):
        name = ".".join([*parts[named:], *_names_in(given, known)])
        hint = f'a name with dots stands in quotes: {".".join(parts[:named])}."{name}"'
    else:
        hint = did_you_mean(parts[-1], known) or f"known here: {', '.join(known)}"
    return f"{'.'.join(parts)}: is no key of a recipe; {hint}"


def _names_in(given: Any, known: Sequence[str]) -> Iterator[str]:
    while isinstance(given, dict) and len(given) == 1 and not given.keys() & set(known):
        (part, given), *_ = given.items()
        yield part


def _key(location: Sequence[int | str]) -> str:
    """Return the key of an error's location, without pydantic's union branches, which are no keys."""
    branches = [index for index, part in enumerate(location) if _is_branch(part)]
    return ".".join(str(part) for index, part in enumerate(location) if index not in branches[:1])


def _is_branch(part: int | str) -> bool:
    return isinstance(part, str) and (part in _BRANCHES or "[" in part)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section among the types that a key may have."""
    options = _options(annotation)
    return next((item for item in options if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _entry_of(annotation: Any) -> Any:
    """Return the type of the values where a key may have a table by name; None elsewhere."""
    return next((typing.get_args(item)[1] for item in _options(annotation) if typing.get_origin(item) is dict), None)


def _options(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _options(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _options(option)
    else:
        yield annotation
