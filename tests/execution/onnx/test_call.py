from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.execution.onnx.call import Call, Flat, named_tensors


class Decoder(nn.Module):
    """Arguments as those of networks that read words."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 3.0))

    def forward(
        self, words: Tensor, past: Any = None, *more: Tensor, mask: Tensor | None = None, double: bool = False
    ) -> Tensor:
        result = words * self.scale + (0 if past is None else past[0][1])
        for value in more:
            result = result + value
        result = result if mask is None else result * mask
        return 2 * result if double else result


def test_tensors_have_the_names_of_their_arguments() -> None:
    one, two, three, four, five = (torch.full((2,), float(number)) for number in range(5))
    call = Call(Decoder(), [one, ((two, three), None), four], {"mask": five, "double": True})
    assert call.names == ("words", "past_0_0", "past_0_1", "more_0", "mask")
    assert [int(value[0]) for value in call.tensors] == [0, 1, 2, 3, 4]
    # (1 * 3 + 3 + 4) * 5 * 2
    tensors = [torch.ones(2), one, torch.full((2,), 3.0), torch.full((2,), 4.0), torch.full((2,), 5.0)]
    assert call.run(Decoder(), tensors).tolist() == [100, 100]


def test_a_name_of_a_stored_tensor_is_not_given_to_an_argument() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, scale: Tensor) -> dict[str, Tensor]:
            return {"scale": scale * self.scale}

    network = Scaled()
    call = Call(network, [torch.ones(2)], {})
    assert call.names == ("scale_input",)
    assert call.outputs(network) == ("scale_out",)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"maks": torch.ones(2)}, r"does not fit Decoder.forward\(words.*: missing a required argument: 'words'"),
        ((torch.ones(2),), {"maks": torch.ones(2)}, "got an unexpected keyword argument 'maks'"),
        ((torch.ones(2), {"key": object()}), {}, "the example's past_key is a object; give tensors, numbers"),
        ((1,), {}, "the example holds no tensor"),
    ],
)
def test_an_example_that_is_none_is_reported(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Call(Decoder(), args, kwargs)


def test_an_example_that_the_network_does_not_take_is_told_with_its_shapes() -> None:
    call = Call(Decoder(), [torch.ones(2, 3)], {"mask": torch.ones(4)})
    with pytest.raises(ArgumentError, match=r"does not take an example of shape \(2, 3\), \(4,\): RuntimeError: The"):
        call.outputs(Decoder())


@dataclass
class Found:
    boxes: Any
    loss: Any = None


Pair = namedtuple("Pair", ["mean", "spread"])


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x,), ["output0"]),
        (lambda x: [x, (x, None, x)], ["output0", "output1_0", "output1_2"]),
        (lambda x: {"logits": x, "past": ((x, x), (x, x))}, ["logits", *(f"past_{a}_{b}" for a in "01" for b in "01")]),
        (lambda x: OrderedDict(b=x, a=[x]), ["b", "a_0"]),
        (lambda x: Pair(x, x), ["mean", "spread"]),
        (lambda x: Found([x, x]), ["boxes_0", "boxes_1"]),
    ],
)
def test_outputs_have_the_names_of_their_keys(make: Callable[[Tensor], Any], names: list[str]) -> None:
    assert [name for name, _ in named_tensors(make(torch.ones(1)), "Network")] == names


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"loss": 0.5}, r"Net cannot be exported: it returns a float as 'loss', .*tensors only"),
        (None, "it returns no tensor"),
        ({"cache": object()}, r"a object as 'cache', .*use_cache"),
        ("text", "it returns a str, and"),
    ],
)
def test_outputs_that_are_no_tensors_are_reported(result: Any, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        list(named_tensors(result, "Net"))


def test_what_comes_back_twice_or_as_it_was_given_is_copied() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            y = x + 1
            return [x, y, y]

    x = torch.ones(2)
    outputs = Flat(Same(), Call(Same(), [x], {}))(x)
    assert [value.tolist() for value in outputs] == [[1, 1], [2, 2], [2, 2]]
    assert len({id(value) for value in (x, *outputs)}) == 4
