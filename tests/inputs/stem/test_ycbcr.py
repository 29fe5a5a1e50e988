from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.inputs import networks
from torch import Tensor, nn
from torch.nn.functional import conv2d

from tailcut.errors import ArgumentError, CorruptFileError, LimitError, ModelMismatchError, StructureError
from tailcut.format import load, save
from tailcut.format.container.contents import decode, encode
from tailcut.inputs.jpeg.coefficients import JpegCoefficients
from tailcut.inputs.stem.edit import transform_of
from tailcut.inputs.stem.replace import replace_stem
from tailcut.inputs.stem.ycbcr import YCbCrEdit, YCbCrPixels, use_ycbcr
from tailcut.structure import Reader, Writer, create_model, edit_kind, example_shape, record_of
from tailcut.weights import regularize

# JFIF 1.02, page 3, as printed there.
JFIF = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]],
    dtype=torch.float64,
)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 12, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def small() -> nn.Module:
    torch.manual_seed(0)
    return create_model("resnet18", width=2, num_classes=4).eval()


def fitted(images: Tensor) -> YCbCrPixels:
    return YCbCrPixels().fit([images])


def decoded(content: bytes) -> YCbCrEdit:
    reader = Reader(content)
    edit = YCbCrEdit.decode(reader, None)
    reader.end()
    return edit


def test_colours_are_those_of_jfif(images: Tensor) -> None:
    ours = YCbCrPixels().double()(images)
    expected = torch.einsum("yc,nchw->nyhw", JFIF, images.double()) - torch.tensor([128.0, 0, 0])[:, None, None]
    assert (ours - expected).abs().max() < 0.0001 * 255  # four digits are printed


def test_colours_are_those_of_pillow(images: Tensor) -> None:
    """Pillow rounds each plane to whole numbers."""
    for image in images:
        theirs = np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("YCbCr"))
        ours = YCbCrPixels()(image) + 128
        assert (ours - torch.from_numpy(theirs).permute(2, 0, 1)).abs().max() <= 1


def test_floats_are_a_255th(images: Tensor) -> None:
    transform = fitted(images)
    torch.testing.assert_close(transform(images / 255), transform(images))
    assert transform(images.half() / 255).dtype == torch.float16
    double = transform.double()
    assert double(images).dtype == torch.float64


def test_fitted_planes_are_normalised(images: Tensor) -> None:
    planes = fitted(images)(images)
    assert planes.shape == images.shape
    assert planes.mean((0, 2, 3)).abs().max() < 1e-5
    assert (planes.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_weights_mapped_through_the_colours_give_the_same(images: Tensor) -> None:
    """What a convolution of RGB gives, one of YCbCr gives too: the colours, the shift and the spread are linear."""
    transform = fitted(images).double()
    rgb = torch.rand(5, 3, 3, 3, dtype=torch.float64)
    x = transform(images)
    # RGB = J^-1 (std x + mean + shift), with J the colours of the transform itself, one basis colour at a time.
    corners = torch.eye(3, dtype=torch.float64)[:, :, None, None] * 255
    origin = YCbCrPixels().double()(0 * corners[:1])[0, :, 0, 0]
    colours = (YCbCrPixels().double()(corners / 255)[:, :, 0, 0] - origin).T / 255
    inverse = torch.linalg.inv(colours)
    weight = torch.einsum("ochw,cy->oyhw", rgb, inverse) * transform.std[:, None, None]
    bias = torch.einsum("ochw,cy,y->o", rgb, inverse, transform.mean - origin)
    torch.testing.assert_close(conv2d(x, weight, bias), conv2d(images.double(), rgb))


def test_gradients_reach_the_pixels() -> None:
    pixels = torch.rand(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(YCbCrPixels().double(), (pixels,))


def test_bad_images() -> None:
    transform = YCbCrPixels()
    stored = JpegCoefficients.__new__(JpegCoefficients)
    with pytest.raises(ArgumentError, match="decode it first"):
        transform.unnormalized(stored)
    for method in (transform, transform.unnormalized):
        with pytest.raises(ArgumentError, match="RGB images"):
            method(torch.zeros(1, 4, 4))


def test_a_packed_network_reads_as_before(images: Tensor, tmp_path: Path) -> None:
    model = use_ycbcr(small(), fitted(images), image_size=(40, 48))
    read = model.get_submodule("input_transform")
    before = model(read(images))
    save(model, tmp_path / "a.tailcut")
    again = load(tmp_path / "a.tailcut").eval()
    own = again.get_submodule("input_transform")
    assert isinstance(own, YCbCrPixels)
    assert torch.equal(again(own(images)), before)
    assert example_shape(again) == (1, 3, 40, 48)
    assert record_of(again).edits == [YCbCrEdit((40, 48))]
    assert transform_of(again) is None


def test_it_goes_with_other_edits(images: Tensor, tmp_path: Path) -> None:
    model = use_ycbcr(small(), fitted(images))
    regularize(model, keep_ratio=0.3)
    save(model, tmp_path / "a.tailcut")
    again = load(tmp_path / "a.tailcut").eval()
    x = model.get_submodule("input_transform")(images)
    torch.testing.assert_close(again(x), model(x))
    assert [edit.kind for edit in record_of(again).edits] == ["ycbcr", "regularize"]


def test_a_network_of_your_own(images: Tensor, tmp_path: Path) -> None:
    model = use_ycbcr(networks.Functional().eval(), fitted(images), example_input=torch.zeros(1, 3, 16, 16))
    save(model, tmp_path / "a.tailcut")
    again = load(tmp_path / "a.tailcut", into=networks.Functional().eval())
    x = again.get_submodule("input_transform")(images)
    assert torch.equal(again(x), model(x))


def test_on_the_meta_device_it_is_the_same() -> None:
    real, ghost = small(), small().to("meta")
    state = torch.random.get_rng_state()
    for model in (real, ghost):
        YCbCrEdit((32, 32)).apply(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert str(real) == str(ghost)
    assert all(tensor.is_meta for tensor in ghost.state_dict().values())
    assert not real.get_submodule("input_transform").training


class RunsAll(nn.Module):
    """Runs whatever children it has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda: use_ycbcr(small()), StructureError, "replaced already"),
        (lambda: replace_stem(small(), 24), StructureError, "replaced already"),
        (networks.sequence, StructureError, r"nn\.Sequential would run"),
        (RunsAll, StructureError, "runs all its children"),
        (lambda: create_model("lenet5"), ArgumentError, "lenet5 does not read images of three channels"),
        (lambda: nn.Linear(3, 2), StructureError, "does not run"),
    ],
)
def test_networks_that_cannot_read_it(model: Any, error: type[Exception], message: str) -> None:
    network = model()
    before = str(network)
    with pytest.raises(error, match=message):
        use_ycbcr(network)
    assert str(network) == before


def test_a_stem_is_not_replaced_behind_it() -> None:
    with pytest.raises(StructureError, match="replaced already"):
        replace_stem(use_ycbcr(small()), 24)


def test_other_bad_input() -> None:
    with pytest.raises(ArgumentError, match="side of an image"):
        use_ycbcr(small(), image_size=0)
    taken = small()
    taken.input_transform = nn.Identity()
    with pytest.raises(StructureError, match="reserved for the transform"):
        use_ycbcr(taken)
    lost = use_ycbcr(small())
    del lost.input_transform
    with pytest.raises(StructureError, match="lost its input_transform"):
        record_of(lost).edits[0].current(lost)


@given(st.tuples(st.integers(1, 8192), st.integers(1, 8192)))
def test_what_is_written_is_read(size: tuple[int, int]) -> None:
    writer = Writer()
    YCbCrEdit(size).encode(writer, None)
    assert decoded(writer.getvalue()) == YCbCrEdit(size)


def test_the_bytes_are_those_of_the_specification() -> None:
    writer = Writer()
    YCbCrEdit((112, 300)).encode(writer, None)
    assert writer.getvalue().hex() == "70" + "ac02"
    assert edit_kind(4) is YCbCrEdit


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"\x00\x01", CorruptFileError, "is 0"),
        (b"\x01\x81\x40", LimitError, "8193"),
        (b"\x01\x01\x01", CorruptFileError, "1 bytes are left"),
    ],
)
def test_hostile_bytes(content: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        decoded(content)


def test_a_file_that_says_it_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tailcut"
    save(use_ycbcr(small()), path)
    contents = decode(path.read_bytes())
    path.write_bytes(encode(replace(contents, edits=contents.edits * 2)))
    with pytest.raises(ModelMismatchError, match="replaced already"):
        load(path)
