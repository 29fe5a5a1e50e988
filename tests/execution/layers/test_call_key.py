from enum import Enum

import torch
from torch import Tensor

from tailcut.execution.layers.call_key import device_type, is_plain, sizes_of, tensors_of, words_of


class Colour(Enum):
    RED = 1


X, Y = torch.ones(2, 3), torch.ones(4)


def test_tensors_are_found_in_structures() -> None:
    assert [id(tensor) for tensor in tensors_of((X, Y), {})] == [id(X), id(Y)]
    found = tensors_of((X, {"a": [Y, 3]}), {"mask": X})
    assert [id(tensor) for tensor in found] == [id(X), id(Y), id(X)]


def test_words_are_what_may_choose_a_way() -> None:
    assert words_of((X, Y), {}) == ()
    assert words_of((X, "relu"), {}) != words_of((X, "gelu"), {})
    assert words_of((X,), {"a": True}) != words_of((X,), {"b": True})
    assert words_of((X,), {"a": True}) != words_of((X,), {"a": False})
    assert words_of((X, Colour.RED), {}) == (Colour.RED,)
    assert words_of((X, 0.25, 7), {}) == words_of((X, 0.5, 8), {})
    hash(words_of((X, [None, {"a": "b"}], slice(3)), {"c": object()}))


def test_transforms_are_told_apart() -> None:
    seen: list[object] = []

    def look(x: Tensor) -> Tensor:
        seen.append(words_of((x,), {}))
        return x

    torch.vmap(look)(X)
    assert seen != [words_of((X,), {})]


def test_nested_and_sparse_tensors_are_not_plain() -> None:
    nested = torch.nested.nested_tensor([Y, Y[:2]], layout=torch.jagged)
    assert is_plain(X.T)
    assert not is_plain(X.to_sparse())
    assert not is_plain(nested)
    assert sizes_of([X, nested, Y]) == ((2, 3), (), (4,))


def test_the_first_tensor_tells_the_device() -> None:
    assert device_type([torch.empty(1, device="meta"), X]) == "meta"
    assert device_type([]) == "cpu"
