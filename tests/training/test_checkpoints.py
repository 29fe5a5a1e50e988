import errno
import io
import os
import random
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
    is_checkpoint,
    newest_checkpoint,
    random_state,
    read_checkpoint,
    remove_unfinished,
    set_random_state,
    write_checkpoint,
)


def state(epoch: int) -> dict[str, Any]:
    return {"recipe": "name = 'a'", "epoch": epoch, "model": {"weight": torch.full((3,), float(epoch))}}


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


def test_damaged_checkpoints_are_told(run: Run) -> None:
    for epoch in (1, 2):
        write_checkpoint(run, state(epoch))
    run.last_checkpoint.write_bytes(b"")
    assert newest_epoch(run) == 1
    run.previous_checkpoint.write_bytes(run.previous_checkpoint.read_bytes()[:50])
    with pytest.raises(DataError, match=r"last\.pt.*previous\.pt"):
        newest_checkpoint(run)


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
    (run.checkpoints / ".last.pt.abc.part").write_text("")
    (run.path / ".metrics.jsonl.abc.part").write_text("")
    remove_unfinished(run)
    assert [path.name for path in run.checkpoints.iterdir()] == ["last.pt"]
    assert [path.name for path in run.path.iterdir()] == ["checkpoints"]


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

    write_checkpoint(run, {**state(1), "random": random_state()})
    first = draw()
    set_random_state(read_checkpoint(run.last_checkpoint)["random"])
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
