"""Teacher of a distillation: its outputs for training images."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from tailcut.data import Dataset
from tailcut.errors import ArgumentError, RecipeError
from tailcut.evaluation.class_check import check_class_names
from tailcut.evaluation.evaluate import classification_batch, fitting
from tailcut.evaluation.pixel_inputs import reader_of
from tailcut.format.network.tensors import fingerprint

BATCH_SIZE = 256
MAX_NUMBERS = 1 << 26  # 256 MiB of float32


class Teacher:
    """A network that is asked about each batch, or once about all images.

    Images that are not changed at random get the same answer in every epoch. Then all are asked about in the order of
    the data set, independent of the batches, so that a resumed run gets the same; a network of masks, whose outputs
    are large, is asked batch by batch all the same.

    Args:
        network: the teacher, in evaluation mode.
        autocast: gives the context that it runs in.
        device: where it is.
        memory_format: of the images.
        dataset: the training images.
        unchanged: whether they come as they are, not augmented.

    Attributes:
        fingerprint: of the network's tensors.

    Raises:
        RecipeError: they come as other channels than the teacher reads, or it means other classes by the same numbers.
    """

    def __init__(
        self,
        network: nn.Module,
        autocast: Callable[[], AbstractContextManager[None]],
        device: torch.device,
        memory_format: torch.memory_format,
        dataset: Dataset,
        *,
        unchanged: bool,
    ) -> None:
        try:
            check_class_names(network, dataset)
            self._network, self._read = network, reader_of(network, dataset)
        except ArgumentError as error:
            raise RecipeError(f"distillation.teacher: {error}") from error
        self.fingerprint = fingerprint(network)
        self._autocast, self._device, self._memory_format = autocast, device, memory_format
        self._unchanged = dataset if unchanged else None
        self._answers: Tensor | None = None

    def __call__(self, images: Tensor, places: Tensor) -> Tensor:
        """Return the teacher's outputs for images (batch, channels, height, width) with indices `places` (batch,).

        Raises:
            ArgumentError: the teacher cannot take such images.
        """
        if self._answers is None and self._unchanged is not None:
            self._answers = self._ask_about_all(self._unchanged)
            if self._answers is None:
                self._unchanged = None
        return self._ask(images) if self._answers is None else self._answers[places.to(self._device)]

    def _ask(self, images: Tensor) -> Tensor:
        with torch.no_grad(), self._autocast(), fitting(images, " (distillation.teacher)"):
            outputs: Tensor = self._network(self._read(images))
        return outputs

    def _ask_about_all(self, dataset: Dataset) -> Tensor | None:
        answers = []
        size = min(BATCH_SIZE, classification_batch(dataset))
        for images, _ in dataset.batches(dataset.in_order(size)):
            answers.append(self._ask(images.to(self._device, memory_format=self._memory_format)))
            if answers[0][0].numel() * len(dataset) > MAX_NUMBERS:
                return None
        return torch.cat(answers)
