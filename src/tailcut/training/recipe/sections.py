"""Recipe sections for the training data, for training for bytes and for generative networks."""

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tailcut.data import OnError, Source, default_split
from tailcut.data.workers import MAX_WORKERS
from tailcut.training.recipe.fields import ModelSection, Positive, RecipeSection

GENERATIVE = ("vae", "gan")  # values of training.loss


class AugmentationSection(RecipeSection):
    """Random changes of training images.

    Attributes:
        shift: by up to so many pixels in each direction, padded with zeros.
        flip: mirror every second image, left to right.
        crop: random crops of photos in folders, 8 % to 100 % of their area, at the size that the data's name says.
        cutout: hide a square of so many pixels a side behind the image's mean; see `tailcut.training.batches.cutout`.
    """

    shift: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    crop: bool = False
    cutout: Annotated[int, Field(ge=0)] = 0


class CoarseSection(RecipeSection):
    """Smaller training images in the first part of a run, where a step then takes that much less time.

    Known as progressive resizing: J. Howard, "Training Imagenet in 3 hours for 25 minutes" (2018).

    Attributes:
        factor: a square of so many pixels a side becomes one, their mean; rows and columns that do not fill one are
            left out. A mask gives the pixel in the middle.
        fraction: part of the epochs; the others have images of full size.
    """

    factor: Annotated[int, Field(ge=2)] = 2
    fraction: Annotated[float, Field(gt=0, lt=1)]


class DataSection(RecipeSection):
    """The images.

    Attributes:
        name: a data set that `open_dataset` knows.
        train_split: the split to train on.
        test_split: the split for the final figures; `tailcut.data.default_split` of the data set if it is not given.
        holdout: number of training images held out for validation: the last ones, or evenly spaced ones where they are
            sorted by class (in folders).
        batch_size: images per step, over all devices; an incomplete last batch is left out.
        augmentation: random changes of the training images.
        coarse: smaller training images at first.
        on_error: "skip" reads all images once at the start and leaves out those that cannot be read; "raise" ends the
            run at the first.
        strict: refuse JPEG files that are damaged anywhere; false takes what libjpeg makes of them.
        max_pixels: the most pixels of an image; if not given 2^24, or 16 for each byte of its file if that is more.
        workers: processes that read images ahead, on each device; 0 reads them where they are needed. The result is the
            same.
        source: "coefficients" reads those that JPEG files store, without decoding, for networks on frequency channels.
    """

    name: str
    train_split: str = "train"
    test_split: str | None = None
    holdout: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 256
    augmentation: AugmentationSection = AugmentationSection()
    coarse: CoarseSection | None = None
    on_error: OnError = "raise"
    strict: bool = True
    max_pixels: Positive | None = None
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 0
    source: Source = "pixels"

    @model_validator(mode="after")
    def _stored_as_they_are(self) -> Self:
        useless = {
            "augmentation.shift": self.augmentation.shift > 0,
            "augmentation.cutout": self.augmentation.cutout > 0,
            "coarse": self.coarse is not None,
            "strict = false": not self.strict,
        }
        used = [key for key, is_used in useless.items() if is_used]
        if self.source == "coefficients" and used:
            raise ValueError(
                f"source 'coefficients' takes no {used[0]}: blocks of 8 x 8 pixels stay as they are stored"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_test_split(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("name"), str) and values.get("test_split") is None:
            return {**values, "test_split": default_split(values["name"])}
        return values


class CompressionSection(RecipeSection):
    """Settings of training for bytes, where the bytes of the file are a part of the loss; see `tailcut.RateLoss`.

    With this section `optimizer.lr` is in steps of the file: 0.01 moves a number by a hundredth of its step at most.

    Attributes:
        target_bytes: the most bytes of the packed file.
        start_bytes: the goal at the start, which falls over the first 40 % of the run; three times the target when left
            out.
        step_lr: learning rate of the steps' logarithms, in octaves.
        num_gradients: gradients that measure how much each number matters: of a network from `start`, and of batch
            norm's statistics at the end.
    """

    target_bytes: Positive
    start_bytes: Positive | None = None
    step_lr: Annotated[float, Field(gt=0)] = 0.02
    num_gradients: Positive = 300

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.start_bytes is not None and self.start_bytes < self.target_bytes:
            raise ValueError(
                f"start_bytes must be at least target_bytes, {self.target_bytes}: the goal falls to that, got "
                f"{self.start_bytes}"
            )
        return self


class GenerationSection(RecipeSection):
    """Settings of the training of a generative network, for `training.loss` `vae` and `gan`.

    Attributes:
        num_samples: images generated for the Fréchet distance.
        discriminator: the discriminator of a GAN.
    """

    num_samples: Annotated[int, Field(ge=2)] = 10_000
    discriminator: ModelSection | None = None


class StageSection(RecipeSection):
    """A training before that of the recipe: the recipe with other values for the keys of this table.

    Attributes:
        name: the name of its run folder, in the folder `stages` of the run.
        without: keys of the recipe that it does not have, dotted (`data.coarse`).
    """

    # The other keys are those of a recipe; `stages_of` checks them.
    model_config = ConfigDict(extra="allow")

    name: str
    without: tuple[str, ...] = ()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError(
                f"must be letters A to Z, digits, - and _, and begin with a letter or a digit, got {name!r}"
            )
        return name


def _stage_tables(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return value
    raise ValueError(
        "each stage is a [[stage]] table with a name; --set changes a key of the recipe and of all its stages"
    )


Stages = Annotated[tuple[StageSection, ...], BeforeValidator(_stage_tables)]


def check_stages(stages: Stages) -> None:
    """Raise `ValueError` unless each stage has another name."""
    names = [stage.name for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"stage: {names.count(name)} of them are named {name!r}; each has its own run folder")


def check_generation(section: GenerationSection | None, loss: str) -> None:
    """Raise `ValueError` unless the section fits `training.loss`."""
    if section is not None and loss not in GENERATIVE:
        raise ValueError(f"[generation] is for training.loss 'vae' or 'gan', got {loss!r}")
    has_discriminator = section is not None and section.discriminator is not None
    if loss == "gan" and not has_discriminator:
        raise ValueError("training.loss 'gan' needs generation.discriminator, for example dcgan_discriminator")
    if loss == "vae" and has_discriminator:
        raise ValueError("generation.discriminator is for training.loss 'gan'; a vae has none")
