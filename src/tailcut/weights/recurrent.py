"""Weight lists of torch's recurrent layers (LSTM, GRU, RNN), kept in step with truncated weights.

They pass this list to their kernels, and never read the attributes in a forward. For a regularised layer it is made
of the attributes whenever it is asked for, so that it is never older than the coefficients, and copies of the layer
hold no weights.
"""

from typing import Any

from torch import Tensor, nn

_LIST = "_flat_weights"


def compute_flat_weights(module: nn.RNNBase) -> None:
    """Have the list made of the attributes (changes the module's class, which must be its own, and its attributes)."""
    kind: Any = type(module)
    setattr(kind, _LIST, property(_weights, _ignore))
    # It would put the weights into one piece of memory, where cuDNN likes to have them: but these are results.
    kind.flatten_parameters = _leave
    module.__dict__.pop(_LIST, None)


def keep_flat_weights(module: nn.RNNBase) -> None:
    """Give a module that has plain parameters again its list (changes its attributes)."""
    module._init_flat_weights()


def _weights(module: nn.RNNBase) -> list[Tensor | None]:
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _ignore(module: nn.RNNBase, weights: list[Tensor | None]) -> None:
    """Ignore the weights that torch sets when a module is moved or an attribute changes: they are there already."""


def _leave(module: nn.RNNBase) -> None:
    """Do nothing where torch flattens each new list of weights."""
