import torch

from tailcut.structure.outputs import output_tensors


def test_tensors_of_outputs_are_found_in_their_order() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert output_tensors((one, {"a": [two], "b": 3})) == [one, two]
