"""Which networks a page can show, and as what."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export_html.wasm import BUILDS, Runner
from torch import nn

import tailcut
from tailcut.errors import ArgumentError, StructureError
from tailcut.evaluation.generation import Sampler
from tailcut.evaluation.pixel_inputs import ImageReader
from tailcut.export_html.network import page_network
from tailcut.inputs import replace_stem, use_ycbcr
from tailcut.structure import create_model

# A network on frequency channels that a gate chooses, one by one: C code has no form of that.
GATED = Path(__file__).parents[1] / "format" / "golden" / "edits" / "stem-gate-regularized.tailcut"


def test_a_classifier_has_one_program_and_the_names_of_its_classes() -> None:
    network = page_network(tailcut.load("zoo:resnet18-2688"))
    assert network.kind == "classes"
    assert [program.input_shape for program in network.programs] == [(3, 32, 32)]
    assert network.class_names[:3] == ("airplane", "automobile", "bird")
    assert page_network(tailcut.load("zoo:lenet5-776")).class_names == tuple("0123456789")


def test_masks_are_made_of_wide_and_upright_photos() -> None:
    model = tailcut.load("zoo:unet-759-float16")
    network = page_network(model)
    assert network.kind == "mask"
    assert [program.input_shape for program in network.programs] == [(3, 320, 480), (3, 480, 320)]
    assert network.class_names == ()
    assert network.num_parameters == 31_024_960
    assert [program.input_shape for program in page_network(model, (64, 64)).programs] == [(3, 64, 64)]


@pytest.mark.parametrize("size", [(0, 64), (64, 65_536), (60_000, 60_000)])
def test_sizes_that_no_input_has_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match="must be a height and a width of 1 to 65,535"):
        page_network(tailcut.load("zoo:unet-759-float16"), size)


@pytest.mark.parametrize("name", ["gan-64383", "vae-97134"])
def test_generators_make_images_of_codes(name: str) -> None:
    model = tailcut.load(f"zoo:{name}")
    network = page_network(model)
    sampler = Sampler(model, dense=True)
    assert network.kind == "images"
    assert network.programs[0].input_shape == (sampler.code_size,)
    code = torch.randn(1, sampler.code_size, generator=torch.Generator().manual_seed(0))
    found = Runner(BUILDS[0], network.programs).run(0, code.numpy())
    np.testing.assert_allclose(found, sampler(code).flatten().numpy(), atol=1e-5)
    with pytest.raises(ArgumentError, match="takes no size"):
        page_network(model, (28, 28))


@pytest.mark.parametrize("build", BUILDS)
def test_transformers(build: str) -> None:
    torch.manual_seed(0)
    model = tailcut.create_model("vit", image_size=16, width=12, depth=1, num_heads=3, mlp_width=20).eval()
    tailcut.regularize(model, keep_ratio=0.5, include=["*.weight", "position"])
    image = torch.rand(1, 3, 16, 16)
    found = Runner(build, page_network(model).programs).run(0, image.numpy())
    with torch.no_grad():
        wanted = ImageReader(model)(image).flatten().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("change", [use_ycbcr, lambda model: replace_stem(model, 24)], ids=["ycbcr", "channels"])
def test_pixels_go_through_the_transform_of_the_network(change: Callable[[nn.Module], object]) -> None:
    model = tailcut.create_model("resnet20").eval()
    change(model)
    network = page_network(model)
    assert network.programs[0].input_shape[0] == 3
    image = torch.rand(1, *network.programs[0].input_shape, generator=torch.Generator().manual_seed(0))
    found = Runner(BUILDS[0], network.programs).run(0, image.numpy())
    with torch.no_grad():
        wanted = ImageReader(model)(image).flatten().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ArgumentError, match="registered family"):
        page_network(nn.Conv2d(3, 1, 1))
    with pytest.raises(StructureError, match=r"select \(network.normalize\)"):
        page_network(tailcut.load(GATED))
    with pytest.raises(ArgumentError, match=r"the network gives \(3, 4, 4\)"):
        page_network(tailcut.create_model("unet", widths=(4, 8), num_classes=3), (4, 4))
    with pytest.raises(ArgumentError, match=r"does not take an input of shape \(1, 1, 14, 14\)"):
        page_network(tailcut.create_model("lenet5"), (14, 14))


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_than_those_of_images_are_refused(channels: int) -> None:
    with pytest.raises(ArgumentError, match=f"reads grey or RGB images; the network takes {channels} channels"):
        page_network(create_model("unet", widths=(4, 8), in_channels=channels))


def test_a_single_number_is_no_class() -> None:
    with pytest.raises(ArgumentError, match="two classes or more; the network gives one number"):
        page_network(create_model("lenet300", num_classes=1))
