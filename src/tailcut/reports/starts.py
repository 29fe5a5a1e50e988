"""What a finished run went on from, and whether that network is still the one of its name."""

from functools import cache

from tailcut.format import fingerprint, load, zoo_names
from tailcut.format.zoo import PREFIX
from tailcut.runs import Result


def start_of(result: Result) -> str | None:
    """The trained network that the run went on from, as its recipe names it; None for fresh parameters."""
    file: str | None = result.recipe.get("start", {}).get("file")
    return file


def start_is_older(result: Result) -> bool | None:
    """Whether the zoo holds another network by now under the name that the run went on from.

    None where that is not known: for fresh parameters, other files, and records without a fingerprint.
    """
    start = start_of(result)
    if start is None or not result.start_fingerprint or start not in [PREFIX + name for name in zoo_names()]:
        return None
    return result.start_fingerprint != _present_fingerprint(start)


@cache
def _present_fingerprint(file: str) -> str:
    return fingerprint(load(file))
