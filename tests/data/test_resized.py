"""Data sets at another size, against Pillow's resizing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tailcut.data import ResizedDataset, open_dataset, split_off
from tailcut.errors import ArgumentError


@pytest.mark.parametrize("side", [3, 8, 20])
def test_images_are_those_of_pillow(side: int) -> None:
    plain, dataset = open_dataset("digits", "test"), open_dataset(f"digits@{side}", "test")
    assert (dataset.name, dataset.split, dataset.image_shape) == (f"digits@{side}", "test", (1, side, side))
    assert (len(dataset), dataset.num_classes, dataset.class_names) == (len(plain), 10, plain.class_names)
    images, targets = dataset.batch(range(5))
    for index, image in enumerate(images):
        pixels = (plain[index][0][0] * 255).round().numpy().astype(np.uint8)
        expected = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
        assert np.abs(image[0].numpy() * 255 - expected).max() <= 1
        assert torch.equal(image, dataset[index][0])
    assert torch.equal(targets, plain.batch(range(5))[1])


def test_parts_are_of_that_size() -> None:
    dataset = open_dataset("digits@5", "train")
    first, last = split_off(dataset, 7)
    assert isinstance(last, ResizedDataset)
    assert (len(last), last.image_shape, last.name) == (7, (1, 5, 5), "digits@5")
    assert torch.equal(last.batch([0, 1])[0], dataset.batch([len(first), len(first) + 1])[0])


def test_masks_keep_their_size(carvana_root: Path) -> None:
    with pytest.raises(ArgumentError, match="the images of carvana keep their size, with their targets"):
        open_dataset("carvana@64", roots=carvana_root)
