"""The scores of maps against a transcription of the formulas with SciPy, map by map."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.channels.transcription import TRANSCRIPTIONS
from torch import Tensor, nn

from tailcut.channels.scoring import formulas
from tailcut.channels.scoring.blocks import BlockTransform
from tailcut.channels.scoring.formulas import COMPONENTS, Formula, MapParts, map_parts, map_scores
from tailcut.errors import ArgumentError

SIZES = (32, 16, 14, 8, 7, 4, 2, 1)
BLOCK_SIZES: tuple[Any, ...] = (1, 2, 4, 8, "whole")


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    """Positive and negative numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def real_maps() -> dict[int, Tensor]:
    """Maps after ReLU, of a photo through a small network, by their size."""
    from sklearn.datasets import load_sample_images

    torch.manual_seed(0)
    photo = torch.from_numpy(load_sample_images().images[0][:384, :384].copy()).permute(2, 0, 1)[None] / 255
    maps = {}
    for size in SIZES:
        image = nn.functional.interpolate(photo, size=(2 * size, 2 * size), mode="bilinear", antialias=True)
        network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        maps[size] = network(image).detach().double()
    return maps


def expected_parts(maps: Tensor, variant: str, block_size: int | str, sigma: float | None) -> MapParts:
    transcription = TRANSCRIPTIONS[variant]
    values = [transcription(one.numpy(), block_size, sigma) for one in maps.flatten(0, 1)]
    spectral, dist, spatial = (
        torch.tensor(column, dtype=torch.float64).view(maps.shape[:2]) for column in zip(*values, strict=True)
    )
    return MapParts(spectral, dist, spectral * dist, spatial)


def assert_parts_close(found: MapParts, expected: MapParts) -> None:
    for name, own, other in zip(MapParts._fields, found, expected, strict=True):
        assert own.dtype == torch.float64
        assert torch.allclose(own, other, rtol=1e-11, atol=1e-11), name


@pytest.mark.parametrize("variant", ["paper", "published"])
@pytest.mark.parametrize("size", SIZES)
def test_random_maps(size: int, variant: Any) -> None:
    maps = random_maps(2, 3, size, size)
    formula = Formula(variant)
    assert isinstance(formula.gaussian_sigma, float)
    assert_parts_close(
        map_parts(maps, formula), expected_parts(maps, variant, formula.block_size, formula.gaussian_sigma)
    )


@pytest.mark.parametrize("variant", ["paper", "published"])
def test_real_maps(variant: Any) -> None:
    for size, maps in real_maps().items():
        assert maps.shape[2:] == (size, size)
        formula = Formula(variant)
        assert isinstance(formula.gaussian_sigma, float)
        expected = expected_parts(maps, variant, formula.block_size, formula.gaussian_sigma)
        assert_parts_close(map_parts(maps, formula), expected)


@pytest.mark.parametrize("variant", ["paper", "published"])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("sigma", [None, 0.7, 2.5])
def test_block_sizes_and_filters(variant: Any, block_size: Any, sigma: float | None) -> None:
    for size in (14, 7, 3):
        maps = random_maps(1, 2, size, size, seed=size)
        found = map_parts(maps, Formula(variant, block_size, sigma))
        assert_parts_close(found, expected_parts(maps, variant, block_size, sigma))


@given(height=st.integers(1, 40), width=st.integers(1, 40), block_size=st.integers(1, 9))
def test_maps_of_any_sides(height: int, width: int, block_size: int) -> None:
    maps = random_maps(1, 1, height, width, seed=height)
    found = map_parts(maps, Formula(block_size=block_size))
    assert_parts_close(found, expected_parts(maps, "paper", block_size, 1.0))


@pytest.mark.parametrize("variant", ["paper", "published"])
@pytest.mark.parametrize("size", [32, 14, 8, 4, 1])
def test_single_precision(size: int, variant: Any) -> None:
    maps = random_maps(2, 3, size, size).float()
    formula = Formula(variant)
    assert isinstance(formula.gaussian_sigma, float)
    expected = expected_parts(maps.double(), variant, formula.block_size, formula.gaussian_sigma)
    found = map_parts(maps, formula)
    torch.testing.assert_close(found.spectral, expected.spectral, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.spatial, expected.spatial, rtol=1e-5, atol=0)
    # A coefficient next to the mean may fall on its other side.
    torch.testing.assert_close(found.dist, expected.dist, rtol=0, atol=1.5 / size**2 if size > 1 else 0)


ALL_COMPONENTS: list[tuple[tuple[Any, ...], Callable[[float, float, float], float]]] = [
    (("spectral", "dist", "spatial"), lambda spectral, dist, spatial: spectral * dist + 0.2 * spatial),
    (("spatial", "spectral"), lambda spectral, dist, spatial: spectral + 0.2 * spatial),
    (("dist", "spatial"), lambda spectral, dist, spatial: dist + 0.2 * spatial),
    (("spectral", "dist"), lambda spectral, dist, spatial: spectral * dist),
    (("spectral",), lambda spectral, dist, spatial: spectral),
    (("dist",), lambda spectral, dist, spatial: dist),
    (("spatial",), lambda spectral, dist, spatial: spatial),
]


@pytest.mark.parametrize(("components", "combine"), ALL_COMPONENTS)
@pytest.mark.parametrize("variant", ["paper", "published"])
def test_components(components: Any, combine: Callable[..., float], variant: Any) -> None:
    maps = random_maps(1, 2, 8, 8)
    formula = Formula(variant, components=components, spatial_weight=0.2)
    values = [combine(*TRANSCRIPTIONS[variant](one.numpy())) for one in maps[0]]
    torch.testing.assert_close(map_scores(maps, formula), torch.tensor([values], dtype=torch.float64))


def test_paper_s_numbers_by_hand() -> None:
    # One block of 2 x 2, c = cos(pi / 4): [[sum, (4 - 2 + 1 - 1) c], [(4 + 2 - 1 - 1) c, (4 - 2 - 1 + 1) c^2]].
    maps = torch.tensor([[[[4.0, 2.0], [1.0, 1.0]]]], dtype=torch.float64)
    cos = math.cos(math.pi / 4)
    coefficients = np.array([8, 2 * cos, 4 * cos, 2 * cos**2])  # mean 3.31: one of four is above
    expected = 0.25 * np.linalg.norm(coefficients) + 0.03 * math.sqrt(22)
    assert float(map_scores(maps, Formula(gaussian_sigma=None))) == pytest.approx(expected, rel=1e-14)


def test_spatial_is_the_smaller_part() -> None:
    # Section 3.4; with an orthonormal transform and no filter both norms would be equal.
    parts = map_parts(random_maps(1, 8, 16, 16).relu(), Formula(gaussian_sigma=None))
    assert bool((parts.spectral > 1.5 * parts.spatial).all())
    same = map_parts(random_maps(1, 8, 16, 16), Formula("published", gaussian_sigma=None))
    torch.testing.assert_close(same.spectral, same.spatial)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [3, 7, 14, 33])
@pytest.mark.parametrize("sigma", [None, 1.0])
def test_a_constant_map_does_not_score_by_chance(size: int, dtype: torch.dtype, sigma: float | None) -> None:
    values = torch.tensor([0.1, 0.3, 1 / 3, 7.7, 1e-4, 123.4], dtype=dtype)
    maps = values[None, :, None, None].expand(1, -1, size, size)
    assert map_parts(maps, Formula(block_size=1, gaussian_sigma=sigma)).dist.tolist() == [[1.0] * 6]
    assert map_parts(-maps, Formula(block_size=1, gaussian_sigma=sigma)).dist.tolist() == [[1.0] * 6]
    # Only the mean of each block is not 0, and it is above the mean of the coefficients.
    num_blocks = math.ceil(size / 4) ** 2
    found = map_parts(maps, Formula(gaussian_sigma=sigma)).dist
    torch.testing.assert_close(found, torch.full((1, 6), num_blocks / size**2, dtype=torch.float64))


@pytest.mark.parametrize("variant", ["paper", "published"])
def test_a_map_of_zeros_scores_zero(variant: Any) -> None:
    for size in (1, 2, 5, 32):
        assert map_scores(torch.zeros(2, 3, size, size), Formula(variant)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("variant", ["paper", "published"])
def test_the_scale_of_a_map_scales_its_norms_only(variant: Any) -> None:
    maps = random_maps(1, 4, 12, 12)
    one, double = map_parts(maps, Formula(variant)), map_parts(2 * maps, Formula(variant))
    assert double.dist.tolist() == one.dist.tolist()
    torch.testing.assert_close(double.spectral, 2 * one.spectral)
    torch.testing.assert_close(double.spatial, 2 * one.spatial)


def test_chunks_and_strides_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = random_maps(5, 6, 12, 12)
    whole = map_parts(maps)
    assert_parts_close(map_parts(maps.contiguous(memory_format=torch.channels_last)), whole)
    monkeypatch.setattr(formulas, "CHUNK_ON_CPU", 1000)
    sizes: list[int] = []
    original = BlockTransform.__call__

    def record(self: BlockTransform, chunk: Tensor) -> Tensor:
        sizes.append(chunk.numel())
        return original(self, chunk)

    monkeypatch.setattr(BlockTransform, "__call__", record)
    assert_parts_close(map_parts(maps), whole)
    assert_parts_close(map_parts(maps.contiguous(memory_format=torch.channels_last)), whole)
    assert_parts_close(map_parts(maps[:, ::2]), MapParts(*(part[:, ::2] for part in whole)))
    assert max(sizes) <= 1000 * torch.get_num_threads()
    assert sum(sizes) == maps.numel() * 5 // 2


def test_maps_are_not_changed_and_nothing_is_differentiated() -> None:
    maps = random_maps(2, 2, 9, 9).requires_grad_()
    before = maps.detach().clone()
    assert not map_scores(maps).requires_grad
    assert torch.equal(maps.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_worked_on_in_single(dtype: torch.dtype) -> None:
    maps = random_maps(1, 3, 8, 8).to(dtype)
    assert_parts_close(map_parts(maps), map_parts(maps.float()))


def test_autocast_does_not_round() -> None:
    maps = random_maps(1, 3, 32, 32).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = map_parts(maps)
    assert_parts_close(found, map_parts(maps))


def test_no_images_give_no_scores() -> None:
    assert map_scores(torch.zeros(0, 3, 8, 8)).shape == (0, 3)


def test_not_a_number_stays_one() -> None:
    maps = random_maps(1, 2, 8, 8)
    maps[0, 1, 3, 3] = float("nan")
    assert map_scores(maps).isnan().tolist() == [[False, True]]


@pytest.mark.parametrize(
    "maps",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.int64),
        torch.zeros(1, 3, 0, 8),
        torch.zeros(1, 0, 8, 8),
    ],
)
def test_other_tensors_are_refused(maps: Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"floating point \(batch, channels, height, width\), got torch"):
        map_parts(maps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "best"}, "variant must be one of paper, published; got 'best'"),
        ({"block_size": 0}, 'block_size must be an integer of at least 1 or "whole", got 0'),
        ({"block_size": 2.5}, "got 2.5"),
        ({"block_size": True}, "got True"),
        ({"block_size": "all"}, "got 'all'"),
        ({"gaussian_sigma": 0.0}, "gaussian_sigma must be above 0"),
        ({"gaussian_sigma": "wide"}, "gaussian_sigma must be a number, got 'wide'"),
        ({"spatial_weight": -0.1}, "spatial_weight must be at least 0 and finite, got -0.1"),
        ({"spatial_weight": float("nan")}, "got nan"),
        ({"spatial_weight": None}, "spatial_weight must be a number, got None"),
        ({"components": ()}, "components must be some of spectral, dist, spatial"),
        ({"components": ("spectral", "phase")}, "phase"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Formula(**settings)
    assert message in str(caught.value)


def test_defaults_are_those_of_the_variant() -> None:
    assert (Formula().block_size, Formula().gaussian_sigma, Formula().spatial_weight) == (4, 1.0, 0.03)
    assert (Formula("published").block_size, Formula("published").gaussian_sigma) == (2, 10.0)
    assert Formula("published", 8, None).block_size == 8
    assert Formula("published", 8, None).gaussian_sigma is None
    assert Formula(components=("spatial", "dist")).components == ("dist", "spatial")
    assert Formula(components="spatial").components == ("spatial",)
    assert Formula().components == COMPONENTS
