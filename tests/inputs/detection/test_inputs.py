from pathlib import Path

import numpy as np
import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from tailcut.data import read_image
from tailcut.errors import ArgumentError, DataError
from tailcut.inputs import BlockDCT
from tailcut.inputs.detection.inputs import DetectorInputs, read_pixels


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def test_the_sizes_of_the_paper() -> None:
    inputs = DetectorInputs(BlockDCT(64), min_size=800, max_size=1333)
    batch = inputs(images((48, 80)))  # 3 : 5, as much as the limits allow
    assert batch.sizes == [(799, 1333)]
    assert inputs.resized(images((48, 80))[0]).shape == (3, 1598, 2666)
    assert batch.maps.shape == (1, 64, 200, 336)  # 200 x 334, padded to whole pixels of the coarsest maps
    assert batch.padded == (800, 1344)
    assert bool((batch.maps[..., 334:] == 0).all())
    assert not bool((batch.maps[..., 333] == 0).all())


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1000), st.integers(0, 1000))
def test_an_image_becomes_as_large_as_the_limits_allow(height: int, width: int, least: int, more: int) -> None:
    inputs = DetectorInputs(None, min_size=least, max_size=least + more)
    rows, columns = inputs.size_of(torch.empty(3, height, width, device="meta"))
    assert min(rows, columns) <= least
    assert max(rows, columns) <= least + more
    assert min(rows, columns) == least or max(rows, columns) == least + more
    # Both sides by one factor, rounded down.
    factor = min(least / min(height, width), (least + more) / max(height, width))
    assert rows == pytest.approx(height * factor, abs=1.001) or rows == 1
    assert columns == pytest.approx(width * factor, abs=1.001) or columns == 1


def test_channels_are_those_of_the_enlarged_image_alone() -> None:
    one, other = images((40, 64), (64, 48))
    dct = BlockDCT(24)
    dct.mean.fill_(3.0)
    inputs = DetectorInputs(dct, min_size=40, max_size=64)
    batch = inputs([one, other])
    assert batch.sizes == [(40, 64), (53, 40)]
    assert batch.maps.shape == (2, 24, 16, 16)
    enlarged = interpolate(one[None], size=(80, 128), mode="bilinear")
    assert torch.allclose(batch.maps[0, :, :10, :16], dct(enlarged)[0], atol=1e-3)
    assert bool((batch.maps[0, :, 10:] == 0).all())
    alone = inputs([one])
    assert torch.equal(alone.maps[0], batch.maps[0, :, : alone.maps.shape[2], : alone.maps.shape[3]])


def test_rgb_is_what_torchvision_makes_of_it() -> None:
    transform = pytest.importorskip("torchvision.models.detection.transform")
    given_images = images((40, 64), (50, 30))
    targets = [
        {
            "boxes": torch.tensor([[2.0, 3.0, 30.0, 20.0]]),
            "labels": torch.tensor([1]),
            "masks": (torch.rand(1, *image.shape[1:], generator=torch.Generator().manual_seed(0)) > 0.5).byte(),
        }
        for image in given_images
    ]
    peer = transform.GeneralizedRCNNTransform(80, 120, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected, moved = peer(given_images, targets)
    batch = DetectorInputs(None, min_size=80, max_size=120)(given_images, targets)
    assert batch.sizes == [tuple(size) for size in expected.image_sizes]
    assert batch.padded == tuple(expected.tensors.shape[-2:])
    assert torch.allclose(batch.maps, expected.tensors, atol=1e-4)
    assert batch.targets is not None
    for ours, theirs in zip(batch.targets, moved, strict=True):
        assert torch.allclose(ours["boxes"], theirs["boxes"], atol=1e-4)
        assert torch.equal(ours["masks"], theirs["masks"])


@given(st.integers(8, 200), st.integers(8, 200))
def test_boxes_come_back_to_the_image(height: int, width: int) -> None:
    inputs = DetectorInputs(None, min_size=32, max_size=64)
    boxes = torch.tensor([[0.0, 0.0, width, height], [1.0, 2.0, 5.0, 7.0]])
    batch = inputs([torch.zeros(3, height, width)], [{"boxes": boxes}])
    assert batch.targets is not None
    rows, columns = batch.sizes[0]
    assert batch.targets[0]["boxes"][0].tolist() == pytest.approx([0, 0, columns, rows], rel=1e-5)
    found = inputs.restored(batch.targets[0], batch.sizes[0], (height, width))
    assert torch.allclose(found["boxes"], boxes, rtol=1e-4)


def test_nothing_given_is_changed() -> None:
    (image,) = images((20, 30))
    before, target = image.clone(), {"boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0]])}
    DetectorInputs(BlockDCT(6), min_size=40, max_size=80)([image], [target])
    assert torch.equal(image, before)
    assert target["boxes"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(("least", "most"), [(0, 10), (20, 10)])
def test_sizes_that_cannot_be(least: int, most: int) -> None:
    with pytest.raises(ArgumentError, match=f"1 <= min_size <= max_size, got min_size={least}, max_size={most}"):
        DetectorInputs(None, min_size=least, max_size=most)


def test_files_become_images(tmp_path: Path) -> None:
    made = Image.new("RGB", (6, 4), (255, 0, 51))
    made.putpixel((5, 0), (0, 0, 0))
    made.save(tmp_path / "a.png")
    image = read_pixels(tmp_path / "a.png")
    assert image.shape == (3, 4, 6)
    assert image[:, 1, 1].tolist() == pytest.approx([1, 0, 0.2])
    assert image[:, 0, 5].tolist() == [0, 0, 0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    made.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_pixels(tmp_path / "turned.jpg").shape == (3, 6, 4)


def test_grey_of_16_bits_and_transparent_images_are_those_that_classifiers_see(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 24, dtype=np.uint16).reshape(4, 6)).save(tmp_path / "grey.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)).save(tmp_path / "clear.png")
    for name in ("grey", "clear"):
        image = read_pixels(tmp_path / f"{name}.png")
        torch.testing.assert_close(image, read_image(tmp_path / f"{name}.png", channels=3)[0])
        assert image.unique().numel() > 12


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for name in ("a.jpg", "gone.jpg"):
        with pytest.raises(DataError, match=f"cannot read the image .*{name}"):
            read_pixels(tmp_path / name)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "EPS"])
def test_files_of_other_kinds_are_not_opened(kind: str, tmp_path: Path) -> None:
    """Pillow knows dozens, and runs another program for some."""
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", format=kind)
    with pytest.raises(DataError, match="cannot read the image"):
        read_pixels(tmp_path / "a.jpg")


def test_an_image_of_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 20_000
    with pytest.raises(DataError, match=r"9000 x 9000 pixels; at most 16,777,216 are allowed"):
        read_pixels(tmp_path / "a.png")


def test_a_jpeg_that_lacks_data_is_refused(tmp_path: Path) -> None:
    """Pillow takes it without a word: libjpeg makes the rest grey."""
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    assert read_pixels(path).shape == (3, 64, 64)
    path.write_bytes(path.read_bytes()[:-200] + b"\xff\xd9")
    Image.open(path).load()
    with pytest.raises(DataError, match=r"cannot read the image .*a\.jpg: .*the image data end early"):
        read_pixels(path)
