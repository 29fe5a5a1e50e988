"""What a training step for bytes costs beside a plain one of the same network, batch and optimiser."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import tailcut
from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import compare
from bench.training import LEARNING_RATE, Step, make_step
from tailcut.structure import create_model

NUM_STEPS = 1 << 20
"""More than any run makes: the goal of the bytes hardly moves, and steps are learned throughout."""

BITS = 4
"""Asked of the file for each parameter, so that making the `RateLoss` takes no long search."""


@dataclass(frozen=True)
class Task:
    """One network, one batch.

    Attributes:
        title: for people.
        name: of the registered network.
        shape: of a batch.
    """

    title: str
    name: str
    shape: tuple[int, ...]


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return one table, a row for each network."""
    torch.manual_seed(0)
    batch = scale.lenet_batches[-1] // 2
    tasks = [Task("LeNet-5", "lenet5", (batch, 1, 28, 28)), Task("ResNet-20", "resnet20", (batch, 3, 32, 32))]
    if not scale.is_tiny:
        tasks.append(Task("VGG-16-BN", "vgg16_bn_cifar", (batch, 3, 32, 32)))
    return [
        Table(
            f"A training step for bytes, batch {batch} (forward, backward, Adam)",
            {
                "network": "",
                "parameters": ",d",
                "plain ms": ".1f",
                "for bytes ms": ".1f",
                "for bytes / plain": ".2f",
                "ns more, each parameter": ".0f",
                "runs": "d",
            },
            [_row(task, scale) for task in tasks],
            ("What a step for bytes adds does not grow with the images of a batch.",),
        )
    ]


def _row(task: Task, scale: Scale) -> Row:
    inputs, targets = torch.rand(task.shape), torch.randint(10, task.shape[:1])
    plain, trained = create_model(task.name), create_model(task.name)
    timings = compare(
        {"plain": make_step(plain, inputs, targets), "bytes": _step_for_bytes(trained, inputs, targets)}, scale
    )
    usual, seconds = timings["plain"].median_s, timings["bytes"].median_s
    num_parameters = sum(parameter.numel() for parameter in plain.parameters())
    return {
        "network": task.title,
        "parameters": num_parameters,
        "plain ms": 1e3 * usual,
        "for bytes ms": 1e3 * seconds,
        "for bytes / plain": seconds / usual,
        "ns more, each parameter": 1e9 * (seconds - usual) / num_parameters,
        "runs": timings["bytes"].num_repetitions,
    }


def _step_for_bytes(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Step:
    num_bytes = BITS * sum(parameter.numel() for parameter in model.parameters()) // 8
    rate_loss = tailcut.RateLoss(model, target_bytes=num_bytes, num_steps=NUM_STEPS)
    optimizer = rate_loss.optimizer(torch.optim.Adam, lr=LEARNING_RATE)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        with rate_loss.rounded():
            (cross_entropy(model(inputs), targets) + rate_loss()).backward()
        optimizer.step()

    return step
