"""What a training step costs when the weights are coefficients, over keep_ratio; the plain network's step is 1."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import Timing, compare
from bench.transform import idct_by_torch_dct
from tailcut.structure import create_model
from tailcut.weights import kept_counts, regularize

KEEP_RATIOS = (1.0, 0.5, 0.1, 0.03, 0.01, 0.001)
# A step at most this many times as long as the plain one is called cheap in the notes.
CHEAP = 1.5
PLAIN = "plain"
LEARNING_RATE = 1e-4
WHOLE_FFT = "all, torch-dct"

Step = Callable[[], None]


@dataclass(frozen=True)
class Task:
    """One network, one batch.

    Attributes:
        title: for people.
        make: a fresh plain network.
        inputs: a batch.
        targets: class numbers that fit its output.
        smallest: coefficients per weight in the paper's smallest network.
    """

    title: str
    make: Callable[[], nn.Module]
    inputs: torch.Tensor
    targets: torch.Tensor
    smallest: int


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return one table per network and batch."""
    torch.manual_seed(0)
    tasks = [_lenet5_task(batch) for batch in scale.lenet_batches] + [_unet_task(scale)]
    return [_curve(task, scale, machine) for task in tasks]


class WholeFFT(nn.Module):
    """The published code's way: a masked tensor of the weight's shape, and an FFT along each axis."""

    mask: torch.Tensor

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(shape))

    def forward(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Coefficients, in the weight's shape, to the weight."""
        return idct_by_torch_dct(coefficients * self.mask)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """Do nothing: the values of the weights do not matter here."""
        return weight


def _lenet5_task(batch: int) -> Task:
    return Task(
        f"LeNet-5, batch {batch}",
        lambda: create_model("lenet5"),
        torch.rand(batch, 1, 28, 28),
        torch.randint(10, (batch,)),
        smallest=194,
    )


def _unet_task(scale: Scale) -> Task:
    side = scale.image_size
    return Task(
        f"UNet, batch 2, {side} x {side} pixels",
        lambda: create_model("unet", **scale.unet_arguments()),
        torch.rand(2, 3, side, side),
        torch.randint(2, (2, side, side)),
        smallest=33,
    )


def _curve(task: Task, scale: Scale, machine: Machine) -> Table:
    models: dict[str, nn.Module] = {PLAIN: task.make(), WHOLE_FFT: _with_whole_fft(task.make())}
    models |= {f"{ratio:g}": _regularized(task.make(), keep_ratio=ratio) for ratio in KEEP_RATIOS}
    models[f"{task.smallest} each"] = _regularized(task.make(), num_kept=task.smallest)
    steps = {name: make_step(model, task.inputs, task.targets) for name, model in models.items()}
    timings = compare(steps, scale, share=4)
    num_operations = {name: _count_operations(step) for name, step in steps.items()}
    rows = [_row(name, models[name], timings, num_operations[name], machine) for name in steps]
    return Table(
        f"A training step of {task.title} (forward, backward, Adam)",
        {
            "kept": "",
            "coefficients": ",d",
            "step ms": ".1f",
            "step / plain": ".2f",
            "GFLOP/s": ".1f",
            "of limit %": ".0f",
            "runs": "d",
        },
        rows,
        (_advice(timings), "GFLOP/s: matrix products and convolutions of a step; FFTs are not counted."),
    )


def _weights(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}


def _regularized(model: nn.Module, keep_ratio: float | None = None, num_kept: int | None = None) -> nn.Module:
    """`num_kept` is a count for each weight; of smaller ones all is kept."""
    counts = None if num_kept is None else {name: min(num_kept, w.numel()) for name, w in _weights(model).items()}
    regularize(model, keep_ratio=keep_ratio, num_kept=counts)
    return model


def _with_whole_fft(model: nn.Module) -> nn.Module:
    for name, weight in _weights(model).items():
        path, _, attribute = name.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(path), attribute, WholeFFT(weight.shape))
    return model


def make_step(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Step:
    """Return a training step of a network on a batch, with Adam, as something to time."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return step


def _count_operations(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def _row(name: str, model: nn.Module, timings: Mapping[str, Timing], num_operations: int, machine: Machine) -> Row:
    seconds = timings[name].median_s
    return {
        "kept": name,
        "coefficients": sum(kept_counts(model).values()) if name not in (PLAIN, WHOLE_FFT) else None,
        "step ms": 1e3 * seconds,
        "step / plain": seconds / timings[PLAIN].median_s,
        "GFLOP/s": num_operations / seconds / 1e9,
        "of limit %": 100 * num_operations / seconds / machine.product_rate,
        "runs": timings[name].num_repetitions,
    }


def _advice(timings: Mapping[str, Timing]) -> str:
    """Where the curve is cheap."""
    relative = {ratio: timings[f"{ratio:g}"].median_s / timings[PLAIN].median_s for ratio in KEEP_RATIOS}
    cheap = [ratio for ratio, cost in relative.items() if cost <= CHEAP]
    text = f"At keep_ratio 1 a step costs {relative[1.0]:.2f} times a plain one"
    if not cheap:
        lowest = min(relative.values())
        return f"{text}; no ratio costs less than {CHEAP:g} times (the least: {lowest:.2f})."
    if max(cheap) == 1:
        return f"{text}: start there."
    return f"{text}; from {max(cheap):g} down at most {CHEAP:g} times: start there rather than at 1."
