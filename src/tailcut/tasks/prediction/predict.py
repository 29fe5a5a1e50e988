"""Prediction: masks as images, classes as a table."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tailcut.data import leave_out, read_image, write_mask
from tailcut.data.images import image_file_size
from tailcut.errors import ArgumentError, DataError, first_line
from tailcut.evaluation.evaluate import (
    PROGRESS_INTERVAL,
    choose_device,
    device_of,
    file_at_level,
    run_forward,
    runnable,
    within_memory,
)
from tailcut.evaluation.metrics.class_metrics import check_answers, foreground
from tailcut.evaluation.pixel_inputs import image_shape, reader_of
from tailcut.files import made_folder, write_atomically
from tailcut.format import load
from tailcut.printing import Report, table
from tailcut.runtime.progress import live_progress
from tailcut.structure import MAX_INPUT_PIXELS, check_pixels, name_of

NUM_BEST = 3
TABLE_FILE = "predictions.json"


def shown_class(number: int, name: str | None) -> str:
    """Return a class as text: `3 cat`, or `3` if the network has no class names."""
    return f"{number} {name}" if name else str(number)


@dataclass
class PredictReport(Report):
    """Report of the predictions for images.

    Attributes:
        source: the file (or `zoo:NAME`), as it was given.
        task: `classification` or `segmentation`.
        predictions: one dict per image. For classes: `image`, `class_number`, `class_name` (None where the network
            was not told it), `probability` and `best` (the three likeliest classes, likewise). For masks: `image`,
            `mask` (the file) and `foreground_ratio`.
        seconds: time of it all.
        skipped: `image` and `reason` of those that were left out since they cannot be read.
    """

    source: str
    task: str
    predictions: list[dict[str, Any]]
    seconds: float
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        """Return one row per image."""
        if self.task == "segmentation":
            rows = [
                (item["image"], item["mask"], f"{100 * item['foreground_ratio']:.1f} %") for item in self.predictions
            ]
            return table(["image", "mask", "foreground"], rows, align="<<>")
        rows = [
            (item["image"], shown_class(item["class_number"], item["class_name"]), f"{100 * item['probability']:.1f} %")
            for item in self.predictions
        ]
        return table(["image", "class", "probability"], rows, align="<<>")


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

    A network of classes, or with fully connected layers, gets the images resized to its example shape; any other gets
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
    shape = _image_shape(model)
    check_pixels(model, shape[1:], max_input_pixels)
    device = device_of(model) if device is None else device
    network = runnable(model, device, dense=dense)
    read = reader_of(network)
    example = _answers(run_forward(network, read(torch.zeros(1, *shape, device=device))))
    resized = example.ndim == 2 or any(isinstance(module, nn.Linear) for module in network.modules())
    paths, folder = [Path(image) for image in images], None if out is None else Path(out)
    if folder is not None:
        check_table(folder)
    masks = paths_of_output(paths, _folder_of_masks(folder), "mask") if example.ndim == 4 else None
    predictions, skipped = [], list[dict[str, Any]]()
    with made_folder(folder):
        for path, image in read_each(paths, partial(_read, shape=shape, resized=resized, invert=invert), skipped):
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


def check_table(folder: Path) -> None:
    """Raise `ArgumentError` if a folder has a table of predictions that `write_table` did not write."""
    path = folder / TABLE_FILE
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text())
    except ValueError:  # no JSON, or no text
        content = None
    if not isinstance(content, dict) or "predictions" not in content:
        raise ArgumentError(f"{path} is no table of predictions, and would be replaced: choose another folder")


def write_table(folder: Path, report: PredictReport) -> None:
    """Write the table of the predictions into a folder."""
    write_atomically(folder / TABLE_FILE, report.to_json() + "\n")


def _folder_of_masks(folder: Path | None) -> Path:
    if folder is None:
        raise ArgumentError("this network makes masks; name a folder for them (-o DIR)")
    return folder


def read_each(
    paths: Sequence[Path], read: Callable[[Path], Tensor], skipped: list[dict[str, Any]]
) -> Iterator[tuple[Path, Tensor]]:
    """Yield the images, and show how far it is; those that cannot be read are left out, or raise, see `leave_out`.

    Raises:
        DataError: all of them were left out.
    """
    with live_progress(True, "images", len(paths), interval=PROGRESS_INTERVAL) as bar:
        for number, path in enumerate(paths, start=1):
            try:
                image = read(path)
            except DataError as error:
                leave_out(path, error)
                skipped.append({"image": str(path), "reason": first_line(error)})
                continue
            yield path, image
            bar.show(number)
    if paths and len(skipped) == len(paths):
        first = skipped[0]["reason"]
        raise DataError(f"none of the {len(paths)} images could be read; the first: {first}")


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


def _image_shape(model: nn.Module) -> tuple[int, int, int]:
    shape = image_shape(model)
    if shape is None:
        raise ArgumentError(
            "predict needs a network of a registered family that reads images, which gives their channels and size; "
            "load any other network in Python and call it there"
        )
    return shape


def _read(path: Path, shape: tuple[int, int, int], *, resized: bool, invert: bool) -> Tensor:
    """Return the image as a batch of one: (1, channels, height, width)."""
    channels, *example = shape
    least_height, least_width = example
    height, width = example if resized else image_file_size(path)
    size = (max(height, least_height), max(width, least_width))
    image = read_image(path, channels=channels, size=size)
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


def paths_of_output(images: Sequence[Path], folder: Path, what: str) -> dict[Path, Path]:
    """Return for each image the PNG in a folder that is named like it; `what` the PNG is, for messages.

    Raises:
        ArgumentError: two would have one name, or one would replace its image.
    """
    twice = [stem for stem, count in Counter(path.stem for path in set(images)).items() if count > 1]
    if twice:
        raise ArgumentError(f"several images are named {twice[0]}: their {what}s would have one name; run them apart")
    outputs = {path: folder / f"{path.stem}.png" for path in images}
    for path, output in outputs.items():
        if output.exists() and path.exists() and output.samefile(path):
            raise ArgumentError(f"the {what} of {path} would replace it; choose another folder")
    return outputs
