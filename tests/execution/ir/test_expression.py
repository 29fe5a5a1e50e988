import torch

from tailcut.execution.cpu.tiles import write
from tailcut.execution.ir.expression import (
    Affine,
    Function,
    Given,
    Pointwise,
    Resampled,
    Scaled,
    add_affine,
    given,
    grid_of,
    is_pointwise,
    map_sources,
    nodes,
    parameters,
    resample,
    sources,
)

RELU = Function("relu", torch.relu)


def affine(channels: int = 6, k: int = 2, *, shift: bool = True) -> Affine:
    bias = torch.randn(channels).double() if shift else None
    return Affine(channels, torch.randn(k, 3, 4, 5).double(), torch.randn(channels, k).double(), bias)


def test_a_shared_node_is_visited_once() -> None:
    shared = affine()
    root = Pointwise(6, Function("add", torch.add), (Pointwise(6, RELU, (shared,)), shared))
    assert len(nodes([root])) == 3
    assert len(sources(nodes([root]))) == 1
    assert len(parameters(nodes([root]))) == 2


def test_map_sources_keeps_sharing_and_changes_the_grid() -> None:
    shared = affine()
    root = Pointwise(6, Function("add", torch.add), (Scaled(6, shared, torch.ones(6), torch.zeros(6)), shared))
    mapped = map_sources(root, lambda source: source[..., ::2].contiguous())
    assert len(sources(nodes([mapped]))) == 1
    assert grid_of(mapped) == (3, 4, 3)
    assert grid_of(root) == (3, 4, 5)


def test_the_sum_of_affine_parts_is_their_sum() -> None:
    one, two = affine(), affine(k=3, shift=False)
    torch.testing.assert_close(write(add_affine(one, two)), write(one) + write(two))


def test_resampling_an_unshifted_affine_part_happens_at_its_source() -> None:
    part = resample(affine(shift=False), lambda x: torch.nn.functional.pad(x, (1, 2)))
    assert isinstance(part, Affine)
    assert grid_of(part) == (3, 4, 8)


def test_a_shift_is_not_moved_through_padding() -> None:
    part = affine()
    padded = resample(part, lambda x: torch.nn.functional.pad(x, (1, 2)))
    assert isinstance(padded, Resampled)
    assert not is_pointwise(padded)
    torch.testing.assert_close(write(padded), torch.nn.functional.pad(write(part), (1, 2)))


def test_resampling_twice_composes() -> None:
    part = affine()
    once = resample(part, lambda x: torch.nn.functional.pad(x, (1, 1)))
    twice = resample(once, lambda x: x.mean((2, 3), keepdim=True))
    assert isinstance(twice, Resampled)
    assert twice.child is part
    assert grid_of(twice) == (3, 1, 1)
    full = torch.nn.functional.pad(write(part), (1, 1)).mean((2, 3), keepdim=True)
    torch.testing.assert_close(write(twice), full)


def test_flops_count_products_twice() -> None:
    assert affine(channels=6, k=2).flops == 24
    assert Pointwise(6, RELU, (affine(),)).flops == 30
    assert Given(3, torch.zeros(3, 1, 2)).flops == 0


def test_given_maps_have_memory_of_their_own() -> None:
    for axis, tensor in ((1, torch.randn(1, 6, 4, 5)), (2, torch.randn(1, 3, 6))):
        before = tensor.clone()
        part = given(tensor, axis)
        tensor.zero_()
        assert part.channels == 6
        assert part.source.is_contiguous()
        assert torch.equal(part.source, before.movedim(axis, 0))
