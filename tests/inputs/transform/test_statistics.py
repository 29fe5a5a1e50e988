import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailcut.errors import ArgumentError, DataError
from tailcut.inputs import ChannelStatistics


def maps(*shape: int, seed: int, offset: float = 0.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset


@given(
    sizes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=6),
    offset=st.sampled_from([0.0, 1e6, -1e3]),
)
def test_like_numpy_over_everything_at_once(sizes: list[tuple[int, int, int]], offset: float) -> None:
    batches = [maps(n, 3, h, w, seed=place, offset=offset) for place, (n, h, w) in enumerate(sizes)]
    statistics = ChannelStatistics(3)
    for batch in batches:
        statistics.update(batch)
    everything = np.concatenate([batch.transpose(0, 1).flatten(1).numpy() for batch in batches], axis=1)
    assert statistics.count == everything.shape[1]
    if statistics.count:
        np.testing.assert_allclose(statistics.mean.numpy(), everything.mean(1), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(statistics.std.numpy(), everything.std(1), rtol=1e-7, atol=1e-9)


@given(cut=st.integers(0, 5))
def test_merging_is_like_seeing_both(cut: int) -> None:
    batches = [maps(2, 2, 3, 3, seed=seed, offset=seed) for seed in range(5)]
    parts = [ChannelStatistics(2), ChannelStatistics(2)]
    whole = ChannelStatistics(2)
    for place, batch in enumerate(batches):
        parts[place >= cut].update(batch)
        whole.update(batch)
    merged = parts[0].merge(parts[1])
    assert merged.count == whole.count
    torch.testing.assert_close(merged.mean, whole.mean)
    torch.testing.assert_close(merged.std, whole.std)


def test_the_spread_is_of_numbers_not_of_means_per_image() -> None:
    """Images of equal means still spread; the published constants are spreads of such means."""
    image = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).expand(5, 1, 2, 2)
    statistics = ChannelStatistics(1).update(image)
    assert image.mean((-2, -1)).std() == 0
    assert statistics.std.item() == 1


def test_small_types_are_summed_in_float64() -> None:
    values = torch.full((1, 1, 300, 300), 7.0, dtype=torch.bfloat16)
    statistics = ChannelStatistics(1).update(values).update(values)
    assert (statistics.mean.item(), statistics.std.item(), statistics.count) == (7.0, 0.0, 180_000)


def test_without_anything() -> None:
    statistics = ChannelStatistics(2).update(torch.zeros(0, 2, 3, 3)).merge(ChannelStatistics(2))
    assert statistics.count == 0
    assert statistics.std.tolist() == [0, 0]


def test_gradients_are_not_kept() -> None:
    values = torch.ones(1, 1, 2, 2, requires_grad=True)
    assert not ChannelStatistics(1).update(values).mean.requires_grad


def test_bad_input() -> None:
    statistics = ChannelStatistics(3)
    for bad in (torch.zeros(2, 2), torch.zeros(2, 4, 4), torch.zeros(3, 2, 2, dtype=torch.uint8)):
        with pytest.raises(ArgumentError, match=r"expected floating-point maps \(..., 3, height, width\), got"):
            statistics.update(bad)
    for number in (torch.nan, torch.inf):
        with pytest.raises(DataError, match="a number that is not finite"):
            statistics.update(torch.full((3, 1, 1), number))
    with pytest.raises(ArgumentError, match="statistics of 3 channels, got 2"):
        statistics.merge(ChannelStatistics(2))
    with pytest.raises(ArgumentError, match="at least one channel"):
        ChannelStatistics(0)
    assert statistics.count == 0
