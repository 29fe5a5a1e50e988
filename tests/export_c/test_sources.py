"""The C files are where the package says, and keep what they promise."""

import re

from tailcut.export_c.sources import reader_sources, runtime_folder


def test_the_files_are_there() -> None:
    there = {path.name for path in runtime_folder().iterdir()}
    assert {path.name for path in reader_sources()} | {"tailcut.h"} <= there


def test_no_memory_is_asked_for_and_only_string_functions_are_called() -> None:
    allowed = {"stddef.h", "stdint.h", "string.h"}
    for path in sorted(runtime_folder().glob("*.[ch]")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert set(re.findall(r"#include <(.+?)>", text)) <= allowed, path.name
        assert not re.search(r"\b(malloc|calloc|realloc|free|printf|alloca)\s*\(", text), path.name
        assert not re.search(r"^static (?!const\b)\w+ \w+(\[.*\])?( = .*)?;", text, flags=re.MULTILINE), path.name
        assert all(len(line) <= 120 for line in text.splitlines()), path.name
