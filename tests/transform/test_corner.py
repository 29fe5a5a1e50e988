import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from torch import nn

from tailcut.transform import corner as corner_module
from tailcut.transform.corner import FFT_COST, MAX_JOINED_SIZE, Stage, plan_stages
from tailcut.transform.dct import FFT_MIN_SIZE
from tailcut.weights import regularize


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def expand(x: torch.Tensor, stages: tuple[Stage, ...]) -> torch.Tensor:
    for stage in stages:
        x = stage.expand(x, None if stage.by_fft else stage.basis(torch.float64))
    return x


def project(x: torch.Tensor, stages: tuple[Stage, ...]) -> torch.Tensor:
    for stage in reversed(stages):
        x = stage.project(x, None if stage.by_fft else stage.basis(torch.float64))
    return x


def check(
    corner: tuple[int, ...], shape: tuple[int, ...], axes: tuple[int, ...], *, prefer_matrices: bool = False
) -> tuple[Stage, ...]:
    """Expansion and projection of this corner against SciPy's transform of the padded tensor."""
    stages = plan_stages(corner, shape, axes, prefer_matrices=prefer_matrices)
    x = noise(corner)
    padded = np.zeros(shape)
    padded[tuple(slice(size) for size in corner)] = x.numpy()
    whole = expand(x, stages)
    expected = idctn(padded, axes=axes, norm="ortho") if axes else padded
    np.testing.assert_allclose(whole.numpy(), expected, rtol=0, atol=1e-12)
    other = noise(shape)
    spectrum = dctn(other.numpy(), axes=axes, norm="ortho") if axes else other.numpy()
    kept = spectrum[tuple(slice(size) for size in corner)]
    np.testing.assert_allclose(project(other, stages).numpy(), kept, rtol=0, atol=1e-12)
    return stages


@st.composite
def corners(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.sampled_from([1, 1, 2, 3, 3, 5, 8, 20]), min_size=1, max_size=5)))
    axes = tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape)))))))
    corner = tuple(draw(st.integers(1, size)) if axis in axes else size for axis, size in enumerate(shape))
    return corner, shape, axes


@given(corners())
def test_random_corners_like_scipy(case: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> None:
    check(*case)


@given(corners())
def test_random_corners_by_fft_like_scipy(case: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corner_module, "FFT_MIN_SIZE", 2)
        patch.setattr(corner_module, "FFT_COST", 0.1)
        patch.setattr(corner_module, "MAX_JOINED_SIZE", 1)
        stages = check(*case)
    assert all(stage.by_fft for stage in stages if stage.kept[0] > 0.1 * math.log2(stage.sizes[0]))


@pytest.mark.parametrize(
    ("corner", "shape"),
    [
        ((250, 3), (FFT_MIN_SIZE, 4)),
        ((2, 300), (3, 331)),
        ((3, 290, 2), (4, 300, 2)),
        ((300, 280), (301, 300)),
        ((270,), (270,)),
    ],
)
def test_large_corners_take_the_fft(corner: tuple[int, ...], shape: tuple[int, ...]) -> None:
    stages = check(corner, shape, tuple(range(len(shape))))
    assert any(stage.by_fft for stage in stages)
    for stage in stages:
        large = max(stage.sizes) >= FFT_MIN_SIZE and max(stage.kept) > FFT_COST * math.log2(max(stage.sizes))
        assert stage.by_fft == large


def test_where_matrices_are_preferred_large_corners_take_them() -> None:
    for corner, shape in (((250, 3), (FFT_MIN_SIZE, 4)), ((300, 280), (301, 300)), ((3, 290, 8), (40, 300, 8))):
        assert not any(stage.by_fft for stage in check(corner, shape, tuple(range(len(shape))), prefer_matrices=True))
    (stage,) = check((5000,), (6000,), (0,), prefer_matrices=True)  # its basis would take 120 MB
    assert stage.by_fft


def test_small_corners_take_matrices() -> None:
    assert not any(stage.by_fft for stage in check((4, 17, 1, 1), (512, 256, 3, 3), (0, 1, 2, 3)))


def test_kernel_axes_are_joined() -> None:
    stages = check((4, 4, 2, 3), (20, 30, 3, 3), (0, 1, 2, 3))
    assert sorted((stage.first, stage.last) for stage in stages) == [(0, 1), (1, 2), (2, 4)]
    assert sorted((stage.first, stage.last) for stage in check((2, 2, 2), (4, 4, 4), (0, 1, 2))) == [(0, 3)]
    assert math.prod((4, 4, 4)) <= MAX_JOINED_SIZE


def test_only_neighbours_are_joined() -> None:
    stages = check((2, 5, 2), (3, 5, 3), (0, 2))
    assert sorted((stage.first, stage.last) for stage in stages) == [(0, 1), (2, 3)]


def test_axes_of_size_one_cost_nothing() -> None:
    stages = check((2, 3, 1, 1), (9, 9, 1, 1), (0, 1, 2, 3))
    assert all(size > 1 for stage in stages for size in stage.sizes)
    assert plan_stages((1, 1), (1, 1), (0, 1)) == ()


def test_axes_apart_by_one_of_size_one_still_work() -> None:
    check((2, 1, 2), (3, 1, 3), (0, 1, 2))


def test_nothing_to_transform() -> None:
    assert check((3, 4), (3, 4), ()) == ()


@pytest.mark.parametrize(
    ("corner", "shape"), [((4, 17, 2), (40, 30, 20)), ((30, 3, 2), (40, 30, 70)), ((5, 5), (64, 9))]
)
def test_no_order_of_stages_is_cheaper(corner: tuple[int, ...], shape: tuple[int, ...]) -> None:
    def cost(order: tuple[Stage, ...]) -> int:
        sizes = list(corner)
        total = 0
        for stage in order:
            kept = sizes[stage.first : stage.last]
            sizes[stage.first : stage.last] = stage.sizes
            total += math.prod(sizes) * math.prod(kept)
        return total

    stages = plan_stages(corner, shape, tuple(range(len(shape))))
    assert cost(stages) == min(cost(order) for order in itertools.permutations(stages))


def test_many_axes() -> None:
    """More stages than can be tried in every order."""
    shape = (9,) * 6
    assert len(check((2, 1, 3, 9, 1, 2), shape, tuple(range(6)))) == 6


def test_planning_is_deterministic() -> None:
    arguments: tuple[Any, ...] = ((3, 3, 2, 2), (64, 64, 3, 3), (0, 1, 2, 3))
    assert plan_stages(*arguments) == plan_stages(*arguments)


def test_basis_is_on_the_cpu_whatever_the_default_device() -> None:
    stage = Stage(0, 2, (2, 2), (3, 4), by_fft=False)
    with torch.device("meta"):
        basis = stage.basis(torch.float32)
    assert basis.device.type == "cpu"
    assert basis.dtype == torch.float32
    torch.testing.assert_close(basis @ basis.T, torch.eye(4))


def test_gradients_flow_through_every_kind_of_stage() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corner_module, "FFT_MIN_SIZE", 6)
        patch.setattr(corner_module, "FFT_COST", 0.5)
        patch.setattr(corner_module, "MAX_JOINED_SIZE", 16)
        stages = plan_stages((5, 2, 2), (31, 3, 3), (0, 1, 2))
    assert {stage.by_fft for stage in stages} == {True, False}
    x = noise((5, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: expand(value, stages), (x,))
    assert torch.autograd.gradcheck(lambda value: project(value, stages), (noise((31, 3, 3)).requires_grad_(),))


@pytest.mark.parametrize("is_training", [True, False])
def test_gradients_in_batches(is_training: bool) -> None:
    layer = nn.Linear(5, 3, bias=False).train(is_training)
    regularize(layer, num_kept=7, warn=False)
    (vector,) = layer.parameters()
    output = layer(torch.randn(5))
    (batched,) = torch.autograd.grad(output, vector, torch.eye(3), is_grads_batched=True, retain_graph=True)
    single = [torch.autograd.grad(value, vector, retain_graph=True)[0] for value in output]
    torch.testing.assert_close(batched, torch.stack(single))
