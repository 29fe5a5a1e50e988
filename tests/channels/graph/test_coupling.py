import torch
from hypothesis import given
from hypothesis import strategies as st

from tailcut.channels.graph.coupling import Coupling, along, fixed


def test_numbers_are_new_and_stand_for_themselves() -> None:
    coupling = Coupling()
    first, second = coupling.new(3), coupling.new(2)
    assert first.tolist() == [1, 2, 3]
    assert second.tolist() == [4, 5]
    assert len(coupling) == 6
    assert coupling.roots(torch.tensor([[5, 0], [1, 4]])).tolist() == [[5, 0], [1, 4]]


@given(pairs=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=20))
def test_coupling_is_the_closure_of_its_pairs(pairs: list[tuple[int, int]]) -> None:
    coupling = Coupling()
    coupling.new(12)
    sets = [{number} for number in range(13)]
    for a, b in pairs:
        coupling.couple(torch.tensor([a]), torch.tensor([b]), "")
        joined = next(one for one in sets if a in one) | next(one for one in sets if b in one)
        sets = [one for one in sets if not one & joined] + [joined]
    roots = coupling.roots(torch.arange(13)).tolist()
    for a in range(13):
        for b in range(13):
            assert (roots[a] == roots[b]) == any(a in one and b in one for one in sets)


def test_what_meets_fixed_entries_is_locked_with_the_first_reason() -> None:
    coupling = Coupling()
    numbers = coupling.new(3)
    coupling.couple(numbers, torch.tensor([0, 2, 0]), "first")
    coupling.lock(numbers, "second")
    assert coupling.locked_units() == {1: "first", 2: "second", 3: "first"}
    merged = coupling.couple(numbers, torch.tensor([0, 3, 0]), "third")
    assert merged.tolist() == [1, 2, 2]  # 3 and 2 are one channel now
    assert coupling.locked_units() == {1: "first", 2: "second"}


def test_labels_take_no_memory_along_axes_where_they_are_the_same() -> None:
    coupling = Coupling()
    numbers = coupling.new(4)
    labels = along(numbers, 1, (2, 4, 50, 60))
    assert labels.shape == (2, 4, 50, 60)
    assert coupling.varied(labels) == (1,)
    tidy = coupling.tidy(labels.contiguous())
    assert torch.equal(tidy, labels)
    assert tidy.stride()[0] == tidy.stride()[2] == tidy.stride()[3] == 0
    assert coupling.varied(fixed((3, 4))) == ()
    coupling.couple(numbers, numbers[:1], "")
    assert coupling.varied(labels) == ()


def test_coupling_along_axes() -> None:
    coupling = Coupling()
    grid = coupling.new(6).view(2, 3)
    labels = coupling.couple_along(grid, [0], "")
    assert labels[0].tolist() == labels[1].tolist() == [1, 2, 3]
    assert coupling.varied(labels) == (1,)
    assert coupling.couple_along(grid, [], "").shape == (2, 3)
    assert coupling.couple_along(fixed((1, 3)), [0, 1], "").tolist() == [[0, 0, 0]]


def test_coupling_broadcasts_and_keeps_the_channel_of_either() -> None:
    coupling = Coupling()
    numbers = coupling.new(3)
    merged = coupling.couple(along(numbers, 1, (1, 3, 4)), fixed((1, 3, 4)), "why")
    assert torch.equal(merged, along(numbers, 1, (1, 3, 4)))
    assert set(coupling.locked_units()) == {1, 2, 3}
    coupling.assume(numbers, "what")
    assert coupling.assumed_units() == dict.fromkeys((1, 2, 3), "what")
