"""What a network gives: tensors, alone or in tuples, lists and dicts."""

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def output_tensors(outputs: Any) -> list[Tensor]:
    """The tensors among a network's outputs, in their order."""
    return [item for item in pytree.tree_leaves(outputs) if isinstance(item, Tensor)]
