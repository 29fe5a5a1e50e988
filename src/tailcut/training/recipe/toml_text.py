"""TOML parsing with errors that name the key and the line."""

import re
import tomllib
from collections.abc import Sequence
from typing import Any

from tailcut.errors import RecipeError, shown

_TABLE = re.compile(r"\s*\[+([^\[\]]+)\]+\s*(#.*)?$")
_KEY = re.compile(r"\s*([^=#\[\]{}]+?)\s*=")


def read_toml(content: str, source: str) -> dict[str, Any]:
    """Read the values of a TOML document.

    Args:
        content: of the file.
        source: its name in errors.

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
