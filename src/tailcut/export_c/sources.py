"""The C files that ship with the package."""

from pathlib import Path

READER = ("tailcut_items.c", "tailcut_json.c", "tailcut_codecs.c", "tailcut_quantized.c", "tailcut_reader.c")
READER_HEADERS = ("tailcut.h", "tailcut_internal.h", "tailcut_coder.h")


def runtime_folder() -> Path:
    """The folder of all C files; give it to the compiler as `-I`."""
    return Path(__file__).parent / "runtime"


def reader_sources() -> list[Path]:
    """The C files of the reader."""
    return [runtime_folder() / name for name in READER]
