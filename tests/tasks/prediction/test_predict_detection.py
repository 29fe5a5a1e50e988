import json
from pathlib import Path

import numpy as np
import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from PIL import Image
from tests.small_coco import TINY, write_coco

import tailcut
from tailcut.errors import ArgumentError, DataError, FormatError, LimitError
from tailcut.evaluation.detection import evaluate_detector_file
from tailcut.evaluation.files import task_of_file
from tailcut.inputs.detection.detectors import Detector, FasterRCNN, faster_rcnn, mask_rcnn
from tailcut.structure import registry as registry_module
from tailcut.tasks.prediction.predict_detection import predict_objects, predict_objects_file


@pytest.fixture
def model() -> Detector:
    """A detector that has learned nothing, and is sure of nothing."""
    torch.manual_seed(0)
    return mask_rcnn(**{**TINY, "score_threshold": 0.0}).fit(torch.rand(4, 3, 64, 96))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    write_coco(tmp_path, "val2017")
    return [tmp_path / "coco" / "val2017" / f"{number}.png" for number in (1, 2)]


def test_objects_are_listed_and_drawn(model: Detector, images: list[Path], tmp_path: Path) -> None:
    names = ["background", "red", "nothing", "blue"]
    report = predict_objects(model, images, tmp_path / "out", least_score=0.0, class_names=names, name="mine")
    assert (report.source, report.task) == ("mine", "detection")
    assert [item["image"] for item in report.predictions] == [str(path) for path in images]
    with torch.no_grad():
        found = model.eval()([images[0]])[0]
    objects = report.predictions[0]["objects"]
    assert [item["class_number"] for item in objects] == found["labels"].tolist()
    assert [item["probability"] for item in objects] == pytest.approx(found["scores"].tolist())
    assert objects[0]["box"] == pytest.approx(found["boxes"][0].tolist(), abs=0.01)
    assert objects[0]["class_name"] == names[objects[0]["class_number"]]
    for path, item in zip(images, report.predictions, strict=True):
        drawing = tmp_path / "out" / path.name
        assert item["drawing"] == str(drawing)
        with Image.open(drawing) as image, Image.open(path) as before:
            assert image.size == before.size
            assert not np.array_equal(np.array(image), np.array(before))
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == report.to_dict()
    assert objects[0]["class_name"] in str(report)


def test_the_unsure_is_left_out(model: Detector, images: list[Path]) -> None:
    everything = predict_objects(model, images, least_score=0.0).predictions[0]["objects"]
    middle = everything[len(everything) // 2]["probability"]
    some = predict_objects(model, images, least_score=middle).predictions[0]["objects"]
    assert some == [item for item in everything if item["probability"] >= middle]
    nothing = predict_objects(model, images, least_score=1.0)
    assert nothing.predictions[0] == {"image": str(images[0]), "drawing": None, "objects": []}
    assert "nothing" in str(nothing)


def test_names_of_coco_and_numbers(images: list[Path]) -> None:
    torch.manual_seed(0)
    coco = faster_rcnn(**{**TINY, "num_classes": 91, "score_threshold": 0.0})
    names = {
        item["class_number"]: item["class_name"]
        for item in predict_objects(coco, images, least_score=0).predictions[0]["objects"]
    }
    assert names
    known = {1: "person", 12: "12", 18: "dog", 90: "toothbrush"}
    assert all(names[label] == known[label] for label in names.keys() & known.keys())
    few = faster_rcnn(**{**TINY, "score_threshold": 0.0})
    found = predict_objects(few, images, least_score=0).predictions[0]["objects"]
    assert {item["class_name"] for item in found} <= {"1", "2", "3"}
    tailcut.set_class_names(few, ["background", "red", ""])
    found = predict_objects(few, images, least_score=0).predictions[0]["objects"]
    told = {1: "red", 2: "2", 3: "3"}
    assert all(item["class_name"] == told[item["class_number"]] for item in found)


def test_files(model: Detector, images: list[Path], tmp_path: Path) -> None:
    tailcut.save(model, tmp_path / "a.tailcut")
    tailcut.save(tailcut.create_model("lenet5"), tmp_path / "b.tailcut")
    assert task_of_file(tmp_path / "a.tailcut") == "detection"
    assert task_of_file(tmp_path / "b.tailcut") == "prediction"
    assert task_of_file("zoo:lenet5-776") == "prediction"
    (tmp_path / "c.tailcut").write_bytes(b"no file of ours")
    with pytest.raises(FormatError):
        task_of_file(tmp_path / "c.tailcut")
    report = predict_objects_file(tmp_path / "a.tailcut", images, least_score=0.0, device="cpu")
    expected = predict_objects(model, images, least_score=0.0)
    assert report.predictions == expected.predictions
    with pytest.raises(ArgumentError, match="expected a detector, got LeNet5"):
        predict_objects_file(tmp_path / "b.tailcut", images, device="cpu")


def test_a_detector_of_ones_own(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_families", dict(registry_module._families))

    @tailcut.register_model("own_rcnn", example_shape=(1, 3, 64, 64))
    class OwnRCNN(FasterRCNN):
        pass

    tailcut.save(tailcut.create_model("own_rcnn", **TINY), tmp_path / "a.tailcut")
    assert task_of_file(tmp_path / "a.tailcut") == "detection"
    assert len(predict_objects_file(tmp_path / "a.tailcut", images, device="cpu").predictions) == len(images)


@pytest.mark.parametrize("reads", ["rgb", "dct"])
def test_a_file_does_not_enlarge_images_beyond_the_cap(reads: str, images: list[Path], tmp_path: Path) -> None:
    tailcut.save(faster_rcnn(**{**TINY, "reads": reads, "min_size": 128, "max_size": 128}), tmp_path / "a.tailcut")
    factor = 1 if reads == "rgb" else 2  # frequency channels are made of an image twice as large
    with Image.open(images[0]) as image:
        size = [factor * (side * 128 // max(image.size)) for side in reversed(image.size)]
    for call in (
        lambda cap: predict_objects_file(tmp_path / "a.tailcut", images, device="cpu", max_input_pixels=cap),
        lambda cap: evaluate_detector_file(
            tmp_path / "a.tailcut", "coco", roots=tmp_path, device="cpu", max_input_pixels=cap
        ),
    ):
        with pytest.raises(LimitError, match=f"asks for images of {size[0]} x {size[1]} pixels, more than the cap of"):
            call(size[0] * size[1] - 1)
        call(size[0] * size[1])


def test_what_cannot_be(model: Detector, images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="the least score must be 0 to 1, got 2"):
        predict_objects(model, images, least_score=2)
    with pytest.raises(ArgumentError, match="has 4 classes, but there are 2 names"):
        predict_objects(model, images, class_names=["background", "red"])
    with pytest.raises(DataError, match="cannot read the image"):
        predict_objects(model, [tmp_path / "gone.png"])
    with pytest.raises(ArgumentError, match=r"the drawing of .* would replace it"):
        predict_objects(model, images, images[0].parent)
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / images[0].name
    twin.write_bytes(images[0].read_bytes())
    with pytest.raises(ArgumentError, match="several images are named 1: their drawings would have one name"):
        predict_objects(model, [*images, twin], tmp_path / "out")
    predict_objects(model, [images[0], images[0]], tmp_path / "out")
