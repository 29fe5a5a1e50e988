"""The zoo: packed networks that ship in the package, named "zoo:NAME" wherever a file is read."""

from importlib import resources
from os import PathLike
from pathlib import Path

from tailcut.errors import ArgumentError
from tailcut.runs import Run

PREFIX = "zoo:"
SUFFIX = ".tailcut"


def zoo_folder() -> Path:
    """Return the folder of the package that holds the zoo."""
    return Path(str(resources.files("tailcut.format"))) / "zoo"


def zoo_names() -> list[str]:
    """Names of the networks that ship in the package, sorted."""
    return sorted(file.name.removesuffix(SUFFIX) for file in zoo_folder().glob(f"*{SUFFIX}"))


def resolve(path: str | Path) -> Path:
    """Return the file that `path` names: itself, or the zoo's for "zoo:NAME".

    Raises:
        ArgumentError: the zoo has no network of that name, or the path is a pipe or a device, or no path.
        FileNotFoundError: there is no such file.
    """
    if not isinstance(path, (str, PathLike)):
        raise ArgumentError(f"expected the name of a file to read, got {type(path).__name__}")
    text = str(path)
    if text.startswith(PREFIX):
        name = text.removeprefix(PREFIX)
        if name not in zoo_names():
            raise ArgumentError(f"the zoo has no {name!r}; it has {', '.join(zoo_names()) or 'nothing yet'}")
        return zoo_folder() / f"{name}{SUFFIX}"
    found = Path(path)
    if found.is_dir():
        network = Run(found).model
        hint = f"; the network of this run is {network}" if network.is_file() else ""
        raise FileNotFoundError(f"{path} is a folder, not a file{hint}")
    if not found.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not found.is_file():
        raise ArgumentError(
            f"{path} is no file but a pipe or a device, which is read only once; copy it to a file first"
        )
    return found
