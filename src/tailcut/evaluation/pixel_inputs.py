"""Conversion of pixels to network inputs: the pixels themselves, or the transform of a frequency-domain stem."""

from collections.abc import Callable

from torch import Tensor, nn

from tailcut.inputs import FrequencyGate
from tailcut.inputs.stem.replace import image_shape as image_shape
from tailcut.inputs.transform.input_transform import input_transform_of
from tailcut.structure import source_of

Reader = Callable[[Tensor], Tensor]


def reader_of(model: nn.Module) -> Reader:
    """Return the function from a batch of images, (batch, channels, height, width) in 0..1, to the input of `model`.

    The transform that a network keeps if it reads frequency channels or YCbCr; for all others the images are the
    input. The model is not changed.
    """
    transform = input_transform_of(source_of(model))
    return _unchanged if transform is None else transform


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


def _unchanged(images: Tensor) -> Tensor:
    return images
