"""Prediction: masks as images, classes as a table."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tailcut.data import read_image, write_mask
from tailcut.data.images import image_file_size
from tailcut.errors import ArgumentError
from tailcut.evaluation.evaluate import (
    choose_device,
    file_at_level,
    run_forward,
    runnable,
    within_memory,
)
from tailcut.evaluation.metrics.class_metrics import check_answers, foreground
from tailcut.evaluation.pixel_inputs import reader_of
from tailcut.files import made_folder
from tailcut.format import load
from tailcut.structure import MAX_INPUT_PIXELS, check_pixels, device_of, name_of
from tailcut.tasks.prediction.outputs import PredictReport, check_table, paths_of_output, read_each, write_table
from tailcut.tasks.prediction.reading import ImageSize, image_size_of, read_as_trained

NUM_BEST = 3


def predict(
    model: nn.Module,
    images: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    device: torch.device | str | None = None,
    invert: bool = False,
    dense: bool = False,
    name: str = "",
    max_input_pixels: int = MAX_INPUT_PIXELS,
) -> PredictReport:
    """Run a network on image files. The model is not changed.

    A network of classes, or with fully connected layers, gets the images resized to its size, as in its training (see
    `tailcut.inputs.set_image_size`): the whole squashed, or the middle. Any other gets
    them in their own size, enlarged to its example shape where they are smaller. Masks have the size of their image.

    Args:
        model: a network of a registered family (its example shape gives channels and size).
        images: PNG or JPEG files.
        out: folder for the masks (PNG, foreground white, named like the image) or for the classes
            (`predictions.json`); made if needed. Masks need it.
        device: where to run; where the model is when None.
        invert: take 1 - pixels: for dark digits on light paper, where the network learned light on dark.
        dense: run with dense weights instead of fused; see `evaluation.runnable`.
        name: what the report calls the model.
        max_input_pixels: the most pixels of the images that the network may ask for.

    Raises:
        LimitError: the network asks for larger images.
        ArgumentError: the network is of no registered family, or gives neither classes nor masks, or masks without
            `out`, or outputs that are no numbers, or two images whose masks would have one name.
        DataError: an image cannot be read; within `tailcut.data.reading(on_error="skip")` it is left out instead.
    """
    start = time.perf_counter()
    size = image_size_of(model, "predict")
    check_pixels(model, size.height_width, max_input_pixels)
    device = device_of(model) if device is None else device
    network = runnable(model, device, dense=dense)
    read = reader_of(network)
    example = _answers(run_forward(network, read(torch.zeros(1, size.channels, *size.height_width, device=device))))
    resized = example.ndim == 2 or any(isinstance(module, nn.Linear) for module in network.modules())
    paths, folder = [Path(image) for image in images], None if out is None else Path(out)
    if folder is not None:
        check_table(folder)
    masks = paths_of_output(paths, _folder_of_masks(folder), "mask") if example.ndim == 4 else None
    predictions, skipped = [], list[dict[str, Any]]()
    with made_folder(folder):
        for path, image in read_each(paths, partial(_read, size=size, resized=resized, invert=invert), skipped):
            with within_memory(image):
                inputs = read(image.to(device))
            outputs = _answers(run_forward(network, inputs))
            check_answers(outputs, f"the network's outputs for {path}")
            predictions.append(_class(path, outputs[0], model) if masks is None else _mask(path, outputs, masks[path]))
        task = "classification" if masks is None else "segmentation"
        report = PredictReport(name, task, predictions, time.perf_counter() - start, skipped)
        if folder is not None and masks is None:
            write_table(folder, report)
    return report


def _folder_of_masks(folder: Path | None) -> Path:
    if folder is None:
        raise ArgumentError("this network makes masks; name a folder for them (-o DIR)")
    return folder


def predict_file(
    file: str | Path,
    images: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    device: str = "auto",
    invert: bool = False,
    dense: bool = False,
    max_input_pixels: int = MAX_INPUT_PIXELS,
    level: int | None = None,
) -> PredictReport:
    """Load a .tailcut file (or `zoo:NAME`) of a registered model and `predict` with it."""
    place = choose_device(device)
    model = load(file, device=str(place), level=level)
    return predict(
        model,
        images,
        out,
        device=place,
        invert=invert,
        dense=dense,
        name=file_at_level(file, level),
        max_input_pixels=max_input_pixels,
    )


def _read(path: Path, size: ImageSize, *, resized: bool, invert: bool) -> Tensor:
    """Return the image as a batch of one: (1, channels, height, width)."""
    if resized:
        image = read_as_trained(path, size)
    else:
        height, width = image_file_size(path)
        least_height, least_width = size.height_width
        image = read_image(path, channels=size.channels, size=(max(height, least_height), max(width, least_width)))
    return 1 - image if invert else image


def _answers(outputs: Tensor) -> Tensor:
    """Return the outputs for one image, (1, classes) or (1, classes, height, width); else raise `ArgumentError`."""
    if outputs.ndim not in (2, 4) or outputs.shape[0] != 1:
        raise ArgumentError(
            "predict needs outputs of shape (1, classes), or (1, classes, height, width) for masks; for one image "
            f"the network gives {tuple(outputs.shape)}"
        )
    if outputs.shape[1:] == (1,):
        raise ArgumentError("predict shows the most likely of two classes or more; the network gives one number")
    return outputs.cpu().float()


def _class(path: Path, outputs: Tensor, model: nn.Module) -> dict[str, Any]:
    probabilities = outputs.softmax(dim=0)
    values, classes = probabilities.topk(min(NUM_BEST, len(probabilities)))
    best = [
        {"class_number": number, "class_name": name_of(model, number, len(outputs)), "probability": value}
        for number, value in zip(classes.tolist(), values.tolist(), strict=True)
    ]
    return {"image": str(path), **best[0], "best": best}


def _mask(path: Path, outputs: Tensor, mask_path: Path) -> dict[str, Any]:
    size = image_file_size(path)
    if tuple(outputs.shape[2:]) != size:
        outputs = interpolate(outputs, size=size, mode="bilinear")
    mask = foreground(outputs)[0]
    write_mask(mask_path, mask)
    return {"image": str(path), "mask": str(mask_path), "foreground_ratio": float(mask.double().mean())}
