"""What a trained RGB network keeps when its stem is fitted to frequency channels: `python -m bench.transplant`.

Needs CIFAR-10 and the trained networks of pytorch_resnet_cifar10 (`weights/NAME-cifar10.th`) under the data roots
(TAILCUT_DATA). Not timed: the figures are accuracies.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bench.tables import Row, Table
from tailcut.data import Dataset, find_file, open_dataset
from tailcut.files import write_atomically
from tailcut.format.conversion.checkpoints import load_checkpoint
from tailcut.inputs import BlockDCT, transplant_stem
from tailcut.structure import create_model

# (images enlarged by, channels): numbers that the network reads are channels x (4 x enlarged)^2, of RGB 3,072.
SETTINGS = ((2, 24), (2, 64), (1, 192), (1, 64))
RGB_NUMBERS = 3072
BATCH = 250


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.transplant", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet56"], help="default: resnet20 resnet56")
    parser.add_argument("--fit", type=int, default=500, metavar="N", help="training images to fit to (default: 500)")
    parser.add_argument("--test", type=int, metavar="N", help="test images (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    options = parser.parse_args(arguments)
    train, test = open_dataset("cifar10", "train"), open_dataset("cifar10", "test")
    count = len(test) if options.test is None else options.test
    rows = [row for name in options.models for row in measure(name, train, test, options.fit, count)]
    columns = {"network": "", "input": "", "numbers": ",d", "accuracy": ".2%", "kept": ".3f"}
    notes = [f"{count:,} test images; stems fitted to {options.fit:,} training images without their labels."]
    table = Table("Trained RGB networks that read frequency channels, without training", columns, rows, notes)
    print(table)
    if options.json is not None:
        write_atomically(options.json, json.dumps(table.to_dict(), indent=1) + "\n")
    return 0


def measure(name: str, train: Dataset, test: Dataset, num_fit: int, num_test: int) -> Iterator[Row]:
    """Yield the network as it was trained, then with a transplanted stem in each setting."""
    network = trained(name)
    before = accuracy(network, lambda images: images, test, num_test)
    yield {"network": name, "input": "RGB", "numbers": RGB_NUMBERS, "accuracy": before, "kept": 1.0}
    for enlarged, channels in SETTINGS:
        network, transform = trained(name), BlockDCT(channels)
        resize = enlarger(enlarged)
        transform.fit(resize(images) for images in batches(train, num_fit))
        transplant_stem(network, transform, batches(train, num_fit), resize=resize)
        found = accuracy(network, reader(transform, resize), test, num_test)
        yield {
            "network": name,
            "input": f"{channels} channels of images enlarged {enlarged} times"
            if enlarged > 1
            else f"{channels} channels",
            "numbers": channels * (4 * enlarged) ** 2,
            "accuracy": found,
            "kept": found / before,
        }


def trained(name: str) -> nn.Module:
    """Return the trained network, for images in 0..1."""
    network = create_model(name, normalize=True)
    load_checkpoint(find_file(f"weights/{name}-cifar10.th"), network)
    return network.eval()


def reader(transform: nn.Module, resize: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Images, enlarged, as channels."""
    return lambda images: transform(resize(images))


def enlarger(times: int) -> Callable[[Tensor], Tensor]:
    """Enlarges images bilinearly."""
    return lambda images: interpolate(images, scale_factor=times, mode="bilinear") if times > 1 else images


def batches(dataset: Dataset, count: int) -> Iterator[Tensor]:
    """Yield the first images of a data set."""
    for start in range(0, count, BATCH):
        yield dataset.batch(range(start, min(start + BATCH, count)))[0]


def accuracy(network: nn.Module, read: Callable[[Tensor], Tensor], dataset: Dataset, count: int) -> float:
    """Return the part of the first `count` images that the network names rightly."""
    right = 0
    with torch.no_grad():
        for start in range(0, count, BATCH):
            images, labels = dataset.batch(range(start, min(start + BATCH, count)))
            right += int((network(read(images)).argmax(1) == labels).sum())
    return right / count


if __name__ == "__main__":
    sys.exit(main())
