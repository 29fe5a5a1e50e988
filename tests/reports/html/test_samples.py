import base64
import io
from xml.etree.ElementTree import Element

import numpy as np
import pytest
import torch
from PIL import Image
from tests.reports.html.pages import check_page

from tailcut.reports.html.elements import PageSection, write_page
from tailcut.reports.html.samples import MAX_SIDE, Generated, Sample, Samples, Shown, overlay, samples_section
from tailcut.reports.networks import ReportedNetwork


def digit(position: int, target: int, predicted: int) -> Sample:
    image = torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(position))
    return Sample(position, image, torch.tensor(target), torch.tensor(predicted), 0.987)


def images(section: PageSection) -> list[Element]:
    return [image for part in section.body for image in part.iter("img")]


def pixels(image: Element) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.attrib["src"].partition(",")[2]))))


def test_classes_are_shown_with_their_images(networks: list[ReportedNetwork]) -> None:
    names = ("zero", "<b>one", "two")
    found = Samples("digits", "test", names, [digit(0, 1, 1), digit(5, 2, 0)])
    section = samples_section(networks[1:2], {"zoo:lenet5-776": found})
    text = check_page(write_page("a page", [], [section])).text
    assert "<b>one (99 %)" in text
    assert "zero (99 %), true: two" in text
    assert "1 of these 2 are right" in text
    assert "digits, split test" in text
    first, _ = images(section)
    np.testing.assert_allclose(pixels(first) / 255, found.samples[0].image[0], atol=0.5 / 255 + 1e-6)
    assert [part.get("class") for part in section.body[-1].iter("figure")] == [None, "wrong"]


def test_masks_lie_over_their_photos() -> None:
    image = torch.full((3, 2, 2), 0.5)
    target, predicted = torch.tensor([[1, 1], [0, 0]]), torch.tensor([[True, False], [True, False]])
    shown = overlay(Sample(0, image, target, predicted, 0.5))
    green, blue = shown[:, 0, 0], shown[:, 0, 1]
    red, plain = shown[:, 1, 0], shown[:, 1, 1]
    assert int(green.argmax()) == 1
    assert int(blue.argmax()) == 2
    assert int(red.argmax()) == 0
    assert torch.equal(plain, torch.full((3,), 0.5))
    assert torch.equal(image, torch.full((3, 2, 2), 0.5))


def test_large_photos_are_reduced(networks: list[ReportedNetwork]) -> None:
    mask = torch.zeros(400, 720, dtype=torch.int64)
    sample = Sample(3, torch.rand(3, 400, 720), mask, mask > 0, 0.9)
    section = samples_section(networks[1:2], {"zoo:lenet5-776": Samples("carvana", "val", ("back", "car"), [sample])})
    (photo,) = images(section)
    assert photo.attrib["src"].startswith("data:image/jpeg")
    assert pixels(photo).shape == (MAX_SIDE * 400 // 720, MAX_SIDE, 3)
    assert (photo.attrib["width"], photo.attrib["height"]) == (str(MAX_SIDE), str(MAX_SIDE * 400 // 720))
    assert "3: Dice 90.00 %" in "".join("".join(part.itertext()) for part in section.body)


def test_generated_images_stand_below_one_another(networks: list[ReportedNetwork]) -> None:
    made = torch.arange(3 * 28 * 28).reshape(3, 1, 28, 28) / (3 * 28 * 28)
    samples: dict[str, Shown] = {
        networks[1].name: Generated(made, 100),
        networks[2].name: Generated(1 - made, 100),
        networks[0].name: "no data",
    }
    section = samples_section(networks, samples)
    assert section.body[0].text == "Generated images: in each column all networks were given the same code."
    first, second = images(section)
    assert pixels(first).shape == (28, 3 * 28)
    np.testing.assert_allclose(pixels(first)[:, 28:56] / 255, made[1, 0], atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(pixels(first).astype(int) + pixels(second), 255, atol=1)
    assert section.skipped == {networks[0].name: "no data"}


def test_codes_of_different_sizes_are_not_said_to_be_the_same(networks: list[ReportedNetwork]) -> None:
    made = torch.zeros(2, 1, 4, 4)
    samples = {networks[1].name: Generated(made, 100), networks[2].name: Generated(made, 20)}
    text = samples_section(networks[1:], samples).body[0].text
    assert text is not None
    assert "all networks" not in text
    assert "20 and 100 numbers" in text


def test_images_are_chosen_from_the_split_that_is_named(networks: list[ReportedNetwork]) -> None:
    found = Samples("digits", "train", [*map(str, range(10))], [digit(0, 1, 1)])
    section = samples_section(networks[1:2], {networks[1].name: found})
    assert "digits, split train" in "".join(section.body[1].itertext())
    assert "test split" not in section.introduction


@pytest.mark.parametrize("samples", [{}, {"zoo:lenet5-776": "it lies nowhere"}])
def test_a_network_without_samples_says_why(samples: dict[str, str], networks: list[ReportedNetwork]) -> None:
    section = samples_section(networks[1:2], samples)
    assert section.skipped == {"zoo:lenet5-776": samples.get("zoo:lenet5-776", "it was not run on images")}
    assert images(section) == []
