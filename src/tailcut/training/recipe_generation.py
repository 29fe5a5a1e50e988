"""The section of recipes that train networks which make pictures."""

from typing import Annotated

from tailcut.errors import MissingExtraError
from tailcut.training.recipe_values import ModelSection, Section

try:
    from pydantic import Field
except ImportError as error:
    raise MissingExtraError("reading a recipe", "pydantic", "train") from error

GENERATIVE = ("vae", "gan")  # values of training.loss


class GenerationSection(Section):
    """What the training of a network that makes pictures has of its own; for `training.loss` `vae` and `gan`.

    Attributes:
        num_samples: pictures that are made for the Fréchet distance.
        discriminator: the other network of a GAN, which tells real pictures from made ones.
    """

    num_samples: Annotated[int, Field(ge=2)] = 10_000
    discriminator: ModelSection | None = None


def check_generation(section: GenerationSection | None, loss: str) -> None:
    """Raise `ValueError` unless the section fits `training.loss`."""
    if section is not None and loss not in GENERATIVE:
        raise ValueError(f"[generation] is for training.loss 'vae' or 'gan', got {loss!r}")
    has_discriminator = section is not None and section.discriminator is not None
    if loss == "gan" and not has_discriminator:
        raise ValueError("training.loss 'gan' needs generation.discriminator, for example dcgan_discriminator")
    if loss == "vae" and has_discriminator:
        raise ValueError("generation.discriminator is for training.loss 'gan'; a vae has none")
