import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn
from torch import Tensor

from tailcut.errors import ArgumentError, DataError
from tailcut.inputs import BlockDCT, Selection, describe_image, frequency_energy, reconstruction_errors
from tailcut.transform.color import rgb_to_ycbcr


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def energy_by_scipy(batch: Tensor) -> np.ndarray:
    """Mean square per frequency, (192,), of images (n, 3, 8 h, 8 w)."""
    planes = (rgb_to_ycbcr(batch * 255) - 128).numpy()
    blocks = planes.reshape(*planes.shape[:2], planes.shape[2] // 8, 8, planes.shape[3] // 8, 8)
    coefficients = dctn(blocks, axes=(3, 5), norm="ortho")
    flat: np.ndarray = np.square(coefficients).mean(axis=(0, 2, 4)).reshape(192)
    return flat


def test_energy_like_scipy() -> None:
    batch = images(3, 3, 16, 24)
    np.testing.assert_allclose(frequency_energy(batch).numpy(), energy_by_scipy(batch), rtol=1e-9)
    np.testing.assert_allclose(
        frequency_energy([batch[:1], (batch[1:], None)]).numpy(), energy_by_scipy(batch), rtol=1e-9
    )


def test_energy_is_that_of_the_samples() -> None:
    """Parseval."""
    batch = images(2, 3, 16, 16)
    samples = (rgb_to_ycbcr(batch * 255) - 128).square().mean((0, 2, 3))
    torch.testing.assert_close(frequency_energy(batch).reshape(3, 64).sum(1), 64 * samples)


def test_two_scale_chroma_has_less() -> None:
    batch = images(1, 3, 16, 16)
    full, smoothed = frequency_energy(batch), frequency_energy(batch, chroma="two_scale")
    torch.testing.assert_close(smoothed[:64], full[:64])
    assert smoothed[64:].sum() < 0.8 * full[64:].sum()


@given(seed=st.integers(0, 5), kept=st.integers(0, 192))
def test_errors_are_those_of_rebuilt_images(seed: int, kept: int) -> None:
    batch = images(2, 3, 16, 8, seed=seed)
    energy = frequency_energy(batch)
    order = torch.randperm(192, generator=torch.Generator().manual_seed(seed)).tolist()
    errors = reconstruction_errors(energy, order)
    assert errors.shape == (193,)
    planes = rgb_to_ycbcr(batch * 255)
    rebuilt = torch.full_like(planes, 128.0)
    if kept:
        transform = BlockDCT(order[:kept], chroma="full")
        rebuilt = rgb_to_ycbcr(transform.double().inverse(transform(batch)) * 255)
    expected = float((rebuilt - planes).square().mean().sqrt())
    assert float(errors[kept]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_errors_by_energy_fall_fastest() -> None:
    energy = frequency_energy(images(1, 3, 24, 24))
    best = reconstruction_errors(energy)
    assert bool((best.diff() <= 0).all())
    assert bool((best <= reconstruction_errors(energy, list(range(192))) + 1e-9).all())
    assert best[-1] == 0
    top = set(Selection.by_energy(energy, 24).indices)
    left_out = [channel for channel in range(192) if channel not in top]
    assert float(best[24]) == pytest.approx(math.sqrt(float(energy[left_out].sum()) / 192))


def test_a_report() -> None:
    image = torch.nn.functional.interpolate(images(1, 3, 4, 5), (20, 33), mode="bicubic")[0].clamp(0, 1)
    transform = BlockDCT(24)
    report = describe_image(image, transform, name="a.png")
    assert (report.image, report.height, report.width, report.chroma) == ("a.png", 20, 33, "two_scale")
    assert report.shape == (24, 3, 5)
    assert report.input_ratio == 24 * 15 / (3 * 20 * 33)
    assert report.selection["chroma_red"] == [0, 1, 8, 9]
    energy = frequency_energy(image, chroma="two_scale")
    kept = list(transform.selection.indices)
    assert report.energy_ratio == pytest.approx(float(energy[kept].sum() / energy.sum()))
    details = [channel for channel in range(192) if channel % 64]
    kept_details = [channel for channel in kept if channel % 64]
    assert report.detail_ratio == pytest.approx(float(energy[kept_details].sum() / energy[details].sum()))
    rebuilt = transform.inverse(transform(image), (20, 33)).clamp(0, 1)
    assert report.psnr_db == pytest.approx(10 * math.log10(1 / float((rebuilt - image).square().mean())))
    assert json.loads(report.to_json())["shape"] == [24, 3, 5]
    assert "24 (16 + 4 + 4) of 3 x 5, chroma two_scale" in str(report)


def test_a_report_of_nothing_lost() -> None:
    black = torch.zeros(3, 8, 8)
    report = describe_image(black, BlockDCT(6, chroma="full"))
    assert report.energy_ratio == pytest.approx(1)
    assert report.psnr_db is None or report.psnr_db > 100
    middle = torch.full((3, 8, 8), 128, dtype=torch.uint8)
    report = describe_image(middle, BlockDCT([0, 64, 128]).double())
    report.psnr_db = None
    assert "no error" in str(report)


def test_uint8_and_float_reports_agree() -> None:
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    first, second = (describe_image(one, BlockDCT(24)) for one in (image, image / 255))
    assert first.psnr_db == pytest.approx(second.psnr_db, rel=1e-4)
    assert first.energy_ratio == pytest.approx(second.energy_ratio, rel=1e-4)


def test_bad_input() -> None:
    with pytest.raises(DataError, match="the loader is empty"):
        frequency_energy([])
    for energy in (torch.ones(64), -torch.ones(192), torch.full((192,), torch.inf)):
        with pytest.raises(ArgumentError, match="the energy of 192 channels, finite and not negative"):
            reconstruction_errors(energy)
    for order in ([0], [0] * 192, list(range(1, 193))):
        with pytest.raises(ArgumentError, match="holds each channel of 0 to 191 once"):
            reconstruction_errors(torch.ones(192), order)
    with pytest.raises(ArgumentError, match=r"expected one image \(3, height, width\), got shape"):
        describe_image(torch.zeros(1, 3, 8, 8), BlockDCT(6))


@pytest.mark.parametrize("value", [128, 100, 37])
@pytest.mark.parametrize("chroma", ["two_scale", "full"])
def test_all_is_kept_of_a_flat_image(value: int, chroma: Any) -> None:
    """It has no details, but for rounding errors, which no selection can lose."""
    report = describe_image(torch.full((3, 64, 64), value, dtype=torch.uint8), BlockDCT(24, chroma=chroma))
    assert (report.energy_ratio, report.detail_ratio) == (1.0, 1.0)


def test_one_faint_detail_of_a_large_image_counts() -> None:
    image = torch.full((3, 512, 512), 100, dtype=torch.uint8)
    image[2, 300, 301] += 1
    assert 0.05 < describe_image(image, BlockDCT(24)).detail_ratio < 0.6
