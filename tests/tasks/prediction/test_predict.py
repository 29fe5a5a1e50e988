import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.format.networks import registered
from torch import nn

from tailcut.data import open_dataset, read_image, read_mask, reading, write_mask
from tailcut.data.datasets.imagefolder import FolderDataset
from tailcut.errors import ArgumentError, DataError, LimitError
from tailcut.format import load, save
from tailcut.structure import create_model, set_class_names, set_image_size
from tailcut.tasks.prediction.predict import predict, predict_file
from tailcut.tasks.prediction.reading import ImageSize, read_as_trained


def write_digit(path: Path, index: int, *, inverted: bool = False) -> int:
    """Write a digit as a PNG. Returns its class."""
    image, label = open_dataset("digits", "test")[index]
    pixels = (image[0] * 255).round().to(torch.uint8).numpy()
    Image.fromarray(255 - pixels if inverted else pixels).save(path)
    return int(label)


def test_classes_are_those_of_the_network(tmp_path: Path) -> None:
    model = create_model("lenet300")
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        write_digit(path, index)
    report = predict(model, paths, tmp_path / "out", name="a.tailcut")
    assert report.task == "classification"
    for index, item in enumerate(report.predictions):
        probabilities = model(open_dataset("digits", "test")[index][0][None])[0].softmax(dim=0)
        assert item["image"] == str(paths[index])
        assert item["class_number"] == int(probabilities.argmax())
        assert item["probability"] == pytest.approx(probabilities.max().item(), abs=1e-5)
        assert [best["class_number"] for best in item["best"]] == probabilities.topk(3).indices.tolist()
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == json.loads(report.to_json())
    assert str(report).splitlines()[2].split()[:2] == [str(paths[0]), str(report.predictions[0]["class_number"])]


def test_classes_have_the_names_that_the_network_was_told(tmp_path: Path) -> None:
    model = create_model("lenet300")
    write_digit(tmp_path / "x.png", 0)
    assert predict(model, [tmp_path / "x.png"]).predictions[0]["class_name"] is None
    names = [f"digit {number}" for number in range(10)]
    set_class_names(model, names)
    report = predict(model, [tmp_path / "x.png"])
    (item,) = report.predictions
    assert item["class_name"] == f"digit {item['class_number']}"
    assert [best["class_name"] for best in item["best"]] == [f"digit {best['class_number']}" for best in item["best"]]
    assert f"{item['class_number']} digit {item['class_number']}" in str(report)
    set_class_names(model, names[:9])
    assert predict(model, [tmp_path / "x.png"]).predictions[0]["class_name"] is None


def test_images_of_another_size_and_colour_are_fitted(tmp_path: Path) -> None:
    Image.new("RGB", (100, 60), "white").save(tmp_path / "photo.jpg")
    model = create_model("lenet300")
    report = predict(model, [tmp_path / "photo.jpg"])
    white = model(torch.ones(1, 1, 28, 28))[0].softmax(dim=0)
    assert report.predictions[0]["probability"] == pytest.approx(white.max().item(), abs=1e-4)


def test_dark_digits_on_light_paper_are_inverted(tmp_path: Path) -> None:
    write_digit(tmp_path / "light.png", 0)
    write_digit(tmp_path / "dark.png", 0, inverted=True)
    model = create_model("lenet300")
    light = predict(model, [tmp_path / "light.png"]).predictions[0]
    dark = predict(model, [tmp_path / "dark.png"], invert=True).predictions[0]
    assert dark["class_number"] == light["class_number"]
    assert dark["probability"] == pytest.approx(light["probability"], abs=1e-4)


def test_masks_have_the_size_of_their_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("unet", widths=(2, 4, 8)).eval()
    sizes = {"a.png": (37, 21), "b.jpg": (64, 64), "tiny.png": (3, 5)}
    for name, size in sizes.items():
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    report = predict(model, [tmp_path / name for name in sizes], tmp_path / "masks")
    assert report.task == "segmentation"
    for item, (name, size) in zip(report.predictions, sizes.items(), strict=True):
        mask = read_mask(item["mask"])
        assert item["mask"] == str(tmp_path / "masks" / f"{Path(name).stem}.png")
        assert tuple(mask.shape) == (size[1], size[0])
        assert item["foreground_ratio"] == pytest.approx(mask.double().mean().item())
    expected = model(torch.from_numpy(noise_of(tmp_path / "a.png"))).argmax(dim=1)[0]
    assert torch.equal(read_mask(tmp_path / "masks" / "a.png"), expected)
    assert "foreground" in str(report)


def noise_of(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    pixels = np.asarray(Image.open(path), dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def test_masks_never_replace_one_another_or_an_image(tmp_path: Path) -> None:
    model = create_model("unet", widths=(2, 4))
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    with pytest.raises(ArgumentError, match="several images are named a"):
        predict(model, [tmp_path / "a.png", tmp_path / "a.jpg"], tmp_path / "masks")
    with pytest.raises(ArgumentError, match="would replace it"):
        predict(model, [tmp_path / "a.png"], tmp_path)
    with pytest.raises(ArgumentError, match="name a folder"):
        predict(model, [tmp_path / "a.png"])
    with pytest.raises(ArgumentError, match="is a file"):
        predict(model, [tmp_path / "a.png"], tmp_path / "a.jpg")


def test_an_error_leaves_no_new_folder_and_foreign_tables_stay(tmp_path: Path) -> None:
    write_digit(tmp_path / "a.png", 0)
    model = create_model("lenet300")
    with pytest.raises(DataError):
        predict(model, [tmp_path / "none.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for content in ("mine", "[1]", "{}"):
        (tmp_path / "predictions.json").write_text(content)
        with pytest.raises(ArgumentError, match=r"predictions\.json is no table of predictions"):
            predict(model, [tmp_path / "a.png"], tmp_path)
        assert (tmp_path / "predictions.json").read_text() == content
    (tmp_path / "old").mkdir()
    with pytest.raises(DataError):
        predict(model, [tmp_path / "none.png"], tmp_path / "old")
    assert (tmp_path / "old").exists()
    for _ in range(2):  # its own table is replaced
        predict(model, [tmp_path / "a.png"], tmp_path / "old")


def test_an_image_that_is_gone_is_left_out_where_its_mask_is_still_there(tmp_path: Path) -> None:
    for name in ("a.png", "masks/gone.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    wanted = [tmp_path / "a.png", tmp_path / "gone.png"]
    with reading(on_error="skip"):
        report = predict(create_model("unet", widths=(2, 4)), wanted, tmp_path / "masks")
    assert [Path(entry["image"]).name for entry in report.skipped] == ["gone.png"]


def test_a_class_of_the_user_s_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="registered family"):
        predict(nn.Flatten(), [tmp_path / "a.png"])


@pytest.mark.parametrize("index", [(slice(None), 0), (slice(None), slice(None), None)])
def test_outputs_that_are_neither_classes_nor_masks_are_refused(index: tuple[object, ...], tmp_path: Path) -> None:
    model = create_model("lenet300")
    model.register_forward_hook(lambda module, inputs, outputs: outputs[index])
    write_digit(tmp_path / "a.png", 0)
    with pytest.raises(ArgumentError, match=r"needs outputs of shape \(1, classes\).* gives \(1"):
        predict(model, [tmp_path / "a.png"], tmp_path / "out")


def test_a_missing_image_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the image"):
        predict(create_model("lenet300"), [tmp_path / "none.png"])
    with pytest.raises(DataError, match=rf"the image {tmp_path}: it is a folder; name the files in it, such as "):
        predict(create_model("lenet300"), [tmp_path])


def test_a_file_is_loaded_and_named(tmp_path: Path) -> None:
    save(create_model("lenet300"), tmp_path / "a.tailcut")
    write_digit(tmp_path / "digit.png", 0)
    report = predict_file(tmp_path / "a.tailcut", [tmp_path / "digit.png"], device="cpu")
    assert report.source == str(tmp_path / "a.tailcut")
    assert list(json.loads(report.to_json())) == ["source", "task", "predictions", "seconds", "skipped"]


def test_images_get_the_size_that_the_network_was_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("resnet20").eval()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    for size, told in (((32, 32), None), ((64, 48), (64, 48))):
        set_image_size(model, told)
        save(model, tmp_path / "a.tailcut")
        report = predict_file(tmp_path / "a.tailcut", [tmp_path / "x.png"])
        with torch.no_grad():
            expected = model(read_image(tmp_path / "x.png", channels=3, size=size))[0].softmax(dim=0).max().item()
        assert report.predictions[0]["probability"] == pytest.approx(expected, abs=1e-5)


def test_images_are_cut_to_their_middle_where_the_network_learned_middles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("resnet20").eval()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    set_image_size(model, (32, 32), shorter_side=40)
    save(model, tmp_path / "a.tailcut")
    report = predict_file(tmp_path / "a.tailcut", [tmp_path / "x.png"])
    whole = read_image(tmp_path / "x.png", channels=3, size=(40, 56))
    with torch.no_grad():
        expected = model(whole[..., 4:36, 12:44])[0].softmax(dim=0).max().item()
    assert report.predictions[0]["probability"] == pytest.approx(expected, abs=1e-5)


def test_the_middle_is_that_of_the_data_set(tmp_path: Path) -> None:
    """What `evaluate` gives the network, but for the rounding to bytes, once along each axis."""
    folder = tmp_path / "val" / "plant"
    folder.mkdir(parents=True)
    for number, (height, width) in enumerate([(50, 70), (71, 33), (40, 40), (32, 200), (20, 31)]):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    dataset = FolderDataset(tmp_path / "val", name="folder:own", size=(39, 32))
    assert dataset.shorter_side == 39
    for place, path in enumerate(dataset.files):
        read = read_as_trained(path, ImageSize(3, (32, 32), 39))
        assert (read[0] - dataset[place][0]).abs().max() <= 1.01 / 255


def test_images_that_a_file_makes_too_large_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    network = create_model("resnet20")
    set_image_size(network, (65536, 65536))
    save(network, tmp_path / "a.tailcut")
    write_mask(tmp_path / "a.png", torch.ones(32, 32, dtype=torch.int64))
    with pytest.raises(LimitError, match="65,536 x 65,536 pixels, more than the cap of 16,777,216"):
        predict_file(tmp_path / "a.tailcut", [tmp_path / "a.png"])
    set_image_size(network, (40, 40))
    with pytest.raises(LimitError, match="40 x 40 pixels"):
        predict(network, [tmp_path / "a.png"], max_input_pixels=1599)
    assert len(predict(network, [tmp_path / "a.png"], max_input_pixels=1600).predictions) == 1


def test_one_output_is_no_class(tmp_path: Path) -> None:
    save(create_model("lenet300", num_classes=1), tmp_path / "a.tailcut")
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    with pytest.raises(ArgumentError, match="two classes or more; the network gives one number"):
        predict_file(tmp_path / "a.tailcut", [tmp_path / "a.png"])


@pytest.mark.parametrize("number", [float("inf"), float("nan"), float("-inf")])
def test_outputs_that_say_nothing_are_no_answer(number: float, tmp_path: Path) -> None:
    model = create_model("lenet5")
    with torch.no_grad():
        model.fc2.bias[3] = number  # type: ignore[union-attr,operator]
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    if number == float("-inf"):  # a class that is left out
        assert predict(model, [tmp_path / "a.png"]).predictions[0]["class_number"] != 3
        return
    with pytest.raises(ArgumentError, match=r"outputs for .*a\.png are no numbers \(NaN or infinite\)"):
        predict(model, [tmp_path / "a.png"])


def test_where_no_image_can_be_read_there_is_an_error(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(b"no image")
    model = create_model("lenet300")
    with (
        reading(on_error="skip"),
        pytest.raises(DataError, match=r"none of the 2 images could be read; the first: .*a\.png"),
    ):
        predict(model, paths, tmp_path / "out")
    assert not (tmp_path / "out" / "predictions.json").exists()
    write_digit(paths[1], 0)
    with reading(on_error="skip"):
        report = predict(model, paths)
    assert [item["image"] for item in report.skipped] == [str(paths[0])]
    assert len(report.predictions) == 1


def test_settings_of_a_file_arrive_at_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "a.tailcut"
    save(create_model("lenet5"), packed)
    given: dict[str, Any] = {}
    monkeypatch.setattr("tailcut.tasks.prediction.predict.predict", lambda *words, **more: given.update(more))
    predict_file(packed, ["a.png"], device="cpu", invert=True, dense=True, max_input_pixels=99)
    assert given == {
        "device": torch.device("cpu"),
        "invert": True,
        "dense": True,
        "name": str(packed),
        "max_input_pixels": 99,
    }


class Convolutional(nn.Module):
    """A classifier without a linear layer, as the one of the quick start: places become classes in other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.Conv2d(8, 10, 14)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.classifier(self.features(images).relu()).flatten(1)
        return out


def test_classifiers_without_linear_layers_get_images_of_their_size(tmp_path: Path) -> None:
    with registered("convolutional", Convolutional, example_shape=(1, 1, 28, 28)):
        torch.manual_seed(0)
        save(create_model("convolutional").eval(), tmp_path / "a.tailcut")
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8)).save(tmp_path / "a.png")
        (found,) = predict_file(tmp_path / "a.tailcut", [tmp_path / "a.png"], device="cpu").predictions
        image = read_image(tmp_path / "a.png", channels=1, size=(28, 28))
        with torch.no_grad():
            expected = load(tmp_path / "a.tailcut")(image).softmax(1)[0]
    assert found["class_number"] == int(expected.argmax()) < 10
    assert found["probability"] == pytest.approx(float(expected.max()), rel=1e-4)
