"""`tailcut split`, `join` and `qr`: files over thin links and on paper."""

import importlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tailcut.errors import ArgumentError, MissingExtraError
from tailcut.files import all_or_nothing, check_output_path, make_folder, write_atomically
from tailcut.format.container.contents import decode
from tailcut.format.file_bytes import naming, read_file
from tailcut.format.packets import FRAME_BYTES, join, split
from tailcut.printing import Report

SUFFIX = ".packet"
MAX_CODES = 4
# Bytes of the largest code, version 40, at the lowest and the second lowest level of error correction.
CORRECTIONS = {"low": ("L", 2953), "medium": ("M", 2331)}
PIXELS_PER_MODULE = 6
MODULES_OF_BORDER = 4


@dataclass(frozen=True)
class SplitReport(Report):
    """Packets that `split` wrote.

    Attributes:
        out: where the packets are.
        files: their names, in order.
        file_bytes: of the file.
        packet_bytes: of the largest packet.
        total_bytes: of all packets.
    """

    out: str
    files: tuple[str, ...]
    file_bytes: int
    packet_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.out}: {len(self.files)} packets of at most {self.packet_bytes} bytes, {self.total_bytes:,} "
            f"bytes for a file of {self.file_bytes:,}"
        )


@dataclass(frozen=True)
class JoinReport(Report):
    """File that `join` wrote.

    Attributes:
        out: the file.
        file_bytes: its size.
        num_packets: how many it was made of; one that came twice counts once.
    """

    out: str
    file_bytes: int
    num_packets: int

    def __str__(self) -> str:
        return f"{self.out}: {self.file_bytes:,} bytes from {self.num_packets} packets"


@dataclass(frozen=True)
class QRReport(Report):
    """Image that `qr` drew.

    Attributes:
        out: the image.
        num_codes: 1 to 4.
        version: of the largest code, 1 to 40.
        file_bytes: of the file in them.
        size: width and height of the image in pixels.
    """

    out: str
    num_codes: int
    version: int
    file_bytes: int
    size: tuple[int, int]

    def __str__(self) -> str:
        codes = "1 QR code" if self.num_codes == 1 else f"{self.num_codes} QR codes"
        width, height = self.size
        return f"{self.out}: {codes} of version {self.version} for {self.file_bytes:,} bytes, {width} x {height} pixels"


def split_file(path: str | Path, folder: str | Path, *, packet_bytes: int) -> SplitReport:
    """Split a `.tailcut` file into packets, one file each: `NAME-000.packet`, ...

    Packets that an earlier split of that name left in the folder are replaced, or deleted where there are fewer now.

    Args:
        path: the file, or "zoo:NAME".
        folder: where the packets go; made if it is not there.
        packet_bytes: the most that a packet may have.

    Raises:
        ArgumentError: the packets are too small.
        FormatError: it is no sound `.tailcut` file.
    """
    content = _read(path)
    packets = split(content, packet_bytes)
    digits = max(3, len(str(len(packets) - 1)))
    stem = Path(str(path).removeprefix("zoo:")).stem
    names = tuple(f"{stem}-{number:0{digits}d}{SUFFIX}" for number in range(len(packets)))
    with all_or_nothing():
        folder = make_folder(folder)
        for name, packet in zip(names, packets, strict=True):
            write_atomically(folder / name, packet)
    for left in folder.iterdir():  # beside the new ones they would be packets of another file to `join`
        if left.name not in names and re.fullmatch(rf"{re.escape(stem)}-\d{{3,}}{re.escape(SUFFIX)}", left.name):
            left.unlink()
    return SplitReport(str(folder), names, len(content), max(map(len, packets)), sum(map(len, packets)))


def join_files(paths: list[str | Path], out: str | Path) -> JoinReport:
    """Join packets, or folders of packets, to the file that was split.

    Args:
        paths: packets in any order; of a folder all `*.packet`.
        out: the file to write.

    Raises:
        FormatError: packets are missing (the message says which), one is damaged or of another file, or the file is no
            sound `.tailcut` file.
        ArgumentError: there is none, or the file to write is one of them.
    """
    check_output_path(out)
    files = [file for path in map(Path, paths) for file in _packets_in(path)]
    if Path(out).is_file() and any(file.exists() and file.samefile(out) for file in files):
        raise ArgumentError(f"{out} is one of the packets, and would be written over: give the output another name")
    packets = [(str(file), file.read_bytes()) for file in files]
    content = join(packets)
    with naming(out):
        decode(content)
    write_atomically(out, content)
    return JoinReport(str(out), len(content), len({packet for _, packet in packets}))


def write_qr_codes(path: str | Path, out: str | Path, *, error_correction: str = "medium") -> QRReport:
    """Draw a `.tailcut` file as one to four QR codes in one image: binary codes, of several each one packet.

    Args:
        path: the file, or "zoo:NAME".
        out: the image, a `.png`.
        error_correction: "low" or "medium": how much of a code may be spoilt, 7 % or 15 %.

    Raises:
        ArgumentError: the file does not fit into four codes, or the name or the error correction is another
            one.
        MissingExtraError: segno is not installed.
        FormatError: it is no sound `.tailcut` file.
    """
    if error_correction not in CORRECTIONS:
        raise ArgumentError(f"error_correction must be one of {', '.join(CORRECTIONS)}, got {error_correction!r}")
    check_output_path(out, ".png")
    segno = _segno()
    content = _read(path)
    letter, room = CORRECTIONS[error_correction]
    parts = [content] if len(content) <= room else split(content, room)
    if len(parts) > MAX_CODES:
        raise ArgumentError(
            f"{path} has {len(content):,} bytes, {MAX_CODES} QR codes hold about "
            f"{MAX_CODES * (room - FRAME_BYTES):,} with the error correction {error_correction}; make "
            "the file smaller with tailcut compress, or use tailcut split"
        )
    if len(parts) > 1:  # of the same size, so that none has smaller squares than it needs
        parts = split(content, -(-len(content) // len(parts)) + FRAME_BYTES)
    codes = [segno.make(part, error=letter, mode="byte", micro=False, boost_error=False) for part in parts]
    image = _drawn([code.matrix for code in codes])
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    write_atomically(out, data.getvalue())
    return QRReport(str(out), len(codes), max(int(code.version) for code in codes), len(content), image.size)


def _packets_in(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not found:
        raise ArgumentError(f"no packets to join: the folder {path} has no *{SUFFIX}")
    return found


def _read(path: str | Path) -> bytes:
    content = read_file(path)
    with naming(path):
        decode(content)
    return content


def _drawn(matrices: list[Any]) -> Image.Image:
    """Draw the codes side by side, or two by two, each with the quiet border that readers need."""
    side = max(len(matrix) for matrix in matrices) + 2 * MODULES_OF_BORDER
    columns = min(2, len(matrices))
    rows = -(-len(matrices) // columns)
    image = Image.new("1", (columns * side, rows * side), 1)
    for place, matrix in enumerate(matrices):
        left, top = place % columns * side + MODULES_OF_BORDER, place // columns * side + MODULES_OF_BORDER
        for y, row in enumerate(matrix):
            for x, module in enumerate(row):
                if module:
                    image.putpixel((left + x, top + y), 0)
    return image.resize((image.width * PIXELS_PER_MODULE, image.height * PIXELS_PER_MODULE), Image.Resampling.NEAREST)


def _segno() -> Any:
    try:
        return importlib.import_module("segno")
    except ImportError as error:
        raise MissingExtraError("tailcut qr", "segno", "qr") from error
