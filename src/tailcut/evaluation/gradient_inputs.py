"""Training images that compression measures a network's gradients on."""

import math

from torch import Tensor, nn

from tailcut.compression.sensitivity.fisher import GRADIENT_BATCH
from tailcut.data import Dataset
from tailcut.evaluation.evaluate import PROGRESS_INTERVAL, uses_batch_statistics
from tailcut.evaluation.random_batches import network_inputs
from tailcut.runtime.progress import live_progress

INPUT_NUMBERS = 1 << 29  # 2 GiB of float32


def gradient_inputs(
    network: nn.Module, dataset: Dataset, count: int, seed: int, *, progress: bool = False
) -> list[Tensor]:
    """Return batches of random images as the network reads them, for `count` gradients.

    They have one image where the network mixes the images of a batch. They stay in memory, so that of large images
    there are fewer, which `tailcut.measure_sensitivity` takes again.

    Args:
        network: it reads them, on its device.
        dataset: where they come from.
        count: of gradients, of `GRADIENT_BATCH` images each.
        seed: chooses the images.
        progress: show how many were read.
    """
    size = 1 if uses_batch_statistics(network) else GRADIENT_BATCH
    count = min(count, max(1, INPUT_NUMBERS // (size * math.prod(dataset.image_shape))))
    total = min(size * count, len(dataset))
    with live_progress(progress, "images read", total, interval=PROGRESS_INTERVAL) as bar:
        return list(network_inputs(network, dataset, size, count, seed, bar))
