"""Parent of a finished run: the network that it started from, and a check that its name still means that network."""

from functools import cache

from tailcut.format import fingerprint, load, zoo_names
from tailcut.format.zoo import PREFIX
from tailcut.runs import Result


def start_of(result: Result) -> str | None:
    """Return the trained network that the run started from, as its recipe names it; None for fresh parameters."""
    file: str | None = result.recipe.get("start", {}).get("file")
    return file


def start_is_older(result: Result) -> bool | None:
    """Return whether the name that the run started from now means another network of the zoo.

    None where that is not known: for fresh parameters, other files, and records without a fingerprint.
    """
    start = start_of(result)
    if start is None or not result.start_fingerprint or start not in [PREFIX + name for name in zoo_names()]:
        return None
    return result.start_fingerprint != _present_fingerprint(start)


@cache
def _present_fingerprint(file: str) -> str:
    return fingerprint(load(file))
