"""Adversarial attacks on a classifier: its accuracy under FGSM and PGD over the size of the perturbation.

FGSM: Goodfellow et al., "Explaining and Harnessing Adversarial Examples" (2014). PGD: Madry et al., "Towards Deep
Learning Models Resistant to Adversarial Attacks" (2017). Images have pixels in 0..1, epsilon is in the same units,
and what an attack makes is clamped to 0..1: it is a valid image.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tailcut.data import Dataset, Roots, open_dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.class_check import check_class_names
from tailcut.evaluation.evaluate import (
    PROGRESS_INTERVAL,
    check_no_detector,
    check_outputs,
    choose_device,
    fitting,
    run_forward,
    runnable,
    uses_batch_statistics,
)
from tailcut.evaluation.metrics.class_metrics import StreamingMean, accuracy
from tailcut.evaluation.pixel_inputs import ImageReader
from tailcut.format import load
from tailcut.plotting import check_figure_path, new_figure, write_figure
from tailcut.printing import Report, table
from tailcut.reports.networks import check_named_once
from tailcut.runtime.progress import Progress, live_progress
from tailcut.structure import device_of

Attack = Literal["fgsm", "pgd"]

ATTACKS: tuple[Attack, ...] = ("fgsm", "pgd")
EPSILONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)  # those of the paper's Table 8
NUM_STEPS = 10
REACH = 2.5  # all steps of PGD together reach this many epsilon, as in Madry et al.
BATCH_SIZE = 250
FIGURE = "the curves of an attack"


@dataclass(frozen=True)
class AttackPlan:
    """Settings of an attack: method and strength.

    Attributes:
        method: `fgsm` or `pgd`, which starts at random.
        epsilons: the most that a pixel may change, pixels being in 0..1.
        steps: of PGD, 10 when None; FGSM has one.
        step_size: what a step of PGD changes, at every epsilon; 2.5 epsilon / steps when None. All steps together
            cannot reach further than `steps * step_size`.
        seed: of the places where PGD starts.

    Raises:
        ArgumentError: one of them is out of range.
    """

    method: Attack = "fgsm"
    epsilons: Sequence[float] = EPSILONS
    steps: int | None = None
    step_size: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in ATTACKS:
            raise ArgumentError(f"the attack must be one of {', '.join(ATTACKS)}; got {self.method!r}")
        if self.method == "fgsm" and (self.steps is not None or self.step_size is not None):
            raise ArgumentError("FGSM has one step, of epsilon: steps and step size are those of PGD")
        if not self.epsilons:
            raise ArgumentError("give at least one epsilon")
        for epsilon in self.epsilons:
            _check_epsilon(epsilon)
            step_size_of(epsilon, self.num_steps, self.step_size)

    @property
    def num_steps(self) -> int:
        """Steps of the method."""
        if self.method == "fgsm":
            return 1
        return NUM_STEPS if self.steps is None else self.steps

    @property
    def step_sizes(self) -> list[float]:
        """Return the step size for each epsilon."""
        if self.method == "fgsm":
            return [float(epsilon) for epsilon in self.epsilons]
        return [step_size_of(epsilon, self.num_steps, self.step_size) for epsilon in self.epsilons]


@dataclass
class AttackCurve(Report):
    """One network under attack.

    Attributes:
        source: the file, as it was given.
        accuracies: its accuracy at each epsilon, 0 to 1.
    """

    source: str
    accuracies: list[float]


@dataclass
class AttackReport(Report):
    """The accuracy of networks under an attack.

    Attributes:
        data: name of the data set.
        split: its split; a part of it has the numbers of the images behind it.
        num_images: how many images.
        method: `fgsm` or `pgd`.
        epsilons: the most that a pixel may change, pixels being in 0..1.
        steps: of PGD; 1 for FGSM.
        step_sizes: of each epsilon: how much a step changes a pixel.
        curves: one per network.
        seconds: time of it all.
    """

    data: str
    split: str
    num_images: int
    method: str
    epsilons: list[float]
    steps: int
    step_sizes: list[float]
    curves: list[AttackCurve]
    seconds: float

    def __str__(self) -> str:
        """Return one row per epsilon."""
        header = ("epsilon", "step size", *(curve.source for curve in self.curves))
        text = table(header, self.cells(), align=">" * len(header))
        steps = "" if self.method == "fgsm" else f", {self.steps} steps"
        return f"{text}\n\n{self.method}{steps}: accuracy on {self.num_images:,} images of {self.data}, {self.split}"

    def cells(self) -> list[tuple[str, ...]]:
        """Of each epsilon: itself, the step size, and the accuracy of each network, as text."""
        return [
            (f"{epsilon:g}", f"{size:g}", *(f"{100 * curve.accuracies[place]:.2f} %" for curve in self.curves))
            for place, (epsilon, size) in enumerate(zip(self.epsilons, self.step_sizes, strict=True))
        ]


def fgsm(model: nn.Module, images: Tensor, targets: Tensor, epsilon: float) -> Tensor:
    """Images moved by epsilon against the network: x + epsilon sign(gradient of the loss), clamped to 0..1.

    The model is not changed; it runs in the mode that it is in.

    Args:
        model: a classifier.
        images: (batch, channels, height, width), pixels in 0..1.
        targets: int64 (batch,), the true classes.
        epsilon: at least 0.

    Returns:
        (batch, channels, height, width).
    """
    _check_epsilon(epsilon)
    return (images + epsilon * _gradient(model, images, targets).sign()).clamp(0, 1)


def pgd(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    epsilon: float,
    *,
    steps: int = NUM_STEPS,
    step_size: float | None = None,
    noise: torch.Generator | None = None,
) -> Tensor:
    """Images moved against the network in several steps, none further than epsilon from where it was.

    Each step is one of `fgsm` by `step_size`, after which the change is clamped to -epsilon..epsilon and the image to
    0..1. The model is not changed; it runs in the mode that it is in.

    Args:
        model: a classifier.
        images: (batch, channels, height, width), pixels in 0..1.
        targets: int64 (batch,), the true classes.
        epsilon: at least 0.
        steps: how many, at least 1.
        step_size: 2.5 epsilon / steps when None.
        noise: start from a random place within epsilon, drawn on the CPU; from the image itself when None.

    Returns:
        (batch, channels, height, width).
    """
    _check_epsilon(epsilon)
    size = step_size_of(epsilon, steps, step_size)
    lowest, highest = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    moved = images.clone()
    if noise is not None:
        start = torch.rand(images.shape, generator=noise, dtype=images.dtype).to(images.device)
        moved = (moved + epsilon * (2 * start - 1)).clamp(0, 1)
    for _ in range(steps):
        moved = moved + size * _gradient(model, moved, targets).sign()
        moved = torch.minimum(torch.maximum(moved, lowest), highest)
    return moved


def step_size_of(epsilon: float, steps: int, step_size: float | None) -> float:
    """Return the change of a pixel by one step of PGD: `step_size`, or 2.5 epsilon / steps when that is None.

    Raises:
        ArgumentError: a number is out of range.
    """
    if steps < 1 or (step_size is not None and not 0 < step_size < math.inf):
        raise ArgumentError(f"PGD needs at least 1 step of a size above 0, got {steps} steps, step size {step_size}")
    return REACH * epsilon / steps if step_size is None else step_size


def accuracies_under_attack(
    model: nn.Module,
    dataset: Dataset,
    plan: AttackPlan,
    *,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str | None = None,
    bar: Progress | None = None,
) -> list[float]:
    """Return the accuracy of a classifier at each epsilon. The model is not changed: a dense copy of it is attacked.

    Args:
        model: any classifier, regularised or not.
        dataset: images and classes.
        plan: the attack.
        batch_size: images per forward; always 1 for a network whose batch norm uses the statistics of the batch.
        device: where to run; where the model is when None.
        bar: shown how many images are done.

    Returns:
        One accuracy per epsilon, 0 to 1.

    Raises:
        ArgumentError: the network does not fit the data set, or names its classes otherwise.
    """
    if dataset.task != "classification":
        raise ArgumentError(f"attacks need a data set of classes; the targets of {dataset.name} are for {dataset.task}")
    check_class_names(model, dataset)
    device = device_of(model) if device is None else device
    network = ImageReader(runnable(model, device, dense=True)).requires_grad_(False)
    batch_size = 1 if uses_batch_statistics(network) else batch_size
    noise = torch.Generator().manual_seed(plan.seed)
    means = [StreamingMean() for _ in plan.epsilons]
    positions = dataset.in_order(batch_size)
    for place, batch in zip(positions, dataset.batches(positions), strict=True):
        images, targets = (tensor.to(device) for tensor in batch)
        check_outputs(run_forward(network, images), dataset)
        for mean, moved in zip(means, _attacked(network, images, targets, plan, noise), strict=True):
            mean.update(accuracy(run_forward(network, moved), targets))
        if bar is not None:
            bar.show(place.stop)
    return [mean.value() for mean in means]


def attack_files(
    files: Sequence[str | Path],
    data: str,
    split: str | None = None,
    *,
    plan: AttackPlan,
    num_images: int | None = None,
    out: str | Path | None = None,
    roots: Roots = None,
    download: bool = False,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
) -> AttackReport:
    """Attack the networks of .tailcut files (or `zoo:NAME`) and draw their curves.

    Args:
        files: one or more.
        data: name of the data set.
        split: one of its splits; its test split when None.
        plan: the attack.
        num_images: attack the first of the split only; all when None.
        out: a PNG of the curves.
        roots: data roots to try first.
        download: fetch the data set if it lies nowhere.
        batch_size: images per forward.
        device: see `choose_device`.

    Raises:
        ArgumentError: a network does not fit the data set or is given twice, there are not so many images, or the PNG
            cannot be written.
        DataNotFoundError: the data set lies nowhere.
        MissingExtraError: the curves cannot be drawn without matplotlib.
    """
    start, place = time.perf_counter(), choose_device(device)
    if out is not None:
        check_figure_path(out, FIGURE)
    check_named_once(files)
    dataset = open_dataset(data, split, roots=roots, download=download)
    if num_images is not None:
        if not 0 < num_images <= len(dataset):
            raise ArgumentError(
                f"num_images must be 1 to {len(dataset):,}, the images of {data}, split {dataset.split}, "
                f"got {num_images}"
            )
        dataset = dataset.part(0, num_images)
    curves = []
    for file in files:
        model = load(file, device=place)
        check_no_detector(model, "attack")
        with live_progress(True, f"images of {file}", len(dataset), interval=PROGRESS_INTERVAL) as bar:
            found = accuracies_under_attack(model, dataset, plan, batch_size=batch_size, device=place, bar=bar)
        curves.append(AttackCurve(str(file), found))
    report = AttackReport(
        data=dataset.name,
        split=dataset.split,
        num_images=len(dataset),
        method=plan.method,
        epsilons=list(plan.epsilons),
        steps=plan.num_steps,
        step_sizes=plan.step_sizes,
        curves=curves,
        seconds=time.perf_counter() - start,
    )
    if out is not None:
        draw_curves(report, out)
    return report


def draw_curves(report: AttackReport, path: str | Path) -> None:
    """Draw the accuracy of each network over epsilon as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(FIGURE, (6, 4))
    panel = figure.subplots()
    for curve in report.curves:
        # Matplotlib leaves names that begin with an underscore out of a legend.
        label = f"./{curve.source}" if curve.source.startswith("_") else curve.source
        panel.plot(report.epsilons, [100 * value for value in curve.accuracies], marker="o", label=label)
    panel.set(title=f"{report.method} on {report.data}, {report.split}", xlabel="epsilon", ylabel="accuracy in %")
    panel.set_ylim(bottom=0)
    panel.grid(visible=True, alpha=0.3)
    panel.legend()
    write_figure(figure, path)


def _attacked(
    model: nn.Module, images: Tensor, targets: Tensor, plan: AttackPlan, noise: torch.Generator
) -> Iterator[Tensor]:
    signs = _gradient(model, images, targets).sign() if plan.method == "fgsm" else None
    for epsilon, size in zip(plan.epsilons, plan.step_sizes, strict=True):
        if signs is not None:  # one gradient serves every epsilon
            yield (images + epsilon * signs).clamp(0, 1)
        elif epsilon == 0:
            yield images
        else:
            yield pgd(model, images, targets, epsilon, steps=plan.num_steps, step_size=size, noise=noise)


def _gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the loss for each image. Losses are summed, so that none depends on its batch."""
    with torch.inference_mode(False), torch.enable_grad(), fitting(images):
        x = images.detach().clone().requires_grad_()
        loss = cross_entropy(model(x), targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def _check_epsilon(epsilon: float) -> None:
    if not 0 <= epsilon <= 1:
        raise ArgumentError(f"epsilon must be 0 to 1, the range of pixels; got {epsilon}")
