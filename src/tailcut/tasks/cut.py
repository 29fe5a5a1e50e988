"""`tailcut cut`: the beginning of a progressive file, a smaller network."""

from dataclasses import dataclass
from pathlib import Path

from tailcut.errors import ArgumentError
from tailcut.files import write_atomically
from tailcut.format.container.contents import decode
from tailcut.format.file_bytes import checked_level, naming, read_file
from tailcut.printing import Report


@dataclass(frozen=True)
class CutReport(Report):
    """File that `cut` wrote.

    Attributes:
        out: the file.
        level: the highest that it has.
        num_levels: of the whole file.
        file_bytes: of the beginning.
        whole_bytes: of the file that was cut.
    """

    out: str
    level: int
    num_levels: int
    file_bytes: int
    whole_bytes: int

    def __str__(self) -> str:
        size = f"{self.file_bytes:,} of {self.whole_bytes:,} bytes"
        return f"{self.out}: {size}, level {self.level} of {self.num_levels}"


def cut_file(source: str | Path, out: str | Path, *, level: int) -> CutReport:
    """Write the beginning of a progressive file up to the end of a level, byte for byte.

    Args:
        source: a .tailcut file with levels (`tailcut.save(..., levels=)`).
        out: the file to write.
        level: from 1, the smallest.

    Raises:
        ArgumentError: the file has no such level, or no levels.
        FormatError: it is damaged before the end of that level.
    """
    content = read_file(source)
    with naming(source):
        contents = decode(content, checked_level(level))
    if not contents.parts:
        raise ArgumentError(f"{source} has no levels, of which one could be cut: save it with levels=")
    end = contents.level_ends[-1]
    write_atomically(out, content[:end])
    return CutReport(str(out), level, len(contents.parts) + 1, end, len(content))
