from dataclasses import dataclass

import torch
from torch import Tensor

from tailcut.structure.outputs import output_tensors


@dataclass
class Detection:
    boxes: Tensor
    rest: list[object]


class Slotted:
    __slots__ = ("_later", "value")

    def __init__(self, value: Tensor) -> None:
        self.value = value


def test_tensors_of_outputs_are_found_in_their_order() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert output_tensors((one, {"a": [two], "b": 3})) == [one, two]


def test_tensors_in_objects_are_found() -> None:
    one, two, three = torch.zeros(1), torch.ones(1), torch.ones(2)
    found = output_tensors([Detection(one, [{"masks": two}]), Slotted(three)])
    assert [id(x) for x in found] == [id(one), id(two), id(three)]


def test_a_distribution_holds_its_logits() -> None:
    found = output_tensors(torch.distributions.Categorical(logits=torch.zeros(1, 6)))
    assert {x.shape for x in found} == {(1, 6)}


def test_an_object_that_holds_itself_ends() -> None:
    result = Detection(torch.zeros(1), [])
    result.rest.append(result)
    assert len(output_tensors(result)) == 1


def test_modules_and_classes_are_no_outputs() -> None:
    assert output_tensors([torch.nn.Linear(2, 2), torch.nn, Tensor, "text", None, 3, len]) == []
