import hashlib
import io
import zipfile
from pathlib import Path

import pytest
import torch

from tailcut.errors import DataError
from tailcut.training.checkpoint_digest import MARK, TRAILER_BYTES, save_with_digest, verify_digest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.pt"
    with path.open("wb") as file:
        save_with_digest({"weight": torch.arange(70_000), "bytes": torch.ones(3, dtype=torch.uint8)}, file)
    return path


def test_the_seal_is_the_digest_of_all_bytes_before_it(path: Path) -> None:
    content = path.read_bytes()
    assert content[-TRAILER_BYTES:] == MARK + hashlib.sha256(content[:-TRAILER_BYTES]).digest()
    assert verify_digest(path)


def test_a_sealed_file_is_one_of_torch_and_a_zip_archive(path: Path) -> None:
    assert torch.equal(torch.load(path, weights_only=True)["weight"], torch.arange(70_000))
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == path.read_bytes()[-TRAILER_BYTES:]
        assert archive.testzip() is None


def test_the_seal_is_all_that_is_added(path: Path) -> None:
    plain = io.BytesIO()
    torch.save(torch.load(path, weights_only=True), plain)
    assert len(path.read_bytes()) == len(plain.getvalue()) + TRAILER_BYTES


def test_changed_bytes_are_reported(path: Path) -> None:
    content = path.read_bytes()
    for place in (0, 5000, len(content) - 30, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(DataError, match="its bytes do not match its digest"):
            verify_digest(path)


def test_files_without_a_seal(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "plain.pt")
    assert not verify_digest(tmp_path / "plain.pt")
    (tmp_path / "short").write_bytes(b"PK")
    assert not verify_digest(tmp_path / "short")
    with pytest.raises(DataError, match="cannot read"):
        verify_digest(tmp_path / "missing")
