import dataclasses
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pooch
import pytest

from tailcut.data import roots
from tailcut.data.roots import Layout, data_roots, fetch, find, find_file, unpack_members
from tailcut.errors import DataNotFoundError

LAYOUT = Layout(title="Things, split test", files=("things/a.bin", "things/b.bin"), advice="Ask the maker.")


def fill(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    return root


def test_order_is_given_then_environment_then_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILCUT_DATA", os.pathsep.join([str(tmp_path / "c"), "", str(tmp_path / "d")]))
    tried = data_roots([tmp_path / "a", str(tmp_path / "b")])
    assert tried == [tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "d", cache]


def test_one_root_may_be_given_without_a_list(cache: Path, tmp_path: Path) -> None:
    assert data_roots(str(tmp_path)) == data_roots(tmp_path) == [tmp_path, cache]


def test_home_is_expanded(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_roots("~/data")[0] == tmp_path / "data"
    assert data_roots("~no-such-user/data")[0] == Path("~no-such-user/data")


def test_cache_root_is_the_user_cache_of_tailcut() -> None:
    assert roots.cache_root() == Path(pooch.os_cache("tailcut"))


def test_first_complete_root_wins(cache: Path, tmp_path: Path) -> None:
    incomplete = fill(tmp_path / "incomplete", "things/a.bin")
    first = fill(tmp_path / "first", *LAYOUT.files)
    second = fill(tmp_path / "second", *LAYOUT.files)
    assert find(LAYOUT, roots=[incomplete, first, second]) == first


def test_second_root_of_the_environment_is_searched(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = fill(tmp_path / "full", *LAYOUT.files)
    monkeypatch.setenv("TAILCUT_DATA", f"{tmp_path / 'empty'}{os.pathsep}{full}")
    assert find(LAYOUT) == full


def test_cache_is_searched_last(cache: Path, tmp_path: Path) -> None:
    fill(cache, *LAYOUT.files)
    assert find(LAYOUT, roots=tmp_path) == cache


def test_message_names_files_roots_and_cure(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = fill(tmp_path / "half", "things/b.bin")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("TAILCUT_DATA", str(tmp_path / "empty"))
    with pytest.raises(DataNotFoundError) as caught:
        find(LAYOUT, roots=[half, tmp_path / "nowhere"], download=True)
    assert str(caught.value).splitlines() == [
        "Things, split test: no data root holds all of",
        "  things/a.bin",
        "  things/b.bin",
        "Data roots tried:",
        f"  {half} (lacks things/a.bin)",
        f"  {tmp_path / 'nowhere'} (no such folder)",
        f"  {tmp_path / 'empty'} (has none of them)",
        f"  {cache} (user cache; no such folder)",
        "Ask the maker.",
        "Put the files under a data root, or name the root that has them: --data-root DIR (may be given more "
        f"than once), or the environment variable TAILCUT_DATA (several roots, separated by {os.pathsep!r}).",
    ]


def test_root_that_cannot_be_read(cache: Path, tmp_path: Path) -> None:
    impossible = tmp_path / ("x" * 300)
    full = fill(tmp_path / "full", *LAYOUT.files)
    assert find(LAYOUT, roots=[impossible, full]) == full
    with pytest.raises(DataNotFoundError, match=r"xxx \(cannot be read: File name too long\)"):
        find(LAYOUT, roots=[impossible])


def test_downloads_only_when_allowed(cache: Path) -> None:
    calls: list[Path] = []

    def download(root: Path) -> None:
        calls.append(root)
        fill(root, *LAYOUT.files)

    layout = Layout(LAYOUT.title, LAYOUT.files, LAYOUT.advice, download)
    with pytest.raises(DataNotFoundError, match="download=True allows it"):
        find(layout)
    assert not calls
    assert find(layout, download=True) == cache
    assert find(layout, download=True) == cache
    assert calls == [cache], "the second call finds the files"


@pytest.mark.parametrize("failure", [OSError("no network"), ValueError("wrong hash"), tarfile.ReadError("bad")])
def test_failed_download_is_named(cache: Path, failure: Exception) -> None:
    def download(root: Path) -> None:
        raise failure

    layout = Layout(LAYOUT.title, LAYOUT.files, LAYOUT.advice, download)
    with pytest.raises(DataNotFoundError) as caught:
        find(layout, download=True)
    expected = f"The download to the user cache failed: {type(failure).__name__}: {failure}"
    assert expected in str(caught.value).splitlines()
    assert caught.value.__cause__ is failure


def test_fetch_checks_the_hash(serve: Callable[[Path], str], tmp_path: Path) -> None:
    fill(tmp_path / "site", "thing.bin")
    address = serve(tmp_path / "site")
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"
    path = fetch(address + "thing.bin", tmp_path / "here", f"sha256:{sha256}")
    assert path == tmp_path / "here" / "thing.bin"
    assert path.read_bytes() == b"x"
    with pytest.raises(ValueError, match="hash"):
        fetch(address + "thing.bin", tmp_path / "there", f"sha256:{'0' * 64}")
    assert not (tmp_path / "there" / "thing.bin").exists(), "nothing with a wrong hash is kept"
    with pytest.raises(OSError, match="404"):
        fetch(address + "other.bin", tmp_path / "there", f"sha256:{sha256}")


def make_archive(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_unpack_members_writes_those_asked_for(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "x.tar.gz", one=b"1" * 3_000_000, two=b"2", three=b"3")
    unpack_members(archive, tmp_path / "out", ["folder/one", "folder/three"])
    files = {path.name: path.read_bytes() for path in (tmp_path / "out" / "folder").iterdir()}
    assert files == {"one": b"1" * 3_000_000, "three": b"3"}


def test_unpack_members_names_what_is_missing(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "x.tar.gz", one=b"1")
    with pytest.raises(ValueError, match="holds no file folder/two"):
        unpack_members(archive, tmp_path, ["folder/one", "folder/two"])


def test_unpack_members_of_a_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"nothing of the kind")
    with pytest.raises(tarfile.TarError):
        unpack_members(tmp_path / "x.tar.gz", tmp_path, ["folder/one"])


def test_a_single_file_is_found_under_the_roots(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.th").write_bytes(b"1")
    assert find_file("weights/net.th", roots=tmp_path) == tmp_path / "weights" / "net.th"
    with pytest.raises(DataNotFoundError, match=r"(?s)other\.th.*lies under no data root"):
        find_file("other.th", roots=tmp_path)


def test_a_user_without_a_home_folder_has_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(name: str) -> str:
        raise RuntimeError("could not determine the home directory for '~/.cache'")

    monkeypatch.setattr(pooch, "os_cache", homeless)
    monkeypatch.delenv(roots.ENVIRONMENT_VARIABLE, raising=False)
    assert roots.cache_root() is None
    assert data_roots() == []
    assert find(LAYOUT, roots=fill(tmp_path / "full", *LAYOUT.files)) == tmp_path / "full"
    with pytest.raises(DataNotFoundError, match="none: there is no home folder for the user cache"):
        find(LAYOUT)
    fetched = dataclasses.replace(LAYOUT, download=lambda folder: None)
    with pytest.raises(DataNotFoundError, match="no home folder for it: set HOME or XDG_CACHE_HOME"):
        find(fetched, download=True)
