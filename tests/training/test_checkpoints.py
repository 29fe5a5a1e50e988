import errno
import io
import os
import random
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tailcut.errors import DataError
from tailcut.runs import Run
from tailcut.training import checkpoints
from tailcut.training.checkpoints import (
    applying,
    is_checkpoint,
    newest_checkpoint,
    put_aside_damaged,
    random_state,
    read_checkpoint,
    remove_unfinished,
    set_random_state,
    write_checkpoint,
)


def state(epoch: int) -> dict[str, Any]:
    return {
        "recipe": "name = 'a'",
        "epoch": epoch,
        "lines": [{"epoch": number + 1, "seconds": 1.5} for number in range(epoch)],
        "num_threads": 1,
        "model": {"weight": torch.full((3,), float(epoch))},
        "optimizer": {"state": {}, "param_groups": []},
        "schedule": None,
        "average": None,
        "scaler": {},
        "random": {name: value[None] for name, value in random_state().items()},
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


def newest_epoch(run: Run) -> int:
    found = newest_checkpoint(run)
    assert found is not None
    return int(found[1]["epoch"])


def test_the_last_two_checkpoints_are_kept(run: Run) -> None:
    assert newest_checkpoint(run) is None
    for epoch in (1, 2, 3):
        write_checkpoint(run, state(epoch))
    assert newest_epoch(run) == 3
    assert read_checkpoint(run.last_checkpoint)["epoch"] == 3
    assert read_checkpoint(run.previous_checkpoint)["epoch"] == 2
    assert torch.equal(read_checkpoint(run.previous_checkpoint)["model"]["weight"], torch.full((3,), 2.0))


@pytest.mark.parametrize("moment", ["while writing", "between the renames"])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(moment: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in (1, 2):
        write_checkpoint(run, state(epoch))

    def die(*args: object, **settings: object) -> None:
        raise SystemExit

    if moment == "while writing":
        monkeypatch.setattr(torch, "save", die)
    else:
        monkeypatch.setattr(os, "replace", die)
    with pytest.raises(SystemExit):
        write_checkpoint(run, state(3))
    monkeypatch.undo()
    assert newest_epoch(run) == 2


def test_damaged_checkpoints_are_reported(run: Run) -> None:
    for epoch in (1, 2):
        write_checkpoint(run, state(epoch))
    run.last_checkpoint.write_bytes(b"")
    assert newest_epoch(run) == 1
    run.previous_checkpoint.write_bytes(run.previous_checkpoint.read_bytes()[:50])
    with pytest.raises(DataError, match=r"last\.pt.*previous\.pt"):
        newest_checkpoint(run)


def test_every_flipped_bit_is_noticed_and_the_one_before_is_taken(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    for epoch in (1, 2):
        write_checkpoint(run, state(epoch))
    content = run.last_checkpoint.read_bytes()
    places = torch.randint(8 * len(content), (300,), generator=torch.Generator().manual_seed(0)).tolist()
    places += range(8 * (len(content) - 72), 8 * len(content), 3)  # the digest, and the end of the archive before it
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        run.last_checkpoint.write_bytes(damaged)
        with pytest.raises(DataError, match=r"last\.pt"):
            read_checkpoint(run.last_checkpoint)
    caplog.clear()
    assert newest_epoch(run) == 1
    assert len(caplog.messages) == 1
    assert re.fullmatch(
        r".*last\.pt is damaged: .*; the one before is taken, previous\.pt after epoch 1", caplog.messages[0]
    )


def test_the_one_before_is_not_lost_to_a_damaged_one(run: Run) -> None:
    for epoch in (1, 2):
        write_checkpoint(run, state(epoch))
    run.last_checkpoint.write_bytes(b"torn")
    put_aside_damaged(run)
    assert newest_epoch(run) == 1
    write_checkpoint(run, state(2))
    assert read_checkpoint(run.previous_checkpoint)["epoch"] == 1
    assert run.damaged_checkpoint.read_bytes() == b"torn"


def test_a_file_cut_anywhere_is_noticed(run: Run) -> None:
    write_checkpoint(run, state(1))
    content = run.last_checkpoint.read_bytes()
    for length in (0, 1, 47, 48, 100, len(content) // 2, len(content) - 48, len(content) - 1):
        run.last_checkpoint.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"last\.pt"):
            read_checkpoint(run.last_checkpoint)


def test_checkpoints_of_before_the_seal_are_read(run: Run) -> None:
    torch.save({"version": 1, **state(3)}, run.last_checkpoint)
    assert newest_epoch(run) == 3
    content = run.last_checkpoint.read_bytes()
    weight = content.index(torch.full((3,), 3.0).numpy().tobytes())
    run.last_checkpoint.write_bytes(content[:weight] + b"\1" + content[weight + 1 :])
    with pytest.raises(DataError, match="it is damaged, or was not written by a training") as caught:
        read_checkpoint(run.last_checkpoint)
    assert "Bad CRC-32" in str(caught.value.__cause__)


MISSING = object()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", MISSING, "'model' must be tensors by name, it is missing"),
        ("model", {"weight": 3}, "'model' must be tensors by name"),
        ("epoch", "three", "'epoch' must be the number of finished epochs, found 'three'"),
        ("epoch", 0, "'epoch'"),
        ("epoch", 10**9, "it is of epoch 1000000000, with the figures of 2"),
        ("epoch", True, "'epoch'"),
        ("lines", [{"epoch": 1}, {}], "'lines' must be the figures of the epochs"),
        ("num_threads", "one", "'num_threads'"),
        ("optimizer", None, "'optimizer'"),
        ("schedule", 3, "'schedule'"),
        ("average", [1], "'average'"),
        ("scaler", MISSING, "'scaler'"),
        ("random", {}, "'random' must be the states"),
    ],
)
def test_what_is_missing_or_of_another_kind_is_named(key: str, value: object, message: str, run: Run) -> None:
    content = {name: entry for name, entry in {**state(2), key: value}.items() if entry is not MISSING}
    write_checkpoint(run, content)
    with pytest.raises(DataError, match=message):
        read_checkpoint(run.last_checkpoint)


@pytest.mark.parametrize("name", ["python", "numpy", "torch"])
@pytest.mark.parametrize("tear", ["short", "wild", "empty", "flat"])
def test_a_torn_random_state_is_reported(name: str, tear: str, run: Run) -> None:
    content = state(1)
    value = content["random"][name]
    torn = {"short": value[:, :-7], "wild": torch.full_like(value, -3 if value.dtype.is_floating_point else 255)}
    content["random"][name] = {**torn, "empty": value[:0], "flat": value[0]}[tear]
    write_checkpoint(run, content)
    before = random_state()
    with pytest.raises(DataError, match="its random state is none"):
        read_checkpoint(run.last_checkpoint)
    assert all(torch.equal(value.nan_to_num(), random_state()[key].nan_to_num()) for key, value in before.items())


def test_a_state_of_another_network_is_one_error(run: Run) -> None:
    for error in (KeyError("state"), RuntimeError("size mismatch"), AttributeError("no")):
        with (
            pytest.raises(DataError, match=r"last\.pt does not fit the recipe of its run"),
            applying(run.last_checkpoint),
        ):
            raise error


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(DataError, match="no checkpoint of a Tailcut run"):
        read_checkpoint(tmp_path / "weights.pt")
    torch.save({"version": 99, "recipe": ""}, tmp_path / "newer.pt")
    with pytest.raises(DataError, match="another version"):
        read_checkpoint(tmp_path / "newer.pt")
    assert not is_checkpoint([])


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"version": 1, "recipe": "", "code": os.system}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match="cannot read") as caught:
        read_checkpoint(tmp_path / "evil.pt")
    assert "weights_only" not in str(caught.value)


def test_what_a_killed_process_left_is_removed(run: Run) -> None:
    write_checkpoint(run, state(1))
    (run.checkpoints / ".tailcut-abc.part").write_text("")
    (run.path / ".tailcut-def.part").write_text("")
    (run.path / ".download.part").write_text("of another program")
    remove_unfinished(run)
    assert [path.name for path in run.checkpoints.iterdir()] == ["last.pt"]
    assert sorted(path.name for path in run.path.iterdir()) == [".download.part", "checkpoints"]


def test_each_process_gets_its_own_row_of_the_states() -> None:
    torch.manual_seed(1)
    other = random_state()
    torch.manual_seed(2)
    mine = random_state()
    first = torch.rand(3)
    rows = {name: torch.stack([other[name], value]) for name, value in mine.items()}
    set_random_state({name: value[1] for name, value in rows.items()})
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("with_gauss", [False, True])
def test_random_generators_go_on_where_they_were(with_gauss: bool, run: Run) -> None:
    if with_gauss:  # a second normal number is kept in store
        random.gauss(0, 1)
        np.random.standard_normal()

    def draw() -> list[float]:
        numbers = [random.random(), random.gauss(0, 1), np.random.standard_normal(), np.random.random()]
        return [*numbers, torch.rand(1).item(), torch.randn(1).item()]

    write_checkpoint(run, state(1))
    first = draw()
    states = read_checkpoint(run.last_checkpoint)["random"]
    set_random_state({name: value[0] for name, value in states.items()})
    assert draw() == first


def test_a_full_disk_is_told_as_such(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    write_checkpoint(run, state(1))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "atomic_write", lambda path: Full())
        with pytest.raises(OSError, match="No space left on device"):
            write_checkpoint(run, {"model": torch.ones(300_000)})
    with pytest.raises(TypeError, match="pickle"):  # other errors stay as they are
        write_checkpoint(run, {"model": threading.Lock()})
    assert newest_epoch(run) == 1
