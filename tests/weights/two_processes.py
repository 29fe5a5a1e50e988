"""One of two processes that train a regularised network together: python two_processes.py RANK FOLDER.

Each trains on its half of the batch through three cuts, and leaves what it saw in FOLDER/RANK.pt.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from tailcut.weights import TailTruncation, regularize

History = list[dict[str, Tensor]]
IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CLASSES = torch.arange(8) % 5


class Net(nn.Module):
    """In float64, with a buffer, and without batch norm, whose statistics are each process's own."""

    scale: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3)
        self.register_buffer("scale", torch.ones(8, 1, 1))
        self.head = nn.Linear(8 * 16, 5)
        self.double()
        regularize(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head((functional.relu(self.conv(x)) * self.scale).flatten(1))
        return logits


def train(model: nn.Module, inner: Net, part: slice) -> History:
    """Train `model`, which is `inner` or wraps it; the gradients and the state after each step."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = TailTruncation(inner, num_kept=9, num_steps=3, spacing="geometric", optimizer=optimizer)
    history = []
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(model(IMAGES[part]), CLASSES[part]).backward()
        gradients = {
            f"gradient of {name}": value.grad.clone()
            for name, value in inner.named_parameters()
            if value.grad is not None
        }
        optimizer.step()
        schedule.step()
        history.append(gradients | {name: value.clone() for name, value in inner.state_dict().items()})
    return history


def alone() -> History:
    """One process, on the joint batch."""
    model = Net(seed=0)
    return train(model, model, slice(None))


def together(rank: int, folder: Path) -> list[History]:
    """This process's part: once with a graph that is told to be static, once without."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=90)
    )
    histories = []
    for static_graph in (False, True):
        model = Net(seed=rank)  # different ones: that of the first process counts
        parallel = DistributedDataParallel(model, static_graph=static_graph)
        histories.append(train(parallel, model, slice(4 * rank, 4 * rank + 4)))
    torch.distributed.destroy_process_group()
    return histories


if __name__ == "__main__":
    torch.set_num_threads(1)
    own_rank, own_folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.save(together(own_rank, own_folder), own_folder / f"{own_rank}.pt")
