"""Conversion of images to network inputs: the pixels themselves, or the transform of a frequency-domain stem."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tailcut.data import Dataset, StoredChannels
from tailcut.errors import ArgumentError
from tailcut.inputs import BlockDCT, FrequencyGate
from tailcut.inputs.stem.replace import image_shape as image_shape
from tailcut.inputs.transform.input_transform import input_transform_of
from tailcut.structure import source_of

Reader = Callable[[Tensor], Tensor]


def reader_of(model: nn.Module, dataset: Dataset | None = None) -> Reader:
    """Return the function from a batch of images, (batch, channels, height, width) in 0..1, to the input of `model`.

    The transform that a network keeps if it reads frequency channels or YCbCr; for all others the images are the
    input, in the type of the network's first floating-point parameter. Images that come as stored channels are
    normalised alone. The model is not changed.

    Args:
        model: any network.
        dataset: where the images come from; pixels when None.

    Raises:
        ArgumentError: the data set has stored channels, and the network reads others, or pixels.
    """
    transform = input_transform_of(source_of(model))
    read: Reader = _unchanged if transform is None else transform
    if dataset is not None and dataset.stored_channels is not None:
        read = _reading_channels(transform, dataset.stored_channels, dataset.name).normalized
    dtype = next((x.dtype for x in source_of(model).parameters() if x.is_floating_point()), None)
    return read if dtype in (None, torch.float32) else lambda images: read(images).to(dtype)


class ImageReader(nn.Module):
    """A network behind its transform: it takes images, with gradients for their pixels.

    Args:
        model: any network; one that reads images as they are runs as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._read = reader_of(model)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's outputs for images (batch, channels, height, width) in 0..1."""
        outputs: Tensor = self.model(self._read(images))
        return outputs


def has_gate(model: nn.Module) -> bool:
    """Return whether the model has a gate."""
    return any(isinstance(module, FrequencyGate) for module in model.modules())


def gate_penalty(model: nn.Module, strength: float) -> Tensor | None:
    """Return the loss term of the model's gates for the last batch, or None without gates."""
    penalties = [module.penalty(strength) for module in model.modules() if isinstance(module, FrequencyGate)]
    return sum(penalties[1:], penalties[0]) if penalties else None


def _reading_channels(transform: nn.Module | None, stored: StoredChannels, name: str) -> BlockDCT:
    """Return the transform; raise `ArgumentError` unless a network with it reads just these channels."""
    if not isinstance(transform, BlockDCT):
        raise ArgumentError(f"{name} is read as stored coefficients, and the network reads pixels")
    if (transform.selection.indices, transform.chroma) != (stored.indices, stored.chroma):
        raise ArgumentError(
            f"{name} is read as {len(stored.indices)} stored channels (chroma {stored.chroma}), and the network reads "
            f"others: {transform.num_channels} (chroma {transform.chroma})"
        )
    return transform


def _unchanged(images: Tensor) -> Tensor:
    return images
