"""Sample images of a data set with a network's predictions, for display."""

import torch
from torch import Tensor, nn

from tailcut.data import Dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.class_check import check_class_names
from tailcut.evaluation.evaluate import check_outputs, run_forward, runnable
from tailcut.evaluation.metrics.class_metrics import METRICS, check_answers, dice, foreground
from tailcut.evaluation.pixel_inputs import reader_of

PredictedSample = tuple[int, Tensor, Tensor, Tensor, float]


def predict_samples(model: nn.Module, dataset: Dataset, num: int) -> list[PredictedSample]:
    """Return a network's predictions for some images, evenly spread over the data set. The model is not changed.

    Args:
        model: a network whose images and outputs fit the data set.
        dataset: images with classes or masks.
        num: how many images, at least 1; all if there are fewer.

    Returns:
        Per image its position; itself, (channels, height, width), 0 to 1; its class, (), or its mask of 0 and 1,
        (height, width); the same by the network; and the probability that the network gives its class, or the Dice
        coefficient of its mask.

    Raises:
        ArgumentError: the network does not fit the images, the targets or the classes' names, or the data set has
            objects.
    """
    if dataset.task not in METRICS:
        raise ArgumentError(f"{dataset.name} has boxes of objects: draw what a detector finds with tailcut predict")
    if num < 1:
        raise ArgumentError(f"expected at least 1 image, got {num}")
    check_class_names(model, dataset)
    network = runnable(model, "cpu")
    read = reader_of(network, dataset)
    num = min(num, len(dataset))
    samples = []
    # One at a time: photos differ in size, and batch norm may depend on the whole batch.
    for position in (place * len(dataset) // num for place in range(num)):
        image, target = dataset[position]
        outputs = run_forward(network, read(image[None]))
        check_outputs(outputs, dataset)
        check_answers(outputs)
        predict = _mask if dataset.task == "segmentation" else _class
        samples.append((position, image, target, *predict(outputs, target)))
    return samples


def _mask(outputs: Tensor, target: Tensor) -> tuple[Tensor, float]:
    return foreground(outputs)[0], float(dice(outputs, target[None]))


def _class(outputs: Tensor, _: Tensor) -> tuple[Tensor, float]:
    best = outputs[0].argmax()
    return best, float(torch.softmax(outputs[0].double(), dim=0)[best])
