from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tailcut.data import Dataset, open_dataset, read_image
from tailcut.data.datasets import imagefolder
from tailcut.errors import ArgumentError
from tailcut.evaluation.samples import predict_samples
from tailcut.format import load
from tailcut.structure import set_class_names


class Photos(Dataset):
    """Seven photos of different sizes; the mask is where the first channel is above a half."""

    name, split, task, num_classes, class_names, image_shape = (
        "photos",
        "test",
        "segmentation",
        2,
        ("a", "b"),
        (3, 4, 5),
    )

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.rand(3, 4 + index, 5, generator=torch.Generator().manual_seed(index))
        return image, (image[0] > 0.5).long()


class Brightness(nn.Module):
    """One logit per pixel: above 0 where the first channel is above `threshold`."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] - self.threshold


def test_classes_and_probabilities_are_those_of_the_network() -> None:
    dataset, model = open_dataset("digits", "test"), load("zoo:lenet5-ref")
    samples = predict_samples(model, dataset, 5)
    assert [position for position, *_ in samples] == [place * len(dataset) // 5 for place in range(5)]
    for position, image, target, predicted, probability in samples:
        expected, label = dataset[position]
        assert torch.equal(image, expected)
        assert target == label
        with torch.no_grad():
            outputs = model(expected[None])[0]
        assert int(predicted) == int(outputs.argmax())
        assert probability == pytest.approx(float(outputs.softmax(dim=0).max()), rel=1e-4)


def test_masks_have_their_dice() -> None:
    samples = predict_samples(Brightness(0.5), Photos(), 3)
    assert [position for position, *_ in samples] == [0, 2, 4]
    for _, _, target, predicted, dice in samples:
        assert torch.equal(predicted, target > 0)
        assert dice == 1
    position, _, target, predicted, dice = predict_samples(Brightness(0.9), Photos(), 7)[6]
    assert position == 6
    common = int((predicted & (target > 0)).sum())
    assert dice == pytest.approx(2 * common / (int(predicted.sum()) + int(target.sum())))
    assert 0 < dice < 1


def test_there_are_no_more_than_the_data_set_has() -> None:
    assert [position for position, *_ in predict_samples(Brightness(0.5), Photos(), 100)] == list(range(7))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Flatten(), r"10 classes for classification.*; the network gives \(1, 784\)"),
        (Brightness(0.5), r"needs outputs \(batch, classes\); the network gives \(1, 1, 28, 28\)"),
        (nn.Conv2d(3, 2, 1), "cannot take images"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        predict_samples(model, open_dataset("digits", "test"), 1)


def test_there_must_be_an_image() -> None:
    with pytest.raises(ArgumentError, match="at least 1 image"):
        predict_samples(Brightness(0.5), Photos(), 0)


def test_images_of_other_classes_are_refused() -> None:
    dataset, model = open_dataset("digits", "test"), load("zoo:lenet5-ref")
    set_class_names(model, [f"word {letter}" for letter in "abcdefghij"])
    dataset.class_names = tuple(f"word {letter}" for letter in "bacdefghij")
    with pytest.raises(ArgumentError, match="class 0 is 'word a' for the network and 'word b' in digits"):
        predict_samples(model, dataset, 2)


def test_one_file_is_read_for_each_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page shows a few images: the rest of a split of files stays unread, but for the first one."""
    for number in range(40):
        path = tmp_path / "flowers" / "val" / ("rose", "tulip")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    read: list[str] = []

    def noted(path: Path, **settings: Any) -> Any:
        read.append(path.name)
        return read_image(path, **settings)

    monkeypatch.setattr(imagefolder, "read_image", noted)
    dataset = open_dataset("folder:flowers", "val", roots=tmp_path)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    assert [sample[0] for sample in predict_samples(network, dataset, 4)] == [0, 10, 20, 30]
    assert sorted(read) == ["00.png", "01.png", "20.png", "21.png"]
