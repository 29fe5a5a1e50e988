import pytest
import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError
from tailcut.structure import check_not_shared, repeats_itself, separate, sharing, usable_device

BASE = torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    ("first", "second", "is_shared"),
    [
        (BASE, BASE.t(), True),
        (BASE, BASE[2:], True),
        (BASE[1:], BASE[:2], True),
        (BASE[:1], BASE[1:], False),
        (BASE[:, ::2], BASE[:, 1::2], False),  # between each other
        (BASE[:, ::2], BASE[:, 2:], True),
        (BASE, BASE.clone(), False),
        (BASE[0, :1].expand(5), BASE[1], False),
        (BASE[1, :1].expand(5), BASE[1], True),
        (BASE, BASE[:0], False),
        (BASE.to("meta"), BASE.to("meta"), False),
    ],
)
def test_shared_places(first: Tensor, second: Tensor, is_shared: bool) -> None:
    found = sharing([("first", first), ("second", second)])
    assert found == ({"second": "first"} if is_shared else {})


def test_one_tensor_under_two_names_is_not_shared() -> None:
    layer = nn.Linear(3, 3)
    assert sharing([("one", layer.weight), ("two", layer.weight)]) == {}


def test_many_in_one_memory_are_told_apart_in_time() -> None:
    memory = torch.zeros(2_000_000)
    parts = [(str(number), part) for number, part in enumerate(memory.split(500))]
    assert sharing(parts) == {}
    assert sharing([*parts, ("last", memory[700:800])]) == {"last": "1"}


def test_the_error_names_both() -> None:
    with pytest.raises(ArgumentError, match="b and a are two tensors in the same memory, and rounding would change"):
        check_not_shared("rounding", [("a", BASE), ("b", BASE.t())])


def test_repeated_places_get_memory_of_their_own() -> None:
    tensor, whole = torch.tensor([0.5]).expand(3), torch.ones(1, 1, 2).transpose(0, 2)
    assert (repeats_itself(tensor), repeats_itself(whole)) == (True, False)
    separate([tensor, whole])
    assert not repeats_itself(tensor)
    assert tensor.tolist() == [0.5, 0.5, 0.5]
    tensor.zero_()[1] = 2
    assert tensor.tolist() == [0, 2, 0]


def test_a_device_that_is_not_there_is_refused() -> None:
    assert usable_device("cpu") == torch.device("cpu")
    for name in ("gpu", "cuda:77"):
        with pytest.raises(ArgumentError, match=f"there is no device '{name}' here"):
            usable_device(name)
