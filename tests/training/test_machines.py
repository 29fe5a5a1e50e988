import pytest

from tailcut.errors import ArgumentError
from tailcut.training.machines import Machines, is_first_process, make_fabric


def test_one_cpu() -> None:
    fabric = make_fabric(Machines(accelerator="cpu"))
    assert fabric.device.type == "cpu"
    assert fabric.world_size == 1


@pytest.mark.parametrize(
    "machines",
    [
        Machines(accelerator="toaster"),
        Machines(accelerator="cpu", devices=0),
        Machines(accelerator="cpu", num_nodes=0),
        Machines(accelerator="cpu", strategy="hope"),
        Machines(accelerator="tpu"),
    ],
)
def test_machines_that_are_not_there_are_refused(machines: Machines) -> None:
    with pytest.raises(ArgumentError, match=r"devices|cannot run on"):
        make_fabric(machines)


@pytest.mark.parametrize(("rank", "first"), [(None, True), (0, True), (1, False)])
def test_the_first_process_is_the_one_of_rank_zero(
    rank: int | None, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.delenv("NODE_RANK", raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
    assert is_first_process() is first
    monkeypatch.setenv("NODE_RANK", "1")
    assert not is_first_process()
