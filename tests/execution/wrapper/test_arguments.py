from collections import OrderedDict, deque
from enum import Enum
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tailcut.execution.wrapper.arguments import Arguments, copies_of


class Colour(Enum):
    RED = 1


def test_tensors_and_constants_are_plain() -> None:
    constants: list[object] = [
        None,
        True,
        1,
        2.5,
        1j,
        "a",
        b"a",
        slice(2),
        range(3),
        Colour.RED,
        torch.float32,
        torch.device("cpu"),
    ]
    constants += [np.float32(1), np.dtype("int8"), frozenset({1}), nn.Linear, PurePosixPath("a")]
    nested = {"a": [torch.ones(2), (torch.Size([1]), {"b": constants})], "c": OrderedDict(d=torch.strided)}
    assert Arguments((torch.ones(3), nested), {"more": nested}).are_plain


@pytest.mark.parametrize("other", [object(), deque([1]), {1}, lambda: None, torch.nn.Identity(), iter([1])])
def test_what_may_keep_something_is_not_plain(other: object) -> None:
    assert not Arguments(([{"cache": (other,)}],), {}).are_plain


def test_writes_are_counted_wherever_the_tensor_is() -> None:
    alone, within = torch.ones(2), torch.ones(2)
    arguments = Arguments((alone,), {"states": [{"a": within}]})
    assert not arguments.are_written()
    within.add_(1)
    assert arguments.are_written()


def test_nobody_counts_the_writes_to_tensors_of_inference_mode() -> None:
    with torch.inference_mode():
        x = torch.ones(3)
    assert Arguments((x,), {}).are_written()


def test_lists_and_dicts_get_back_what_they_held() -> None:
    first, second = torch.ones(2), torch.zeros(2)
    states: list[object] = [first]
    cache: dict[str, object] = {"states": states, "length": 1}
    cache["itself"] = cache
    arguments = Arguments((cache,), {})
    states.append(second)
    states[0] = second
    cache.update(length=2, more=second)
    del cache["states"]
    arguments.restore()
    assert list(cache) == ["states", "length", "itself"]
    assert cache["states"] is states
    assert cache["length"] == 1
    assert list(map(id, states)) == [id(first)]


class Cache:
    def __init__(self, states: Tensor) -> None:
        self.states = states


def test_copies_may_be_written_to_and_take_no_more_memory_than_their_numbers() -> None:
    leaf = torch.ones(3, requires_grad=True)
    large = torch.ones(1000)
    cache = Cache(leaf * 2)  # torch refuses to copy what was computed with gradients
    args, kwargs = (large[:4], cache), {"again": cache, "leaf": leaf}
    (part, copied), others = copies_of(args, kwargs)
    assert copied is others["again"]
    assert copied.states.requires_grad
    assert part.untyped_storage().nbytes() == 16
    for tensor in (part, copied.states, others["leaf"]):
        tensor.add_(1)
    assert large.tolist() == [1.0] * 1000
    assert leaf.tolist() == [1.0] * 3
    assert cache.states.tolist() == [2.0] * 3


def test_modules_and_locks_are_copied_as_they_like() -> None:
    layer = nn.Linear(2, 2)
    (copied,), _ = copies_of((layer,), {})
    assert isinstance(copied.weight, nn.Parameter)
    with pytest.raises(TypeError, match="pickle"):
        copies_of((iter([1]), (x for x in "a")), {})
