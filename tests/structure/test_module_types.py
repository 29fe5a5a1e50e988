"""Types of modules by name: a library that is not installed cannot be imported to ask."""

from conformance.torch_networks import Conv1D
from torch import Tensor, nn

from tailcut.structure.module_types import TRANSFORMERS_CONV1D, is_linear, is_of_type, keeps_forward, named_base


class Wider(Conv1D):
    """A subclass, in another module."""


def test_a_class_is_found_by_its_full_name_and_so_are_its_subclasses() -> None:
    for module in (Conv1D(3, 2), Wider(3, 2)):
        assert named_base(module, TRANSFORMERS_CONV1D) is Conv1D
        assert is_of_type(module, TRANSFORMERS_CONV1D)
        assert is_of_type(module, Conv1D)
        assert not is_of_type(module, nn.Linear)
    assert named_base(nn.Linear(2, 3), TRANSFORMERS_CONV1D) is None
    assert not is_of_type(nn.Conv1d(1, 1, 1), TRANSFORMERS_CONV1D)


def test_linear_layers_and_forwards_of_their_own() -> None:
    class Doubled(Conv1D):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    assert all(map(is_linear, (nn.Linear(2, 3), nn.LazyLinear(3), Conv1D(3, 2), Doubled(3, 2))))
    assert not is_linear(nn.Conv1d(1, 1, 1))
    assert keeps_forward(Wider(3, 2), TRANSFORMERS_CONV1D)
    assert keeps_forward(nn.LazyLinear(3), nn.Linear)
    assert not keeps_forward(Doubled(3, 2), TRANSFORMERS_CONV1D)
    assert not keeps_forward(nn.Linear(2, 3), TRANSFORMERS_CONV1D)
