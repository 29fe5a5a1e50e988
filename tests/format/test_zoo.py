import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.format.networks import regularized

import tailcut
from tailcut.errors import ArgumentError
from tailcut.format import load as load_function
from tailcut.format import resolve, zoo, zoo_folder, zoo_names


@pytest.fixture
def small_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "zoo"
    folder.mkdir()
    tailcut.save(regularized("lenet300", num_kept=4), folder / "tiny.tailcut")
    shutil.copy(folder / "tiny.tailcut", folder / "another.tailcut")
    (folder / "README.md").write_text("not a network")
    monkeypatch.setattr(zoo, "zoo_folder", lambda: folder)
    return folder


def test_names_are_those_of_the_files(small_zoo: Path) -> None:
    assert zoo_names() == ["another", "tiny"]


def test_a_name_is_taken_where_a_file_is_read(small_zoo: Path) -> None:
    assert resolve("zoo:tiny") == small_zoo / "tiny.tailcut"
    assert tailcut.inspect("zoo:tiny").num_kept == 12
    assert load_function("zoo:another").training is False


@pytest.mark.parametrize("name", ["nothing", "", "tiny.tailcut", "../zoo/tiny", "README.md"])
def test_other_names_are_refused(name: str, small_zoo: Path) -> None:
    with pytest.raises(ArgumentError, match="; it has another, tiny"):
        tailcut.load(f"zoo:{name}")


def test_paths_are_themselves(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        resolve(tmp_path / "missing.tailcut")
    with pytest.raises(FileNotFoundError, match=r"is a folder, not a file$"):
        resolve(tmp_path)
    (tmp_path / "model.tailcut").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"is a folder, not a file; the network of this run is .*model.tailcut$"
    ):
        resolve(tmp_path)
    (tmp_path / "there").touch()
    assert resolve(str(tmp_path / "there")) == tmp_path / "there"


def test_the_networks_that_ship_load() -> None:
    for name in zoo_names():
        report = tailcut.inspect(f"zoo:{name}")
        assert report.model in tailcut.model_names()
        assert (zoo_folder() / f"{name}.tailcut").stat().st_size == report.file_bytes
        assert tailcut.load(f"zoo:{name}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of Unix")
def test_a_pipe_is_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArgumentError, match="pipe is no file but a pipe or a device"):
        resolve(tmp_path / "pipe")


@pytest.mark.parametrize("content", [b"\x89TCT", io.BytesIO()])
def test_content_in_place_of_a_name_is_reported(content: Any) -> None:
    with pytest.raises(ArgumentError, match=f"expected the name of a file to read, got {type(content).__name__}"):
        resolve(content)
