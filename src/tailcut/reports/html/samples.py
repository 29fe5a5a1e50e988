"""Samples of networks: predicted classes and masks of test images, and images that generators draw."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import torch
from PIL import Image
from torch import Tensor

from tailcut.reports.html.elements import PageSection, element, figure, image_element
from tailcut.reports.networks import ReportedNetwork

# Images are shown at most so many pixels wide or high.
MAX_SIDE = 360
# Colours of masks, red, green and blue: where both have foreground, only the network, only the truth.
BOTH, ONLY_PREDICTED, ONLY_TRUE = (0.2, 0.8, 0.3), (1.0, 0.25, 0.2), (0.2, 0.5, 1.0)
OPACITY = 0.45
JPEG_QUALITY = 82


@dataclass(frozen=True)
class Sample:
    """An image and what a network takes it for.

    Attributes:
        position: of the image in its split.
        image: (channels, height, width), 0 to 1.
        target: its class, (), or its mask of 0 and 1, (height, width).
        predicted: the same by the network.
        figure: for a class the probability that the network gives it; for a mask its Dice coefficient.
    """

    position: int
    image: Tensor
    target: Tensor
    predicted: Tensor
    figure: float


@dataclass(frozen=True)
class Samples:
    """Samples of one network.

    Attributes:
        data: name of the data set.
        split: of it.
        class_names: one name per class.
        samples: some images.
    """

    data: str
    split: str
    class_names: Sequence[str]
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Generated:
    """Images of a generator for the first codes of a fixed seed, equal for all networks with the same code size.

    Attributes:
        images: (num, channels, height, width), 0 to 1.
        code_size: numbers of a code.
    """

    images: Tensor
    code_size: int


# A text says why there is nothing to see.
Shown = Samples | Generated | str


def samples_section(networks: Sequence[ReportedNetwork], samples: Mapping[str, Shown]) -> PageSection:
    """Return the images of generators, then the samples of other networks; `samples` are by name of a network."""
    section = PageSection("Samples", "samples", "A few images, chosen evenly over their split, not by what comes out.")
    drawn = {name: found for name, found in samples.items() if isinstance(found, Generated)}
    if drawn:
        section.body.append(element("p", _about_codes({found.code_size for found in drawn.values()})))
        strips = [figure(_strip(found.images, name), element("strong", name)) for name, found in drawn.items()]
        section.body.append(element("div", *strips, class_="digits"))
    for network in networks:
        found = samples.get(network.name, network.missing.get("model", "it was not run on images"))
        if isinstance(found, str):
            section.skipped[network.name] = found
        elif isinstance(found, Samples):
            section.body += [element("h3", network.name), *_shown(found)]
    return section


def _about_codes(sizes: set[int]) -> str:
    if len(sizes) == 1:
        return "Generated images: in each column all networks were given the same code."
    numbers = " and ".join(map(str, sorted(sizes)))
    return (
        f"Generated images of random codes, which have {numbers} numbers: in each column the networks whose codes "
        "have the same size were given the same one."
    )


def overlay(sample: Sample) -> Tensor:
    """Return an image under its masks, (3, height, width): green where both agree, else red (predicted) or blue."""
    image = sample.image.expand(3, -1, -1)
    predicted, actual = sample.predicted > 0, sample.target > 0
    for where, color in (
        (predicted & actual, BOTH),
        (predicted & ~actual, ONLY_PREDICTED),
        (actual & ~predicted, ONLY_TRUE),
    ):
        tinted = (1 - OPACITY) * image + OPACITY * torch.tensor(color)[:, None, None]
        image = torch.where(where, tinted, image)
    return image


def _shown(found: Samples) -> list[Element]:
    where = f"{found.data}, split {found.split}"
    has_masks = any(sample.target.ndim == 2 for sample in found.samples)
    if not has_masks:
        right = sum(int(sample.predicted) == int(sample.target) for sample in found.samples)
        text = f"Images of {where}: the class that the network says, how sure it is, and the true one where it differs."
        classes = [_class_figure(sample, found.class_names) for sample in found.samples]
        note = f"{right} of these {len(found.samples)} are right."
        return [element("p", f"{text} {note}"), element("div", *classes, class_="small grid")]
    text = (
        f"Photos of {where} with masks: green where network and truth agree, red the network's alone, blue the truth's."
    )
    masks = [
        figure(
            _embedded(
                overlay(sample), f"photo {sample.position} with the mask of the network, Dice {sample.figure:.3f}"
            ),
            f"{sample.position}: Dice {100 * sample.figure:.2f} %",
        )
        for sample in found.samples
    ]
    return [element("p", text), element("div", *masks, class_="grid")]


def _class_figure(sample: Sample, names: Sequence[str]) -> Element:
    said, true = names[int(sample.predicted)], names[int(sample.target)]
    text = f"{said} ({100 * sample.figure:.0f} %)"
    is_right = int(sample.predicted) == int(sample.target)
    text += "" if is_right else f", true: {true}"
    shown = figure(_embedded(sample.image, f"image {sample.position}: predicted {said}, true {true}"), text)
    if not is_right:
        shown.set("class", "wrong")
    return shown


def _strip(images: Tensor, name: str) -> Element:
    return _embedded(torch.cat(list(images), dim=2), f"{len(images)} images that {name} generated", shrink=False)


def _embedded(image: Tensor, description: str, *, shrink: bool = True) -> Element:
    """Return an image (channels, height, width) as an element: a large one as reduced JPEG, a small one as PNG."""
    values = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    shown = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    is_large = shrink and max(shown.size) > MAX_SIDE
    if is_large:
        shown.thumbnail((MAX_SIDE, MAX_SIDE))
    content = io.BytesIO()
    if is_large:
        shown.save(content, format="JPEG", quality=JPEG_QUALITY)
    else:
        shown.save(content, format="PNG", optimize=True)
    return image_element(content.getvalue(), "jpeg" if is_large else "png", description, shown.size)
