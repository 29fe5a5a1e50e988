"""The 1,797 handwritten digits that come with scikit-learn: real data without a download."""

import torch
from torch.nn.functional import interpolate

from tailcut.data.dataset import InMemoryDataset
from tailcut.errors import MissingExtraError

SPLITS = ("train", "test")
CLASS_NAMES = tuple("0123456789")
SIDE = 28
HIGHEST_VALUE = 16  # of the 8 x 8 originals
TEST_EVERY = 5


def open_digits(split: str) -> InMemoryDataset:
    """Return the digits of `sklearn.datasets.load_digits` in the shape of MNIST.

    The originals have 8 x 8 pixels with values 0..16. They are scaled to 0..255 and resized to 28 x 28 by
    bilinear interpolation. Within each class, in the order of scikit-learn, every fifth digit belongs to the
    test split; so the splits never change and have the classes in equal shares.

    Args:
        split: `train` (1,442 digits) or `test` (355).

    Returns:
        Images of shape (1, 28, 28), white on black, and classes 0..9.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("the data set digits", "scikit-learn", "train") from error
    source = load_digits()
    small = torch.as_tensor(source.images, dtype=torch.float32)[:, None] * (255 / HIGHEST_VALUE)
    images = interpolate(small, size=(SIDE, SIDE), mode="bilinear").round().to(torch.uint8)
    labels = torch.as_tensor(source.target, dtype=torch.int64)
    same_class = labels[:, None] == labels
    position_in_class = same_class.tril(diagonal=-1).sum(dim=1)
    is_test = position_in_class % TEST_EVERY == TEST_EVERY - 1
    chosen = is_test if split == "test" else ~is_test
    return InMemoryDataset("digits", split, images[chosen], labels[chosen], CLASS_NAMES)
