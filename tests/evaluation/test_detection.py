import contextlib
import io
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tests.small_coco import SCENES, TINY, write_coco
from torch import Tensor

import tailcut
from tailcut.data import CocoDataset, open_dataset, reading
from tailcut.errors import ArgumentError, DataError, MissingExtraError
from tailcut.evaluation.detection import (
    Kind,
    average_precision,
    evaluate_detector,
    evaluate_detector_file,
    images_in_order,
    to_coco_results,
)
from tailcut.evaluation.evaluate import evaluate
from tailcut.evaluation.files import evaluate_file
from tailcut.inputs.detection.detectors import Detector, faster_rcnn, mask_rcnn
from tailcut.runtime.share import Share
from tailcut.tasks.attack import AttackPlan, attack_files
from tailcut.tasks.compress import compress_file
from tailcut.tasks.prediction.explain import explain_files
from tailcut.training.setup.data import TrainingData
from tailcut.training.trainer.detection import check_objects

HERE = ("AP", "AP50", "AP75", "APS", "APM")  # there is no large object in the small data set


@pytest.fixture
def small(tmp_path: Path) -> CocoDataset:
    return opened(write_coco(tmp_path, "val2017"))


def opened(root: Path) -> CocoDataset:
    dataset = open_dataset("coco", "val2017", roots=root)
    assert isinstance(dataset, CocoDataset)
    return dataset


def truth_as_found(dataset: CocoDataset, *, shift: float = 0.0, score: float = 0.9) -> list[dict[str, Any]]:
    """The objects themselves, moved to the right by a number of pixels, as what a detector found."""
    findings = []
    for index in range(len(dataset)):
        objects = dataset.objects(index, masks=True)
        assert objects.masks is not None
        found = {
            "boxes": objects.boxes + torch.tensor([shift, 0, shift, 0]),
            "labels": objects.labels,
            "scores": torch.full((len(objects.labels),), score),
            "masks": objects.masks.roll(round(shift), dims=2).float(),
        }
        findings += to_coco_results(found, dataset.image_id(index))
    return findings


def of_pycocotools(dataset: CocoDataset, findings: list[dict[str, Any]], kind: Kind, path: Path) -> list[float]:
    """The same figures by the way that COCO documents: a result file beside the annotation file."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(path)
        results = [{key: value for key, value in item.items() if kind == "bbox" or key != "bbox"} for item in findings]
        evaluation = COCOeval(known, known.loadRes(results), kind)
        evaluation.params.imgIds = [dataset.image_id(index) for index in range(len(dataset))]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]]


def test_findings_are_in_the_form_of_coco() -> None:
    masks = torch.zeros(1, 10, 20)
    masks[0, 2:5, 3:9] = 0.7
    found = {
        "boxes": torch.tensor([[3.0, 2.0, 9.0, 5.0]]),
        "labels": torch.tensor([7]),
        "scores": torch.tensor([0.25]),
        "masks": masks,
    }
    (finding,) = to_coco_results(found, 12)
    assert {key: finding[key] for key in ("image_id", "category_id", "score", "bbox")} == {
        "image_id": 12,
        "category_id": 7,
        "score": 0.25,
        "bbox": [3, 2, 6, 3],
    }
    from pycocotools import mask as run_lengths

    assert finding["segmentation"]["size"] == [10, 20]
    assert run_lengths.area(finding["segmentation"]) == 18
    assert "segmentation" not in to_coco_results({key: found[key] for key in ("boxes", "labels", "scores")}, 1)[0]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_who_finds_all_has_one(kind: Kind, small: CocoDataset) -> None:
    figures = average_precision(small, truth_as_found(small), kind)
    assert figures == pytest.approx(dict.fromkeys(HERE, 1))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_who_finds_nothing_has_zero(kind: Kind, small: CocoDataset) -> None:
    assert average_precision(small, [], kind) == dict.fromkeys(HERE, 0)


def test_the_size_of_a_shift_is_seen(small: CocoDataset) -> None:
    # Boxes of width 40, 24, 50 and 40: moved by 4 pixels all overlap by more than 0.7 and less than 0.87.
    figures = average_precision(small, truth_as_found(small, shift=4), "bbox")
    assert (figures["AP50"], figures["AP"] < 0.8) == (1, True)
    figures = average_precision(small, truth_as_found(small, shift=30), "bbox")
    assert figures["AP50"] == 0


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_are_those_of_coco_on_real_images(kind: Kind, coco_root: Path) -> None:
    dataset = open_dataset("coco", "val2017", roots=coco_root)
    assert isinstance(dataset, CocoDataset)
    dataset = dataset.part(0, 12)
    generator = np.random.default_rng(0)
    findings = truth_as_found(dataset, shift=3, score=0.6)[::2] + truth_as_found(dataset, shift=10, score=0.4)
    for finding in findings:
        finding["score"] *= float(generator.uniform(0.5, 1))
    expected = of_pycocotools(dataset, findings, kind, coco_root / "coco" / "annotations" / "instances_val2017.json")
    assert list(average_precision(dataset, findings, kind).values()) == pytest.approx(expected)
    assert 0.05 < expected[0] < 0.95


def test_more_findings_than_a_byte_counts(small: CocoDataset) -> None:
    findings = truth_as_found(small, score=0.9) + truth_as_found(small, score=0.1) * 100
    assert len(findings) > 256
    assert average_precision(small, findings, "segm")["AP"] == pytest.approx(1)


def test_without_objects_there_is_no_figure(tmp_path: Path) -> None:
    dataset = opened(write_coco(tmp_path, "val2017", scenes=((), ())))
    with pytest.raises(DataError, match="coco, split val2017, has no objects"):
        average_precision(dataset, [], "bbox")


def perfect(dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch, *, masks: bool = True) -> Detector:
    """A detector that finds every object of the data set, whose images it knows by heart. So do its copies."""
    torch.manual_seed(0)
    model = (mask_rcnn if masks else faster_rcnn)(**TINY)
    images = [dataset.image(index) for index in range(len(dataset))]

    def look_up(self: Detector, given: list[Tensor], targets: Any = None) -> list[dict[str, Tensor]]:
        assert not self.training
        (index,) = (place for place, known in enumerate(images) if torch.equal(known, given[0]))
        objects = dataset.objects(index, masks=masks)
        found = {"boxes": objects.boxes, "labels": objects.labels, "scores": torch.ones(len(objects.labels))}
        return [found if objects.masks is None else {**found, "masks": objects.masks.float()}]

    monkeypatch.setattr(type(model), "forward", look_up)
    return model


@pytest.mark.parametrize("masks", [False, True])
def test_a_detector_is_measured(masks: bool, small: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = perfect(small, monkeypatch, masks=masks)
    model.train()
    figures = evaluate_detector(model, small)
    expected = {f"{kind}_{name}" for kind in ("box", "mask")[: 1 + masks] for name in HERE}
    assert set(figures) == expected
    assert all(value == pytest.approx(1) for value in figures.values())
    assert model.training


def test_workers_read_the_same_images(small: CocoDataset) -> None:
    indices = [2, 0, 1]
    with reading(workers=1):
        ahead = list(images_in_order(small, indices))
    for index, own, other in zip(indices, ahead, images_in_order(small, indices, 0), strict=True):
        assert torch.equal(own, other)
        assert torch.equal(own, small.image(index))


def test_processes_share_the_images(small: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = perfect(small, monkeypatch)
    expected = evaluate_detector(model, small)
    barrier = threading.Barrier(3)
    parts: list[Tensor] = [torch.empty(0)] * 3
    figures: list[dict[str, float]] = [{}] * 3

    def work(rank: int) -> None:
        def all_reduce_sum(state: Tensor) -> Tensor:
            barrier.wait()
            parts[rank] = state
            barrier.wait()
            return torch.stack(parts).sum(0).to(state.dtype)

        figures[rank] = evaluate_detector(model, small, share=Share(torch.device("cpu"), rank, 3, all_reduce_sum))

    # pycocotools writes to standard output, which is one for all threads: so only what was found is compared here.
    monkeypatch.setattr(
        "tailcut.evaluation.detection.average_precision",
        lambda dataset, findings, kind: {"count": len(findings), "first": findings[0]["image_id"]},
    )
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    num_objects = sum(map(len, SCENES))
    assert figures[0] == {"box_count": num_objects, "box_first": 1, "mask_count": num_objects, "mask_first": 1}
    assert figures[0] == figures[1] == figures[2]
    assert expected["box_AP"] == pytest.approx(1)


def test_a_file_is_measured(tmp_path: Path) -> None:
    write_coco(tmp_path, "val2017")
    torch.manual_seed(0)
    tailcut.save(mask_rcnn(**TINY), tmp_path / "a.tailcut")
    report = evaluate_file(tmp_path / "a.tailcut", "coco", roots=tmp_path, device="cpu")
    assert (report.data, report.split, report.num_images) == ("coco", "val2017", 4)
    assert set(report.metrics) >= {"box_AP", "mask_AP"}
    assert "box_AP50" in str(report)


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ("digits", {}, "holds a detector, which is measured on objects"),
        ("coco", {"batch_size": 2}, "batch_size must be 1, got 2"),
        ("coco", {"source": "coefficients"}, 'source="coefficients" is for networks of classes'),
        ("coco", {"arithmetic": "integer"}, 'arithmetic="integer" is for networks of classes or masks'),
        ("coco", {"seed": 1}, "are for networks that make images; .* makes none"),
    ],
)
def test_what_cannot_be_measured(data: str, settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_coco(tmp_path, "val2017")
    tailcut.save(faster_rcnn(**TINY), tmp_path / "a.tailcut")
    with pytest.raises(ArgumentError, match=message):
        evaluate_file(tmp_path / "a.tailcut", data, roots=tmp_path, device="cpu", **settings)


def test_only_detectors_find_objects(tmp_path: Path, small: CocoDataset) -> None:
    model = tailcut.create_model("lenet5")
    tailcut.save(model, tmp_path / "a.tailcut")
    for measure in (evaluate_detector_file, evaluate_file):
        with pytest.raises(ArgumentError, match="which only a detector finds"):
            measure(tmp_path / "a.tailcut", "coco", roots=tmp_path, device="cpu")
    with pytest.raises(ArgumentError, match="expected a detector, got LeNet5"):
        evaluate_detector(model, small)


def test_detectors_are_refused_where_classes_or_masks_are_needed(tmp_path: Path) -> None:
    file, image = tmp_path / "a.tailcut", tmp_path / "a.png"
    tailcut.save(faster_rcnn(**TINY), file)
    Image.new("RGB", (96, 64)).save(image)
    plan = AttackPlan("fgsm", (0.1,))
    calls: dict[str, Callable[[], object]] = {
        "evaluate": lambda: evaluate(faster_rcnn(**TINY), open_dataset("digits", "test")),
        "explain": lambda: explain_files([file], image, tmp_path / "b.png"),
        "attack": lambda: attack_files([file], "digits", plan=plan),
        "compress": lambda: compress_file(file, tmp_path / "b.tailcut", data="digits", max_bytes=100_000),
    }
    for what, call in calls.items():
        with pytest.raises(ArgumentError, match=f"the network is a detector: {what} needs one of classes or masks"):
            call()


@pytest.mark.parametrize("first", [0, 1, 7])
def test_objects_may_be_numbered_from_0(first: int, tmp_path: Path) -> None:
    path = write_coco(tmp_path, "val2017") / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for number, item in enumerate(content["annotations"]):
        item["id"] = first + number
    path.write_text(json.dumps(content))
    dataset = opened(tmp_path)
    assert average_precision(dataset, truth_as_found(dataset), "bbox")["AP"] == pytest.approx(1)


def test_detectors_whose_numbers_are_none_are_refused(small: CocoDataset) -> None:
    model = faster_rcnn(**TINY)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight[0, 0] = float("nan")
    with pytest.raises(ArgumentError, match=r"cls_score\.weight of the detector has numbers that are not finite"):
        evaluate_detector(model, small)


def test_detectors_of_other_categories_are_refused(small: CocoDataset) -> None:
    model = faster_rcnn(**TINY)
    tailcut.set_class_names(model, ["background", "blue", "none", "red"])
    with pytest.raises(ArgumentError, match="class 1 is 'blue' for the network and 'red' in coco"):
        evaluate_detector(model, small)


@pytest.mark.parametrize(("level", "name"), [(1, "a.tailcut, level 1"), (None, "a.tailcut")])
def test_the_level_of_a_detector_is_in_the_report(level: int | None, name: str, tmp_path: Path) -> None:
    write_coco(tmp_path, "val2017")
    model = faster_rcnn(**TINY)
    tailcut.regularize(model, keep_ratio=0.5)
    tailcut.save(model, tmp_path / "a.tailcut", levels=(0.5,))
    report = evaluate_file(tmp_path / "a.tailcut", "coco", roots=tmp_path, device="cpu", level=level)
    assert report.source == str(tmp_path / name)


def test_pycocotools_is_asked_for_before_the_images(small: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setattr("tailcut.evaluation.detection.images_in_order", None)
    with pytest.raises(MissingExtraError, match="COCO's average precision needs the package 'pycocotools'"):
        evaluate_detector(faster_rcnn(**TINY), small)
    with pytest.raises(MissingExtraError, match="pycocotools"):
        check_objects(faster_rcnn(**TINY), TrainingData(small, None, small, 1))
