"""Metrics per image, and their exact mean over any number of batches and processes."""

from collections.abc import Callable

import torch
from torch import Tensor

from tailcut.errors import ArgumentError
from tailcut.transform.exact import exact

PerImage = Callable[[Tensor, Tensor], Tensor]


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for each image whose largest output is its class, else 0; their mean is the top-1 accuracy.

    An output that is no number (NaN) makes the image wrong.

    Args:
        outputs: (batch, classes).
        targets: int64 (batch,).

    Returns:
        float64 (batch,).

    Raises:
        ArgumentError: the shapes do not fit.
    """
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1]:
        raise ArgumentError(
            f"accuracy needs outputs (batch, classes) and targets (batch,), got {tuple(outputs.shape)} "
            f"and {tuple(targets.shape)}"
        )
    return exact((outputs.argmax(dim=1) == targets) & ~has_nan(outputs))


def top5_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for each image whose class is among its five largest outputs, else 0; ImageNet's second figure.

    Args:
        outputs: (batch, classes), at least 5 classes.
        targets: int64 (batch,).

    Returns:
        float64 (batch,).

    Raises:
        ArgumentError: the shapes do not fit.
    """
    if outputs.ndim != 2 or outputs.shape[1] < 5 or targets.shape != outputs.shape[:1]:
        raise ArgumentError(
            f"top-5 accuracy needs outputs (batch, 5 classes or more) and targets (batch,), got "
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
        )
    return exact((outputs.topk(5, dim=1).indices == targets[:, None]).any(dim=1) & ~has_nan(outputs))


def dice(outputs: Tensor, targets: Tensor) -> Tensor:
    """Dice's coefficient 2 |A and B| / (|A| + |B|) of each image's mask; 1 where both masks are empty.

    It is 0 where an output is no number (NaN).

    Args:
        outputs: (batch, 2, height, width), foreground where the second output is larger; or (batch, 1,
            height, width), foreground where it is above 0.
        targets: (batch, height, width) of 0 and 1.

    Returns:
        float64 (batch,).

    Raises:
        ArgumentError: the shapes do not fit.
    """
    predicted = foreground(outputs)
    if targets.shape != predicted.shape:
        raise ArgumentError(
            f"Dice needs masks {tuple(predicted.shape)} for outputs {tuple(outputs.shape)}, got {tuple(targets.shape)}"
        )
    actual = targets > 0
    common = exact((predicted & actual).sum(dim=(1, 2)))
    both = exact(predicted.sum(dim=(1, 2))) + exact(actual.sum(dim=(1, 2)))
    found = torch.where(both == 0, 1.0, 2 * common / both.clamp(min=1))
    return torch.where(has_nan(outputs).to(found.device), 0.0, found)


def check_answers(outputs: Tensor, what: str = "the network's outputs") -> None:
    """Raise `ArgumentError` if outputs say nothing: one is NaN, or that of a class above all numbers.

    Those below all numbers leave classes out, and masks only ask which side an output is on.
    """
    if bool(outputs.isnan().any()) or (outputs.ndim == 2 and bool((outputs == torch.inf).any())):
        raise ArgumentError(f"{what} are no numbers (NaN or infinite): its training diverged, or its file is damaged")


def has_nan(outputs: Tensor) -> Tensor:
    """Return for each image of a batch whether one of its outputs is no number: bool (batch,)."""
    return outputs.isnan().flatten(1).any(dim=1)


def foreground(outputs: Tensor) -> Tensor:
    """Return the masks that a network's outputs stand for.

    Args:
        outputs: (batch, 1 or 2, height, width); see `dice`.

    Returns:
        bool (batch, height, width).

    Raises:
        ArgumentError: the outputs have another shape.
    """
    if outputs.ndim != 4 or outputs.shape[1] not in (1, 2):
        raise ArgumentError(f"a mask needs outputs (batch, 1 or 2, height, width), got {tuple(outputs.shape)}")
    return outputs[:, 0] > 0 if outputs.shape[1] == 1 else outputs.argmax(dim=1) > 0


METRICS: dict[str, tuple[str, PerImage]] = {
    "classification": ("accuracy", accuracy),
    "segmentation": ("dice", dice),
}
MANY_CLASSES = 100


def metrics_for(task: str, num_classes: int) -> dict[str, PerImage]:
    """Return the metrics of a task, the main one first; with 100 or more classes top-5 accuracy is one of them.

    Args:
        task: a key of `METRICS`.
        num_classes: of the data set.
    """
    name, figure = METRICS[task]
    if task == "classification" and num_classes >= MANY_CLASSES:
        return {name: figure, "top5_accuracy": top5_accuracy}
    return {name: figure}


class StreamingMean:
    """The mean of figures that come batch by batch.

    Attributes:
        state: float64 (2,), the sum of all figures and how many there were. Sums of 0 and 1 are exact, so an
            accuracy does not depend on the size of batches; states of several processes may be added.
    """

    def __init__(self) -> None:
        self.state = torch.zeros(2, dtype=torch.float64)

    def update(self, figures: Tensor) -> None:
        """Add the figures of a batch, (batch,)."""
        batch = torch.stack([exact(figures).sum().cpu(), torch.tensor(float(len(figures)), dtype=torch.float64)])
        self.state += batch

    def value(self) -> float:
        """Return the mean of all values so far.

        Raises:
            ArgumentError: there were none.
        """
        if self.state[1] == 0:
            raise ArgumentError("the mean of no figures is not defined; update with at least one image")
        return float(self.state[0] / self.state[1])


class ClassCounts:
    """Counts of images per class: as predicted by a network, and as labelled.

    Args:
        num_classes: of the data set.

    Attributes:
        state: float64 (2, num_classes), given and true; states of several processes may be added.
    """

    def __init__(self, num_classes: int) -> None:
        self.state = torch.zeros(2, num_classes, dtype=torch.float64)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs (batch, classes), targets int64 (batch,)."""
        num_classes = self.state.shape[1]
        for row, numbers in zip(self.state, (outputs.argmax(dim=1), targets), strict=True):
            row += torch.bincount(numbers.cpu(), minlength=num_classes)

    def only_class(self) -> int | None:
        """Return the class predicted for all images although they have several, or None."""
        given, true = (row.nonzero().flatten().tolist() for row in self.state)
        return given[0] if len(given) == 1 and len(true) > 1 else None
