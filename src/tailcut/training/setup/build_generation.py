"""Construction of a recipe's generative networks, and the check that the recipe fits them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tailcut.data import Dataset
from tailcut.errors import RecipeError
from tailcut.evaluation.metrics.fid import CHANNELS, FEATURE_NETWORK
from tailcut.models import VAE, DCGANGenerator
from tailcut.structure import example_shape
from tailcut.training.recipe.fields import check_unused
from tailcut.training.recipe.schema import Recipe, RegularizationSection
from tailcut.training.recipe.sections import GENERATIVE
from tailcut.training.setup.initial_network import fresh_network
from tailcut.training.setup.initialization import regularized

PARTS = ("generator", "discriminator")


class GanNetworks(nn.Module):
    """The two networks of a GAN, trained against one another.

    Input: codes (batch, code_size). Output: what the discriminator takes the made images for, logits (batch, 1).
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator

    def forward(self, codes: Tensor) -> Tensor:
        """Logits (batch, 1) of codes (batch, code_size)."""
        logits: Tensor = self.discriminator(self.generator(codes))
        return logits


def build_gan(recipe: Recipe) -> GanNetworks:
    """Make the generator (`model`) and the `generation.discriminator` of a recipe, regularised if it says so.

    Raises:
        RecipeError: unknown models, wrong arguments, networks that do not fit one another, or a regularisation that
            does not fit them.
    """
    section = recipe.generation
    if section is None or section.discriminator is None:
        raise RecipeError("generation.discriminator: a GAN needs one, for example dcgan_discriminator")
    generator, discriminator = (
        regularized(fresh_network(recipe.model_copy(update={"model": model})), _part(recipe.regularization, part))
        for part, model in zip(PARTS, (recipe.model, section.discriminator), strict=True)
    )
    if not isinstance(generator, DCGANGenerator):
        raise RecipeError(f"model.name: {recipe.model.name} makes no images of codes; dcgan_generator does")
    made = tuple(_image_of(generator).shape)
    if example_shape(discriminator) != made:
        raise RecipeError(
            f"generation.discriminator: reads images (batch, channels, height, width) like "
            f"{example_shape(discriminator)}, the generator makes {made}"
        )
    return GanNetworks(generator, discriminator)


def check_generative(recipe: Recipe, model: nn.Module, dataset: Dataset) -> None:
    """Check that a generative recipe, its network and its images fit; the network is not changed.

    Raises:
        RecipeError: the loss is for other networks, a section has no meaning, or the images have other channels.
    """
    loss = recipe.training.loss
    kinds: dict[str, tuple[type[nn.Module], ...]] = {"vae": (VAE,), "gan": (GanNetworks, DCGANGenerator)}
    wanted = next((name for name, kind in kinds.items() if isinstance(model, kind)), None)
    if wanted is None and loss not in GENERATIVE:
        return
    if wanted != loss:
        needed = "is for classes and masks" if wanted is None else f"needs training.loss {wanted!r}"
        raise RecipeError(f"training.loss: the model {recipe.model.name} {needed}, got {loss!r}")
    useless = {
        "data.coarse": recipe.data.coarse is not None,
        "inputs": recipe.inputs is not None,
        "pruning": recipe.pruning is not None,
        "distillation": recipe.distillation is not None,
        "training.label_smoothing": recipe.training.label_smoothing != 0,
    }
    if loss == "gan":
        useless |= {
            "start": recipe.start is not None,
            "optimizer.clip_norm": recipe.optimizer.clip_norm is not None,
        }
    check_unused(useless, of=f"training.loss {loss!r}")
    shape = tuple(dataset.image_shape)
    if shape[0] != CHANNELS:
        raise RecipeError(
            f"data.name: the result is measured by the features of {FEATURE_NETWORK}, which reads images of "
            f"{CHANNELS} channel; {dataset.name} has {shape[0]}"
        )
    if loss == "vae" and shape != (example_shape(model) or shape)[-3:]:
        raise RecipeError(f"data.name: {recipe.model.name} reads images {example_shape(model)}, got {shape}")


def _image_of(generator: nn.Module) -> Tensor:
    """Return an image of the generator in evaluation mode (its mode is restored)."""
    mode = generator.training
    try:
        image: Tensor = generator.eval()(next(generator.parameters()).new_zeros(example_shape(generator) or (1,)))
    finally:
        generator.train(mode)
    return image.detach()


def _part(section: RegularizationSection | None, part: str) -> RegularizationSection | None:
    """Return the part of the section for one network, with names as in that network.

    Names and patterns that begin with `generator.` or `discriminator.` are for that network, all others for both. A
    network of which `num_drawn` names nothing trains all its coefficients.
    """
    if section is None:
        return None
    named = [names for names in (section.include, section.num_kept) if isinstance(names, (tuple, Mapping))]
    if any(not _mine(dict.fromkeys(names), part) for names in named):
        return None  # what is regularised is named, and nothing of this network is
    changed: dict[str, Any] = {
        "exclude": tuple(_mine(dict.fromkeys(section.exclude), part)),
        "overrides": _mine(section.overrides, part),
    }
    if section.include is not None:
        changed["include"] = tuple(_mine(dict.fromkeys(section.include), part))
    if isinstance(section.num_kept, Mapping):
        changed["num_kept"] = _mine(section.num_kept, part)
    if isinstance(section.num_drawn, Mapping):
        changed["num_drawn"] = _mine(section.num_drawn, part) or None
    return section.model_copy(update=changed)


def _mine(names: Mapping[str, Any], part: str) -> dict[str, Any]:
    others = tuple(f"{other}." for other in PARTS if other != part)
    return {name.removeprefix(f"{part}."): value for name, value in names.items() if not name.startswith(others)}
