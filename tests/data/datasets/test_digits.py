import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tailcut.data.datasets.digits import open_digits
from tailcut.errors import MissingExtraError


def test_counts_and_histograms() -> None:
    train, test = open_digits("train"), open_digits("test")
    assert (len(train), len(test)) == (1442, 355)
    whole = np.bincount(load_digits().target)
    assert torch.bincount(test.labels).tolist() == [count // 5 for count in whole]
    assert (torch.bincount(train.labels) + torch.bincount(test.labels)).tolist() == whole.tolist()
    assert (test.name, test.split, test.image_shape, test.num_classes) == (
        "digits",
        "test",
        (1, 28, 28),
        10,
    )


def test_pixels_are_those_of_pillow() -> None:
    source = load_digits()
    fives = np.flatnonzero(source.target == 5)
    test = open_digits("test")
    ours = test.images[test.labels == 5][1, 0].numpy()  # the second test digit is the tenth of its class
    small = Image.fromarray(source.images[fives[9]].astype(np.float32) * 255 / 16)
    expected = np.asarray(small.resize((28, 28), Image.Resampling.BILINEAR))
    assert np.abs(ours - expected).max() <= 0.51
    assert ours.max() > 200


def test_splits_are_disjoint_and_the_same_each_time() -> None:
    train, test = open_digits("train"), open_digits("test")
    seen = {image.numpy().tobytes() for image in train.images}
    shared = sum(image.numpy().tobytes() in seen for image in test.images)
    assert shared == 0
    assert torch.equal(train.images, open_digits("train").images)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[train\]'"):
        open_digits("test")
