"""One of two processes that train a network for bytes together: python train_two_processes.py RANK FOLDER.

Each step takes two batches. Process RANK leaves its numbers and steps in FOLDER/RANK.pt; then it opens a block for each
batch, and leaves what it was told in FOLDER/RANK.txt.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from tailcut import RateLoss
from tailcut.errors import ArgumentError

# What the other process takes to start; where it died, this one must not wait for torch's half hour.
WAIT = timedelta(seconds=90)
STEPS = 5


def network() -> nn.Module:
    """The same in both processes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


def batch(rank: int, step: int, part: int) -> tuple[Tensor, Tensor]:
    """A batch of its own for each process, step and part of the step."""
    noise = torch.Generator().manual_seed(100 * rank + 10 * step + part)
    return torch.randn(6, 3, 8, 8, generator=noise), torch.randint(4, (6,), generator=noise)


def train(rank: int, model: DistributedDataParallel, rate_loss: RateLoss) -> None:
    """As the documentation says: one block around the batches of a step."""
    optimizer = rate_loss.optimizer(torch.optim.SGD, lr=0.5)
    for step in range(STEPS):
        optimizer.zero_grad()
        with rate_loss.rounded():
            images, labels = batch(rank, step, 0)
            with model.no_sync():
                cross_entropy(model(images), labels).backward()
            images, labels = batch(rank, step, 1)
            (cross_entropy(model(images), labels) + rate_loss()).backward()
        optimizer.step()


def train_in_several_blocks(rank: int, model: DistributedDataParallel, rate_loss: RateLoss) -> str:
    """A block for each batch; returns what that is told."""
    rate_loss.zero_grad()
    model.zero_grad()
    images, labels = batch(rank, 0, 0)
    with model.no_sync(), rate_loss.rounded():
        (cross_entropy(model(images), labels) + rate_loss()).backward()
    with rate_loss.rounded():  # one without a backward changes no gradient
        model(images)
    try:
        with rate_loss.rounded():
            (cross_entropy(model(images), labels) + rate_loss()).backward()
    except ArgumentError as error:
        return str(error)
    return "nothing"


def run(rank: int, folder: Path) -> None:
    """What one process does."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=WAIT
    )
    try:
        model = DistributedDataParallel(network())
        rate_loss = RateLoss(model.module, target_bytes=900, num_steps=2 * STEPS)
        train(rank, model, rate_loss)
        state = {**model.module.state_dict(), "log_steps": rate_loss.log_steps.detach()}
        torch.save(state, folder / f"{rank}.pt")
        (folder / f"{rank}.txt").write_text(train_in_several_blocks(rank, model, rate_loss))
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(int(sys.argv[1]), Path(sys.argv[2]))
