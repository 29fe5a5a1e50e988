"""The C files that ship with the package."""

from collections.abc import Collection
from pathlib import Path

READER = (
    "tailcut_items.c",
    "tailcut_order.c",
    "tailcut_json.c",
    "tailcut_coder.c",
    "tailcut_codecs.c",
    "tailcut_quantized.c",
    "tailcut_reader.c",
)
BOTH_RUNNERS = ("tailcut_order.c", "tailcut_coder.c")
BOTH_RUNNERS_HEADERS = ("tailcut.h", "tailcut_run.h", "tailcut_walk.h", "tailcut_coder.h")
RUNNER = ("tailcut_run.c", *BOTH_RUNNERS)
RUNNER_HEADERS = (
    *BOTH_RUNNERS_HEADERS,
    "tailcut_run_machine.h",
    "tailcut_run_rows.h",
    "tailcut_run_weights.h",
    "tailcut_run_expressions.h",
    "tailcut_run_convolutions.h",
    "tailcut_run_linear.h",
    "tailcut_run_norms.h",
    "tailcut_run_recurrent.h",
    "tailcut_run_attention.h",
)
INTEGER_RUNNER = ("tailcut_run_integer.c", *BOTH_RUNNERS)
INTEGER_RUNNER_HEADERS = (
    *BOTH_RUNNERS_HEADERS,
    "tailcut_run_integer.h",
    "tailcut_integer_numbers.h",
    "tailcut_integer_functions.h",
    "tailcut_integer_expressions.h",
    "tailcut_integer_layers.h",
)


def runtime_folder() -> Path:
    """Return the folder of all C files; give it to the compiler as `-I`."""
    return Path(__file__).parent / "runtime"


def reader_sources() -> list[Path]:
    """Return the C files of the reader."""
    return [runtime_folder() / name for name in READER]


def runner_files() -> tuple[str, ...]:
    """Return the names of the files that run a network, `model.c` aside."""
    return (*RUNNER_HEADERS, *RUNNER)


def other_runner_files(files: Collection[str]) -> set[str]:
    """Return the names of the files of a runner that are not among these."""
    return {*runner_files(), *integer_runner_files()}.difference(files)


def integer_runner_files() -> tuple[str, ...]:
    """Return the names of the files that run a network in integers, `model.c` aside."""
    return (*INTEGER_RUNNER_HEADERS, *INTEGER_RUNNER)
