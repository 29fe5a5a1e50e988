"""Networks from and to file objects: in memory, in pieces, of the wrong kind, too large."""

import io
import zipfile
from pathlib import Path

import pytest
import torch

import tailcut
from tailcut.errors import ArgumentError, ChecksumError, LimitError, NotTailcutFileError


class Socket:
    """A stream that gives a few bytes at a time, and has no name, position or end known beforehand."""

    def __init__(self, content: bytes) -> None:
        self.content, self.num_read = content, 0

    def read(self, size: int = -1) -> bytes:
        part = self.content[self.num_read :][: min(size, 7)]
        self.num_read += len(part)
        return part


@pytest.fixture(scope="module")
def content() -> bytes:
    buffer = io.BytesIO()
    report = tailcut.save(tailcut.load("zoo:lenet5-776"), buffer)
    assert report.file_bytes == len(buffer.getvalue())
    assert report.out == "the BytesIO object"
    return buffer.getvalue()


def test_a_file_object_gives_the_network_of_its_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "l5.tailcut").write_bytes(content)
    wanted = tailcut.load(tmp_path / "l5.tailcut").state_dict()
    with zipfile.ZipFile(tmp_path / "l5.zip", "w") as archive:
        archive.writestr("l5.tailcut", content)
    with zipfile.ZipFile(tmp_path / "l5.zip") as archive, archive.open("l5.tailcut") as member:
        from_archive = tailcut.load(member)
    for found in (from_archive, tailcut.load(io.BytesIO(content)), tailcut.load(Socket(content))):  # type: ignore[call-overload]
        torch.testing.assert_close(found.state_dict(), wanted, rtol=0, atol=0)
    assert str(tailcut.inspect(io.BytesIO(content))) == str(tailcut.inspect(tmp_path / "l5.tailcut"))


def test_it_is_read_from_where_it_stands(content: bytes) -> None:
    buffer = io.BytesIO(b"header" + content)
    buffer.seek(6)
    tailcut.load(buffer)
    with pytest.raises(NotTailcutFileError, match="it is empty"):  # at its end
        tailcut.load(buffer)


def test_what_is_no_file_of_ours_is_not_read_to_its_end(content: bytes) -> None:
    wrong = Socket(b"PK" + bytes(10_000_000))
    with pytest.raises(NotTailcutFileError, match=r"^the Socket object: not a \.tailcut file"):
        tailcut.load(wrong)  # type: ignore[call-overload]
    assert wrong.num_read < 100
    large = io.BytesIO(content + bytes(1 << 24))
    with pytest.raises(LimitError, match=r"has at least \d+ bytes, at most \d+ are allowed.*max_parameters"):
        tailcut.load(large, max_parameters=1000)
    assert large.tell() < 1 << 22
    with pytest.raises(ChecksumError, match=r"^the BytesIO object: "):
        tailcut.load(io.BytesIO(content[:500]))


def test_text_and_bytes_are_no_file_objects(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r'expected a binary file object.*open it with "rb"'):
        tailcut.load(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"io.BytesIO\(content\), got bytes"):
        tailcut.load(content)  # type: ignore[call-overload]
    with (tmp_path / "text").open("w") as file, pytest.raises(ArgumentError, match=r'open it with "wb"'):
        tailcut.save(tailcut.load("zoo:lenet5-776"), file)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="expected the name of the file to write, got bytes"):
        tailcut.save(tailcut.load("zoo:lenet5-776"), content)  # type: ignore[arg-type]
