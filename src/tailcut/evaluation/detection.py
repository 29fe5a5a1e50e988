"""Metrics of detectors: COCO's average precision of boxes and masks, counted by pycocotools."""

import contextlib
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tailcut.data import CocoDataset, Roots, open_dataset
from tailcut.data.reading import read_ahead
from tailcut.errors import ArgumentError, DataError, MissingExtraError
from tailcut.evaluation.class_check import check_class_names
from tailcut.evaluation.evaluate import (
    PROGRESS_INTERVAL,
    EvaluateReport,
    file_at_level,
    fitting,
    own_share,
    run_in_processes,
    runnable,
)
from tailcut.format import load
from tailcut.inputs.detection.detectors import Detector
from tailcut.runtime.progress import Throughput, live_progress
from tailcut.runtime.share import Share
from tailcut.structure import MAX_INPUT_PIXELS, check_pixels

if TYPE_CHECKING:
    from tailcut.runtime.devices import Devices

# What COCOeval.summarize gives first: averaged over overlaps of 0.50 to 0.95, at 0.50, at 0.75, and by object size.
FIGURES = ("AP", "AP50", "AP75", "APS", "APM", "APL")
MASK_THRESHOLD = 0.5

Finding = dict[str, Any]
Kind = Literal["bbox", "segm"]


def evaluate_detector_file(
    path: str | Path,
    data: str,
    split: str | None = None,
    *,
    roots: Roots = None,
    batch_size: int | None = None,
    device: str = "auto",
    devices: "Devices | None" = None,
    download: bool = False,
    progress: bool = False,
    max_input_pixels: int = MAX_INPUT_PIXELS,
    workers: int | None = None,
    level: int | None = None,
) -> EvaluateReport:
    """Evaluate a .tailcut file of a detector on a data set of objects; see `evaluation.evaluate_file`.

    Raises:
        ArgumentError: the file holds no detector, the data set has no objects, or `batch_size` is not 1 or None.
        LimitError: the detector enlarges an image beyond `max_input_pixels`.
    """
    if batch_size not in (None, 1):
        raise ArgumentError(f"a detector is measured one image at a time; batch_size must be 1, got {batch_size}")

    def measure(share: Share) -> EvaluateReport:
        model = load(path, device=str(share.device), level=level)
        dataset = open_dataset(data, split, roots=roots, download=download)
        if not isinstance(model, Detector):
            raise no_detector(path, data)
        if not isinstance(dataset, CocoDataset):
            raise ArgumentError(
                f"{path} holds a detector, which is measured on objects, for example on coco; not on {data}"
            )
        start = time.perf_counter()
        shown = progress and share.rank == 0
        metrics = evaluate_detector(
            model, dataset, share=share, progress=shown, max_input_pixels=max_input_pixels, workers=workers
        )
        seconds = time.perf_counter() - start
        return EvaluateReport(file_at_level(path, level), dataset.name, dataset.split, len(dataset), metrics, seconds)

    return run_in_processes(measure, device, devices)


def no_detector(path: str | Path, data: str) -> ArgumentError:
    """Return the error for a file without a detector, on a data set of objects."""
    return ArgumentError(f"{data} has boxes of objects, which only a detector finds; {path} holds none")


def evaluate_detector(
    model: nn.Module,
    dataset: CocoDataset,
    *,
    device: str | torch.device | None = None,
    share: Share | None = None,
    progress: bool = False,
    max_input_pixels: int | None = None,
    workers: int | None = None,
) -> dict[str, float]:
    """COCO's average precision of a detector. The model is not changed: a copy of it is evaluated.

    Args:
        model: a `Detector`, regularised or not.
        dataset: images and objects.
        device: where to run: `auto`, or a device that torch knows; where the model is when None.
        share: instead of `device`, in one process of several: where to run, and which part of the work.
        progress: show on standard error how far it is.
        max_input_pixels: the most pixels that the detector may enlarge an image to; any number when None.
        workers: see `images_in_order`.

    Returns:
        `box_AP`, `box_AP50`, `box_AP75`, `box_APS`, `box_APM`, `box_APL`, 0 to 1, and for Mask R-CNN the same of masks
        (`mask_AP`, ...). Figures of a size of which there are no objects are left out.

    Raises:
        ArgumentError: the model is no detector, its numbers are not finite, it names its classes otherwise, or there is
            no such device.
        DataError: the data set has no objects.
        LimitError: the detector enlarges an image beyond `max_input_pixels`.
        MissingExtraError: pycocotools is not installed.
    """
    share = own_share(model, device, share)
    network = runnable(model, share.device, dense=True)
    if not isinstance(network, Detector):
        raise ArgumentError(f"expected a detector, got {type(model).__name__}")
    check_pycocotools()
    check_class_names(model, dataset)
    check_finite(network)
    findings: list[Finding] = []
    with live_progress(progress, "images", len(dataset), interval=PROGRESS_INTERVAL) as bar, torch.inference_mode():
        mine = range(share.rank, len(dataset), share.num_processes)
        throughput = Throughput()
        images = throughput.waiting_for(images_in_order(dataset, mine, workers))
        for index, image in zip(mine, images, strict=True):
            if max_input_pixels is not None:
                check_pixels(model, network.transform.reading_size_of(image), max_input_pixels)
            with fitting(image[None]):
                (found,) = network([image.to(share.device)])
            findings += to_coco_results(found, dataset.image_id(index))
            throughput.count(share.num_processes)
            bar.show(index + 1, f"{throughput}")
    if share.num_processes > 1:
        findings = _of_all_processes(findings, share)
    metrics = {f"box_{name}": value for name, value in average_precision(dataset, findings, "bbox").items()}
    if network.has_masks:
        metrics |= {f"mask_{name}": value for name, value in average_precision(dataset, findings, "segm").items()}
    return metrics


def check_finite(detector: Detector) -> None:
    """Raise `ArgumentError` for a detector with numbers that are none: it would find nothing, without a word."""
    for name, value in detector.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ArgumentError(
                f"{name} of the detector has numbers that are not finite (NaN or infinite): its training diverged, or "
                "its file is damaged"
            )


def images_in_order(dataset: CocoDataset, indices: Sequence[int], workers: int | None = None) -> Iterator[Tensor]:
    """Yield images (3, height, width), read ahead by worker processes; the same for any number of them.

    Args:
        dataset: images of any sizes.
        indices: which ones.
        workers: 0 to 256; as the enclosing `tailcut.data.reading` says when None, 0 without one.
    """
    yield from read_ahead(_Images(dataset, indices), len(indices), workers)


@dataclass(frozen=True)
class _Images(torch.utils.data.Dataset[Tensor]):
    """The images of a data set with these indices."""

    dataset: CocoDataset
    indices: Sequence[int]

    def __getitem__(self, index: int) -> Tensor:
        return self.dataset.image(self.indices[index])


def to_coco_results(found: Mapping[str, Tensor], image_id: int) -> list[Finding]:
    """Return the detections of one image in COCO's result format.

    Args:
        found: its boxes, labels, scores and, if any, masks, in pixels of the image.
        image_id: the number of the image.
    """
    boxes = found["boxes"].float().cpu()
    corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    labels, scores = found["labels"].tolist(), found["scores"].float().tolist()
    findings: list[Finding] = [
        {"image_id": image_id, "category_id": label, "score": score, "bbox": box}
        for label, score, box in zip(labels, scores, corners, strict=True)
    ]
    if "masks" in found:
        run_lengths = _pycocotools("mask")
        for finding, mask in zip(findings, (found["masks"] > MASK_THRESHOLD).cpu().numpy(), strict=True):
            encoded = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
            finding["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
    return findings


def average_precision(dataset: CocoDataset, findings: Sequence[Finding], kind: Kind) -> dict[str, float]:
    """COCO's six figures, 0 to 1, without those of which the data set has no objects.

    Args:
        dataset: images and objects; crowds count neither for nor against a finding.
        findings: see `to_coco_results`.
        kind: "bbox" compares boxes, "segm" masks; the size of a finding is that of what is compared.

    Raises:
        DataError: the data set has no objects.
    """
    truth = dataset.ground_truth(masks=kind == "segm")
    entries = [{**finding, "id": number, "iscrowd": 0} for number, finding in enumerate(findings, start=1)]
    for entry in entries:
        if kind == "segm":  # one by one: a list of more than 255 overflows in pycocotools
            entry["area"] = float(_pycocotools("mask").area(entry["segmentation"]))
        else:
            entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        # Copies, since pycocotools writes into annotations; numbered from 1, since it takes 0 for "none".
        objects = [{**item, "id": number} for number, item in enumerate(truth["annotations"], start=1)]
        known = _indexed({**truth, "annotations": objects})
        evaluation = _pycocotools("cocoeval").COCOeval(known, _indexed({**truth, "annotations": entries}), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = dict(zip(FIGURES, map(float, evaluation.stats), strict=False))
    figures = {name: value for name, value in figures.items() if value >= 0}
    if not figures:
        raise DataError(f"{dataset.name}, split {dataset.split}, has no objects to measure a detector by")
    return figures


def _indexed(content: dict[str, Any]) -> Any:
    coco = _pycocotools("coco").COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def check_pycocotools() -> None:
    """Raise `MissingExtraError` if pycocotools is not installed, which measures what a detector finds in the end."""
    _pycocotools("coco")


def _pycocotools(name: str) -> Any:
    try:
        from pycocotools import coco, cocoeval, mask
    except ImportError as error:
        raise MissingExtraError("COCO's average precision", "pycocotools", "detection") from error
    return {"coco": coco, "cocoeval": cocoeval, "mask": mask}[name]


def _of_all_processes(findings: list[Finding], share: Share) -> list[Finding]:
    """Return the detections of all processes, the same list on each; they are gathered as a table of bytes."""
    text = torch.frombuffer(bytearray(json.dumps(findings).encode()), dtype=torch.uint8)
    lengths = torch.zeros(share.num_processes, dtype=torch.int64)
    lengths[share.rank] = len(text)
    lengths = share.total(lengths)
    table = torch.zeros(share.num_processes, int(lengths.max()), dtype=torch.uint8)
    table[share.rank, : len(text)] = text
    rows = share.total(table).numpy()
    parts = [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths.tolist(), strict=True)]
    return [finding for part in parts for finding in part]
