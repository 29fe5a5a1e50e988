import errno
import fcntl
import gc
import os
import stat
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import FrameType
from typing import Any

import pytest

from tailcut import files
from tailcut.errors import ArgumentError
from tailcut.files import (
    all_or_nothing,
    atomic_write,
    by_name,
    check_output_path,
    locked,
    make_folder,
    sync_folder,
    write_atomically,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "net.tailcut"
    with atomic_write(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    assert names_in(tmp_path) == ["net.tailcut"]


def test_an_existing_file_is_replaced_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "net.tailcut"
    path.write_bytes(b"old")
    with atomic_write(str(path)) as file:
        file.write(b"new and longer")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new and longer"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("exists", [True, False])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException], exists: bool) -> None:
    path = tmp_path / "net.tailcut"
    if exists:
        path.write_bytes(b"old")

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert names_in(tmp_path) == (["net.tailcut"] if exists else [])
    assert not exists or path.read_bytes() == b"old"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", b"")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_texts_are_written_as_utf8(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "Füße\n")
    assert (tmp_path / "a").read_bytes() == "Füße\n".encode()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"it is a folder; give a file name"):
        write_atomically(tmp_path, b"")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"the folder .*nowhere does not exist; create it first"):
        write_atomically(tmp_path / "nowhere" / "a", b"")
    assert names_in(tmp_path) == []


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ArgumentError, match="does not exist; create it first"):
        write_atomically(tmp_path / "a" / "b", b"")


def test_a_name_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomically("a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = [bytes([number]) * 5000 for number in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names_in(tmp_path) == ["a"]


def test_what_a_link_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "net.tailcut", tmp_path / "link"
    link.symlink_to(target)
    for content in (b"new", b"newer"):  # a link to nothing at first
        write_atomically(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert names_in(tmp_path / "there") == ["net.tailcut"]


def test_a_link_into_a_missing_folder_is_reported(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere" / "net.tailcut")
    with pytest.raises(
        ArgumentError, match=r"cannot write .*link: the folder .*nowhere does not exist; create it first"
    ):
        write_atomically(link, b"")
    assert names_in(tmp_path) == ["link"]


def test_names_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    name = "x" * (os.pathconf(tmp_path, "PC_NAME_MAX") - len(".tailcut")) + ".tailcut"
    write_atomically(tmp_path / name, b"numbers")
    assert names_in(tmp_path) == [name]


def test_an_unfinished_file_has_the_name_that_runs_clean_up(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a"):
        (unfinished,) = tmp_path.glob(".*.part")
    assert not unfinished.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that nobody closed
def test_an_interruption_at_any_line_leaves_no_unfinished_file(tmp_path: Path) -> None:
    """Ctrl-C comes between any two lines of this module, one after the other, until the writing ends before it."""

    def interrupted_at(number: int) -> bool:
        steps = 0

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal steps
            if frame.f_code.co_filename != files.__file__:
                return None
            steps += event == "line"
            if steps == number:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            write_atomically(tmp_path / "a", b"content")
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    mask = os.umask(0o027)
    os.umask(mask)
    gc.collect()
    gc.freeze()  # or each collection below would look at all that the tests before this one have left
    for number in count(1):
        went_on = interrupted_at(number)
        gc.collect()
        assert set(names_in(tmp_path)) <= {"a"}, number
        now = os.umask(mask)
        assert now == mask, number
        if not went_on:
            break
    assert number > 30
    assert (tmp_path / "a").read_bytes() == b"content"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_of_several_files_all_or_none_are_left(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").write_bytes(b"old")
    (tmp_path / "kept" / "other").write_bytes(b"other")

    def write() -> None:
        with all_or_nothing():
            write_atomically(make_folder(tmp_path / "new" / "inner") / "a", b"a")
            write_atomically(make_folder(tmp_path / "kept") / "b", b"b")
            write_atomically(tmp_path / "kept" / "old", b"new")
            (make_folder(tmp_path / "shared") / "of somebody else").write_bytes(b"")
            raise error

    with pytest.raises(error):
        write()
    assert names_in(tmp_path) == ["kept", "shared"]
    assert names_in(tmp_path / "kept") == ["old", "other"]
    assert (tmp_path / "kept" / "old").read_bytes() == b"old"
    with all_or_nothing():
        write_atomically(make_folder(tmp_path / "new") / "a", b"first")
        write_atomically(tmp_path / "new" / "a", b"a")
        write_atomically(tmp_path / "kept" / "old", b"new")
        assert (tmp_path / "kept" / "old").read_bytes() == b"old"
    assert (tmp_path / "new" / "a").read_bytes() == b"a"
    assert (tmp_path / "kept" / "old").read_bytes() == b"new"
    assert names_in(tmp_path / "kept") == ["old", "other"]
    with pytest.raises(ArgumentError):  # outside of the block everything stays
        write_atomically(tmp_path / "nowhere" / "a", b"a")
    assert names_in(tmp_path / "new") == ["a"]


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/a", "/".join(["x" * 200] * 30)])
def test_a_name_that_is_too_long_is_refused(name: str, tmp_path: Path) -> None:
    for write in (check_output_path, lambda path: write_atomically(path, b"content"), make_folder):
        with pytest.raises(
            ArgumentError, match=r"cannot write x+\.\.\.: the name is too long, with \d+ bytes in a path"
        ):
            write(tmp_path / name)
    assert names_in(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd")
def test_standard_output_may_be_a_pipe() -> None:
    """What /dev/stdout links to, `pipe:[1234]`, is no path."""
    code = "from tailcut.files import write_atomically; write_atomically('/dev/stdout', b'numbers')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"numbers", b"")


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"numbers")
    reader.join(10)
    assert found == [b"numbers"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_text_that_utf8_cannot_hold_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(ArgumentError, match=r"a: expected text that UTF-8 can hold, found '\\udce9'"):
        write_atomically(tmp_path / "a", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a").read_text() == "old"


HOLDER = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ArgumentError, match="somebody writes there"), locked(tmp_path, "somebody writes there"):
            pass
        holder.kill()
        holder.wait()
    with locked(tmp_path, "somebody writes there"):
        pass
    assert names_in(tmp_path) == ["a"]


def test_a_lock_is_of_one_block_and_ends_with_it(tmp_path: Path) -> None:
    with locked(tmp_path, "taken"), pytest.raises(ArgumentError, match="taken"), locked(tmp_path, "taken"):
        pass
    with pytest.raises(KeyError), locked(tmp_path, "taken"):
        raise KeyError
    with locked(tmp_path, "taken"):
        pass


def test_no_deletion_in_the_folder_ends_a_lock(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("")
    with locked(tmp_path, "taken"):
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(ArgumentError, match="taken"), locked(tmp_path, "taken"):
            pass


def test_where_folders_cannot_be_locked_a_file_in_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def only_files(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "as NFS says")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", only_files)
    with locked(tmp_path, "taken"):
        assert names_in(tmp_path) == [".lock"]
        with pytest.raises(ArgumentError, match="taken"), locked(tmp_path, "taken"):
            pass
    with locked(tmp_path, "taken"):
        pass


def test_where_there_are_no_locks_the_block_runs_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [errno.ENOLCK, errno.ENOTSUP, errno.EIO]

    def refuse(*args: object) -> None:
        raise OSError(numbers.pop(0), "no")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with locked(tmp_path, "taken"):
            pass
    with pytest.raises(OSError, match="no"), locked(tmp_path, "taken"):
        pass
    monkeypatch.setattr(files, "fcntl", None)
    with locked(tmp_path, "taken"), locked(tmp_path, "taken"):
        pass


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*net\.tailcut") as caught:
        write_atomically(tmp_path / "net.tailcut", b"content")
    assert caught.value.errno == errno.ENOSPC
    assert names_in(tmp_path) == []


def test_the_folder_is_synchronised_after_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(one: str, other: str) -> None:
        calls.append("rename")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomically(tmp_path / "a", b"content")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_that_cannot_synchronise_folders_are_used_without(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)
    monkeypatch.undo()

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        sync_folder(tmp_path)


@pytest.mark.parametrize(
    ("out", "problem"), [(".", "it is a folder"), ("nowhere/report.html", "the folder .*nowhere does not exist")]
)
def test_a_place_that_cannot_be_written_is_refused(out: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"cannot write .*{problem}"):
        check_output_path(tmp_path / out)
    check_output_path(tmp_path / "report.html")


@pytest.mark.parametrize("out", ["", "a\0b"])
def test_what_is_no_name_is_refused(out: str) -> None:
    with pytest.raises(ArgumentError, match="expected the name of a file to write"):
        check_output_path(out)


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    make = files._make
    monkeypatch.setattr(files, "_make", refused)
    check_output_path(tmp_path / "a")  # nothing is tried where the folder seems writable
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        check_output_path(tmp_path / "a")
    assert caught.value.filename == str(tmp_path / "a")
    check_output_path(os.devnull)
    monkeypatch.setattr(files, "_make", make)
    check_output_path(tmp_path / "a")  # what the answer was wrong about
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_name_of_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    for name in ("file/", "new/"):
        with pytest.raises(ArgumentError, match="that is the name of a folder, which is not there; give a file name"):
            write_atomically(f"{tmp_path}/{name}", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_names_are_sorted_alike_on_all_systems() -> None:
    for kind in (PurePosixPath, PureWindowsPath):  # the second compares without case
        assert sorted(map(kind, ("apple", "Zebra")), key=by_name) == [kind("Zebra"), kind("apple")]
