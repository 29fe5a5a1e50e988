"""Entries read at other strides, against torch reading numbered entries."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailcut.channels.graph.memory_layout import Layout, entries_at


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 8)), max_size=4), st.integers(0, 5), st.permutations(range(3))
)
def test_entries_are_those_that_torch_reads(axes: list[tuple[int, int]], offset: int, order: list[int]) -> None:
    x = torch.arange(24).view(2, 3, 4).permute(order)  # all of its storage, in some order
    numbered = torch.arange(24).view(x.shape)  # the place of each entry in the order of the tensor
    memory = torch.empty(24, dtype=torch.int64)
    memory[x.flatten()] = numbered.flatten()
    sizes, strides = tuple(size for size, _ in axes), tuple(stride for _, stride in axes)
    last = offset + sum((size - 1) * stride for size, stride in axes)
    found = entries_at(Layout.of(x), Layout(sizes, strides, offset))
    if last >= 24:
        assert found is None
    else:
        assert found is not None
        assert found.tolist() == torch.as_strided(memory, sizes, strides, offset).tolist()


def test_what_lies_between_the_entries_is_none_of_them() -> None:
    x = torch.arange(12).view(3, 4)[:, 1:3]
    assert entries_at(Layout.of(x), Layout((2,), (1,), 1)) is not None
    assert entries_at(Layout.of(x), Layout((3,), (1,), 1)) is None
    assert entries_at(Layout.of(x[:, :0]), Layout((0,), (1,), 0)) is None


@pytest.mark.parametrize(("strides", "is_like"), [((6, 1, 6, 6), True), ((6, 1, 1, 1), True), ((6, 2, 6, 6), False)])
def test_strides_of_single_entries_mean_nothing(strides: tuple[int, ...], is_like: bool) -> None:
    assert Layout((2, 6, 1, 1), (6, 1, 6, 6), 0).is_like(Layout((2, 6, 1, 1), strides, 0)) is is_like
    assert not Layout((2, 6, 1, 1), (6, 1, 6, 6), 0).is_like(Layout((2, 6, 1, 1), strides, 1))
