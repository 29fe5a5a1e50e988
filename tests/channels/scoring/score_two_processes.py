"""One of two processes that score a network together: python score_two_processes.py RANK FOLDER.

Process 0 has three batches, process 1 has one; each leaves the scores in FOLDER/RANK.json. Then process 1 has none, and
the scores are left in FOLDER/RANK-alone.json. At last process 0 scores, while process 1 waits: FOLDER/0-own.json.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tailcut.channels import score

# What the other process takes to start; where it died, this one must not wait for torch's half hour.
WAIT = timedelta(seconds=90)


def network() -> nn.Module:
    """The same in both processes."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Tanh()]
    return nn.Sequential(*layers).double()


def batches() -> list[Tensor]:
    """All batches; process 1 has the last."""
    noise = torch.Generator().manual_seed(1)
    return [torch.rand(size, 3, 9, 9, generator=noise, dtype=torch.float64) for size in (4, 2, 3, 5)]


def score_together(rank: int, folder: Path) -> None:
    """What one process does."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=WAIT
    )
    try:
        own = batches()[:3] if rank == 0 else batches()[3:]
        model = DistributedDataParallel(network())
        score(model, own).save(folder / f"{rank}.json")
        score(model, own if rank == 0 else []).save(folder / f"{rank}-alone.json")
        if rank == 0:
            score(model, own, all_processes=False).save(folder / "0-own.json")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    score_together(int(sys.argv[1]), Path(sys.argv[2]))
