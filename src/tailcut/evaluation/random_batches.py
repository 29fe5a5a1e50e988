"""Random batches of a data set as network inputs."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tailcut.data import Dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.pixel_inputs import reader_of
from tailcut.runtime.progress import Progress
from tailcut.structure import device_of

BATCH_SIZE = 128  # of CFDP
SPLIT = "train"


def random_batches(
    dataset: Dataset,
    batch_size: int,
    num_batches: int,
    seed: int,
    bar: Progress | None = None,
    *,
    num_images: int | None = None,
) -> Iterator[Tensor]:
    """Batches of images drawn without repetition: the same for the same seed, read as `tailcut.data.reading` says.

    Args:
        dataset: where they come from.
        batch_size: images per batch; the last has fewer where the data set ends.
        num_batches: the most batches.
        seed: of the order.
        bar: shown how many were given.
        num_images: the most images in all of them; what the batches hold when None.

    Raises:
        ArgumentError: a count is not positive.
    """
    if min(batch_size, num_batches) < 1:
        raise ArgumentError(f"batch size and number of batches must be at least 1, got {batch_size} and {num_batches}")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    chosen = order[: batch_size * num_batches][:num_images].split(batch_size)
    for number, (images, _) in enumerate(dataset.batches(chosen)):
        if bar is not None:
            bar.show(number * batch_size)
        yield images


def network_inputs(
    network: nn.Module,
    dataset: Dataset,
    batch_size: int,
    num_batches: int,
    seed: int,
    bar: Progress | None = None,
) -> Iterator[Tensor]:
    """Yield random batches as network inputs: through its transform, if it has one; see `random_batches`."""
    read = reader_of(network, dataset)
    device = device_of(network)
    for images in random_batches(dataset, batch_size, num_batches, seed, bar):
        yield read(images.to(device))
