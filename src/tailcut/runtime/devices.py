"""Devices and processes of a training or an evaluation, through Lightning Fabric."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from tailcut.errors import ArgumentError, MissingExtraError, TrainingError, first_line
from tailcut.running import in_process_group
from tailcut.runtime.signals import is_lost_connection, lost_connection_message

try:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.parallel import ParallelStrategy
    from lightning_fabric.utilities.rank_zero import rank_zero_only
    from lightning_utilities.core import rank_zero
except ImportError as error:
    raise MissingExtraError("training and work on several devices", "lightning-fabric", "train") from error

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Devices:
    """Devices of a training or an evaluation, in the terms of Lightning Fabric.

    Attributes:
        accelerator: `auto` (a CUDA GPU if there is one), `cpu`, `cuda`, ...
        devices: how many per machine.
        num_nodes: how many machines.
        strategy: how they share the work; `auto` is data parallel (`ddp`) for several devices.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"


class Engine(Fabric):
    """Lightning Fabric, for which the end of another process is one clear error, and which ends its process group."""

    def launch(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:  # type: ignore[override]
        """Call `function` with this engine in each process, and return its result.

        Raises:
            TrainingError: another process ended before its work was done.
        """
        is_ours = not in_process_group()
        try:
            with _without_advice():
                found = super().launch(function, *arguments, **settings)
        except RuntimeError as error:
            if not is_lost_connection(error):
                raise
            # Fabric kills this process (SIGKILL) within seconds of one that it started: print the reason first.
            getattr(self.strategy.launcher, "procs", []).clear()
            raise TrainingError(lost_connection_message(error)) from error
        if is_ours and in_process_group():
            # Its threads must not be alive as Python ends: now and then that aborts a process whose work is done.
            torch.distributed.destroy_process_group()
        return found


def _is_useful(record: logging.LogRecord) -> bool:
    """Return whether a line of Fabric's is for our users; the advice to round float32 products is not."""
    # Transforms are exact to float32; layers have their precision from the recipe.
    return "set_float32_matmul_precision" not in record.getMessage()


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep Fabric's advice that is not for our users from its log."""
    log = rank_zero.log  # read here: PyTorch Lightning, once imported, puts its own logger in the place of Fabric's
    log.addFilter(_is_useful)
    try:
        yield
    finally:
        log.removeFilter(_is_useful)


def make_fabric(devices: Devices, precision: Precision = "fp32") -> Fabric:
    """Return the Fabric engine on these devices, not yet launched.

    Args:
        devices: where to run.
        precision: that of a recipe's `training` section.

    Raises:
        ArgumentError: there are no such machines here, or a launcher (torchrun, srun) started another number of
            processes.
    """
    if devices.devices < 1 or devices.num_nodes < 1:
        raise ArgumentError(f"devices and num_nodes must be at least 1, got {devices.devices} and {devices.num_nodes}")
    accelerator = _accelerator(devices.accelerator)
    try:
        fabric = Engine(
            accelerator=accelerator,
            devices=devices.devices,
            num_nodes=devices.num_nodes,
            strategy=devices.strategy,
            precision=PRECISIONS[precision],
        )
        strategy = fabric.strategy
        if isinstance(strategy, ParallelStrategy) and strategy.cluster_environment is not None:
            # As the launch does, which has no error class of its own.
            strategy.cluster_environment.validate_settings(devices.devices, devices.num_nodes)
        return fabric
    except (ValueError, RuntimeError, TypeError, ImportError) as error:  # what Fabric raises for what is not there
        asked = ", ".join(f"{name}={value}" for name, value in asdict(devices).items())
        raise ArgumentError(f"cannot run on {asked}: {first_line(error)}") from error


def _accelerator(name: str) -> str:
    """Return the accelerator to ask Fabric for, whose own choice could be Apple's GPU, which has no float64."""
    if name == "mps":
        raise ArgumentError(
            "cannot run on mps: metrics are summed in float64, which Apple's GPUs do not have; take cpu"
        )
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_global_zero() -> bool:
    """Return whether this process writes files and messages; the others only compute.

    Fabric knows its rank once it is launched; before, the launcher's environment variables give it.
    """
    rank = getattr(rank_zero_only, "rank", None)
    return rank in (None, 0) and os.environ.get("NODE_RANK", "0") == "0"
