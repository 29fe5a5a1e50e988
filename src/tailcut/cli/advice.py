"""Translation of advice in error messages from Python arguments to command line options."""

import argparse
import re
from collections.abc import Mapping
from types import MappingProxyType

# Advice in Python -> on the command line. Each text occurs once in the package's code.
ADVICE = {
    "for one of your own import the module that registers it (tailcut.register_model) first": (
        "for one of your own give --import FILE.py, with the file that registers it"
    ),
    "import the module that registers it (--import on the command line), or load into= a network": (
        "give --import FILE.py, with the file that registers it"
    ),
    "the file holds a network of a user's own class: load(path, into=YourClass())": (
        "the file holds a network of a user's own class, which no command can build: load it in Python, with "
        "tailcut.load(path, into=YourClass()); or register the class (tailcut.register_model), save it again, and give "
        "--import FILE.py, with the file that registers it"
    ),
    "; load into= a network of ": "; in Python tailcut.load(path, into=...) takes a network of ",
    "load(..., allow_non_finite=True) takes them": "--allow-non-finite takes them",
    "allow_non_finite=True writes them all the same": "--allow-non-finite writes them all the same",
    "save it as a class of your own with registered=False, and load it with into=": (
        "register it as it is now as a new model (tailcut.register_model), in a file for --import"
    ),
    "; or the wrapper as a class of your own, with registered=False": "",
    ", or with registered=False, to be loaded into such a class": "",
    "train one with replace_stem(..., gate=True)": "train one with gate = true under [inputs] of its recipe",
    "(download=True allows it)": "(--download allows it)",
    'try dynamic="batch" or dynamic=False': "try --dynamic batch or --dynamic none",
    "take what is whole: load(path, level=": (
        "take what is whole by tailcut cut --level, or in Python by load(path, level="
    ),
    "give loader=, batches of training inputs": (
        "tailcut compress --levels measures them for each, on images of --data"
    ),
    "max_input_pixels (on the command line --max-input-pixels)": "--max-input-pixels",
    "max_pixels must be positive": "--max-image-pixels must be positive",
    "(batch_size, on the command line --batch-size)": "(--batch-size)",
    "give statistics= (--statistics), ": "give --statistics, ",
    "; its linear layers can be named: score(layers=": (
        "; in Python its linear layers can be named: channels.score(layers="
    ),
    "; and evaluate= must be the higher the better (of a loss its negative)": "",
    "devices and num_nodes must be": "--devices and --num-nodes must be",
    "(devices, num_nodes, strategy, accelerator)": "(--devices, --num-nodes, --strategy, --accelerator)",
    "num_samples, seed and features are for": "--num-samples, --seed and --features are for",
    "dense has no meaning for": "--dense has no meaning for",
    "num_samples must be at least 1 and seed at least 0": "--num-samples must be at least 1 and --seed at least 0",
    "(or prune tailcut.to_dense(model))": (
        "(or write its dense weights with tailcut unpack, and prune that file, with --model)"
    ),
}
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
# What is left as it is: calls in Python, and quoted words, which may be the user's own. Else a name, with a value if it
# has one (ours never is in single quotes), that is no part of a path, of a file's name, of a dotted key or of a longer
# word.
NAMES = re.compile(
    r"""(?P<left>\w\([^()]*\)?|(?<!\w)'[^'\n]*'|(?<!\w)"[^"\n]*")"""
    r"""|(?<![\w./=-])(?P<name>[a-z]\w*)(?P<value>=(?:"[^"\n]*"|(?!')\w*(?:\.\w+)*))?(?!\w|\.\w|[/(-])"""
)


def option_names(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the options of a command by the names that they have in Python: `keep_ratio` -> `--keep-ratio`."""
    names = {}
    for action in parser._actions:
        option = next((word for word in action.option_strings if word.startswith("--")), None)
        if option is not None:
            names[option.removeprefix("--").replace("-", "_")] = option
            if not option.startswith("--no-"):  # whose argument means the contrary
                names.setdefault(action.dest, option)
    return names


def for_command_line(message: str, options: Mapping[str, str] = NO_OPTIONS) -> str:
    """Return a message with Python arguments replaced by command line options.

    Args:
        message: any text of an error or of the log.
        options: those of the command that runs, see `option_names`. Names with an underscore and names with a value
            become options; single words, such as "step", mean other things too.

    >>> for_command_line("bias has numbers that are not finite; load(..., allow_non_finite=True) takes them")
    'bias has numbers that are not finite; --allow-non-finite takes them'
    >>> for_command_line("keep_ratio must be at most 1, got 2", {"keep_ratio": "--keep-ratio"})
    '--keep-ratio must be at most 1, got 2'
    """
    for python, command_line in ADVICE.items():
        message = message.replace(python, command_line)
    return NAMES.sub(lambda match: _option(match, options), message)


def _option(match: re.Match[str], options: Mapping[str, str]) -> str:
    name, value = match["name"], match["value"]
    if name not in options or ("_" not in name and value is None):
        return match[0]
    words = (value or "").removeprefix("=").strip('"')
    return options[name] if words in ("", "True") else f"{options[name]} {words}"
