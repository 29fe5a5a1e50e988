"""Where a training or an evaluation runs: devices and processes, through Lightning Fabric."""

import os
from dataclasses import dataclass
from typing import Literal

from tailcut.errors import ArgumentError, MissingExtraError

try:
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.rank_zero import rank_zero_only
except ImportError as error:
    raise MissingExtraError("training and work on several devices", "lightning-fabric", "train") from error

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Machines:
    """Where a training or an evaluation runs; the words are those of Lightning Fabric.

    Attributes:
        accelerator: `auto` (a GPU if there is one), `cpu`, `cuda`, ...
        devices: how many per machine.
        num_nodes: how many machines.
        strategy: how they share the work; `auto` is data parallel (`ddp`) for several devices.
    """

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"


def make_fabric(machines: Machines, precision: Precision = "fp32") -> Fabric:
    """The engine on these machines, not yet launched.

    Args:
        machines: where to run.
        precision: that of a recipe's `training` section.

    Raises:
        ArgumentError: there are no such machines here.
    """
    if machines.devices < 1 or machines.num_nodes < 1:
        raise ArgumentError(
            f"devices and num_nodes must be at least 1, got {machines.devices} and {machines.num_nodes}"
        )
    try:
        return Fabric(
            accelerator=machines.accelerator,
            devices=machines.devices,
            num_nodes=machines.num_nodes,
            strategy=machines.strategy,
            precision=PRECISIONS[precision],
        )
    except (ValueError, RuntimeError, TypeError, ImportError) as error:  # what Fabric raises for what is not there
        raise ArgumentError(f"cannot run on {machines}: {str(error).splitlines()[0]}") from error


def is_first_process() -> bool:
    """Whether this is the process that writes files and talks; the others only compute.

    Fabric knows its rank once it is launched; before, the variables of whoever started the processes tell.
    """
    rank = getattr(rank_zero_only, "rank", None)
    return rank in (None, 0) and os.environ.get("NODE_RANK", "0") == "0"
