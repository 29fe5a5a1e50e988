import logging
import subprocess
import sys

import pytest

from tailcut.errors import ArgumentError, TrainingError
from tailcut.runtime.devices import Devices, is_global_zero, make_fabric


def test_one_cpu() -> None:
    fabric = make_fabric(Devices(accelerator="cpu"))
    assert fabric.device.type == "cpu"
    assert fabric.world_size == 1


def test_auto_is_not_apple_s_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert make_fabric(Devices()).device.type == "cpu"


@pytest.mark.parametrize(
    "devices",
    [
        Devices(accelerator="toaster"),
        Devices(accelerator="cpu", devices=0),
        Devices(accelerator="cpu", num_nodes=0),
        Devices(accelerator="cpu", strategy="hope"),
        Devices(accelerator="tpu"),
        Devices(accelerator="mps"),
    ],
)
def test_machines_that_are_not_there_are_refused(devices: Devices) -> None:
    with pytest.raises(ArgumentError, match=r"devices|cannot run on"):
        make_fabric(devices)


@pytest.mark.parametrize(("rank", "first"), [(None, True), (0, True), (1, False)])
def test_the_first_process_is_the_one_of_rank_zero(
    rank: int | None, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.delenv("NODE_RANK", raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
    assert is_global_zero() is first
    monkeypatch.setenv("NODE_RANK", "1")
    assert not is_global_zero()


def test_the_end_of_another_process_is_one_clear_error() -> None:
    def lose(fabric: object) -> None:
        raise RuntimeError("[/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:20133")

    fabric = make_fabric(Devices(accelerator="cpu"))
    with pytest.raises(TrainingError, match=r"another process of the same work has ended.*\[rank N\].*closed by peer"):
        fabric.launch(lose)


def test_a_defect_of_this_process_stays_what_it_is() -> None:
    def fail(fabric: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        make_fabric(Devices(accelerator="cpu")).launch(fail)


def test_a_launcher_that_started_another_number_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE")
    for name in names:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ArgumentError, match=r"cannot run on .*does not match the world size \(3\)"):
        make_fabric(Devices(accelerator="cpu", devices=2))


LAUNCH = """
import torch
from tailcut.runtime.devices import Devices, make_fabric
group = torch.distributed
if "{before}":
    group.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
fabric = make_fabric(Devices(accelerator="cpu", strategy="ddp"))
print(fabric.launch(lambda fabric: group.is_initialized()), group.is_initialized())
"""


@pytest.mark.parametrize(("before", "after"), [("", "True False"), ("a group of the caller", "True True")])
def test_a_process_group_ends_with_the_launch_that_made_it(before: str, after: str) -> None:
    words = [sys.executable, "-c", LAUNCH.replace("{before}", before)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == after


@pytest.mark.parametrize("logger", ["lightning_fabric.utilities.rank_zero", "pytorch_lightning.utilities.rank_zero"])
def test_advice_to_round_products_is_not_shown(
    logger: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_utilities.core import rank_zero

    def inform(fabric: object) -> None:
        rank_zero.rank_zero_info("you should set `torch.set_float32_matmul_precision('medium' | 'high')`")
        rank_zero.rank_zero_info("Using bfloat16")

    # PyTorch Lightning, once imported, puts its own logger in the place of Fabric's.
    monkeypatch.setattr(rank_zero, "log", logging.getLogger(logger))
    fabric = make_fabric(Devices(accelerator="cpu"))
    with caplog.at_level(logging.INFO):
        fabric.launch(inform)
        assert caplog.messages == ["Using bfloat16"]
        inform(fabric)  # another training of the same process, which is not ours, keeps its own lines
    assert len(caplog.messages) == 3
