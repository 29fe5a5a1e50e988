"""Translation of advice in error messages from Python arguments to command line options."""

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
    "(download=True allows it)": "(--download allows it, of the commands that run on data)",
    "; try dynamic=False if sizes are the trouble": "",
    "take what is whole: load(path, level=": "take what is whole: tailcut cut, --level (in Python level=",
    "give calibration=, batches of training inputs": (
        "tailcut compress --levels measures them for each, on images of --data"
    ),
    "max_pixels (on the command line --max-pixels)": "--max-pixels",
}


def for_command_line(message: str) -> str:
    """Return a message with Python arguments replaced by command line options.

    >>> for_command_line("bias has numbers that are not finite; load(..., allow_non_finite=True) takes them")
    'bias has numbers that are not finite; --allow-non-finite takes them'
    """
    for python, command_line in ADVICE.items():
        message = message.replace(python, command_line)
    return message
