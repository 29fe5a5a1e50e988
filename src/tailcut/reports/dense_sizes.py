"""The size of the network that a result's file stands for, and of its units in tables."""

import torch

from tailcut.counting import count_parameters
from tailcut.runs import Result
from tailcut.structure import create_model

SECONDS_PER_HOUR = 3600
FLOAT32_BYTES = 4


def dense_parameters(result: Result) -> int:
    """Return the numbers of the network before anything was taken out of it; a pruned one is compared with its parent.

    Raises:
        ArgumentError: the recipe's network is not registered here.
    """
    if not result.recipe.get("pruning"):
        return result.num_parameters
    with torch.device("meta"):
        parent = create_model(result.recipe["model"]["name"], **result.recipe["model"].get("arguments", {}))
    return count_parameters(parent)
