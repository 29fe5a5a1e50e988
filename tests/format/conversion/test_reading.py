import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.conversion.stored import stored

from tailcut.errors import ArgumentError, DataError, LimitError
from tailcut.format.conversion import reading


def test_a_checkpoint_is_read(tmp_path: Path) -> None:
    tensors = {"module.a.weight": torch.rand(2, 3), "module.a.bias": torch.rand(2)}
    found = reading.read_checkpoint(stored(tmp_path / "a.pt", {"epoch": 1, "state_dict": tensors}))
    assert {name: x.tolist() for name, x in found.items()} == {
        "a.weight": tensors["module.a.weight"].tolist(),
        "a.bias": tensors["module.a.bias"].tolist(),
    }
    with pytest.raises(FileNotFoundError, match="there is no file"):
        reading.read_checkpoint(tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        reading.read_checkpoint(tmp_path)


def test_the_old_format_of_torch(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert reading.read_checkpoint(tmp_path / "a.pt")["a"].tolist() == [1.0, 1.0]


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return io.open, ("exploded",)


def test_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": Bomb()}))
    with pytest.raises(DataError, match="holds other things than tensors"):
        reading.read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(DataError, match="holds other things than tensors"):
        reading.read_checkpoint(stored(tmp_path / "b.pt", {"a": Bomb()}))


def test_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path / "a.pt", {"a": torch.ones(1000)})
    monkeypatch.setattr(reading, "MAX_CHECKPOINT_BYTES", 3000)
    with pytest.raises(LimitError, match="at most 3,000 are read"):
        reading.read_checkpoint(path)


def test_archives_that_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    monkeypatch.setattr(reading, "MAX_CHECKPOINT_BYTES", 1 << 16)
    with pytest.raises(LimitError, match="holds 1,048,576 bytes"):
        reading.read_checkpoint(tmp_path / "a.pt")


def test_one_number_seen_many_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path / "a.pt", {"a": torch.ones(1).expand(1 << 20)})
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(reading, "MAX_CHECKPOINT_BYTES", 1 << 20)
    with pytest.raises(LimitError, match="holds 4,194,304 bytes"):
        reading.read_checkpoint(path)


def test_arguments_twice() -> None:
    own: dict[str, Any] = {"num_classes": 10, "normalize": "cifar10"}
    assert reading.expect_no_arguments_twice(own, {"normalize": False, "hidden": 3}) == {
        "num_classes": 10,
        "normalize": False,
        "hidden": 3,
    }
    with pytest.raises(ArgumentError, match="the checkpoint says num_classes = 10, the argument says 9"):
        reading.expect_no_arguments_twice(own, {"num_classes": 9})
