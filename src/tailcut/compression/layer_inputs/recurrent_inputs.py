"""What the weights of recurrent layers are multiplied with: the layers' inputs, and what they remember."""

from collections.abc import Iterator
from typing import Any, TypeGuard, get_args

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from tailcut.structure.module_types import keeps_forward

Recurrent = nn.RNN | nn.LSTM | nn.GRU
Cell = nn.RNNCell | nn.LSTMCell | nn.GRUCell
Sequence = Tensor | PackedSequence


def is_recurrent(module: nn.Module) -> TypeGuard[Recurrent | Cell]:
    """Return whether it is a recurrent layer of torch, or a cell of one, with torch's own forward."""
    return any(keeps_forward(module, kind) for kind in (*get_args(Recurrent), *get_args(Cell)))


def multiplied_weights(module: Recurrent | Cell) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights whose inputs `recurrent_inputs` tells, by attribute: all but a projection of the outputs."""
    for name, parameter in module._parameters.items():
        if parameter is not None and name.startswith(("weight_ih", "weight_hh")):
            yield name, parameter


def recurrent_inputs(module: Recurrent | Cell, args: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield what weights are multiplied with in a forward: attribute, and (..., features).

    For what a layer remembers before each step stands what it gives in each: the same but for the first and last step.
    The states of layers in between are computed again.

    Args:
        module: in evaluation mode; it is not changed.
        args: of its forward.
    """
    state = args[1] if len(args) > 1 else None
    if isinstance(module, Cell):
        yield "weight_ih", args[0]
        if state is not None:
            yield "weight_hh", state[0] if isinstance(module, nn.LSTMCell) else state
        return
    x: Sequence = args[0]
    ends = ("", "_reverse") if module.bidirectional else ("",)
    for layer in range(module.num_layers):
        y = _layer(module, layer, ends)(x, _part(state, layer, len(ends)))[0]
        for end, remembered in zip(ends, _numbers(y).chunk(len(ends), -1), strict=True):
            yield f"weight_ih_l{layer}{end}", _numbers(x)
            yield f"weight_hh_l{layer}{end}", remembered
        x = y


def _layer(module: Recurrent, layer: int, ends: tuple[str, ...]) -> nn.Module:
    """Return one of the layers, with its parameters."""
    width = module.input_size if layer == 0 else len(ends) * (module.proj_size or module.hidden_size)
    settings: dict[str, Any] = {name: getattr(module, name) for name in ("bias", "batch_first", "bidirectional")}
    if isinstance(module, nn.LSTM):
        settings["proj_size"] = module.proj_size
    if isinstance(module, nn.RNN):
        settings["nonlinearity"] = module.nonlinearity
    kind = next(kind for kind in get_args(Recurrent) if isinstance(module, kind))
    made: nn.RNNBase = kind(width, module.hidden_size, device="meta", **settings)
    for name in list(made._parameters):
        own = getattr(module, name.replace("_l0", f"_l{layer}"))  # of a truncated weight a tensor, no parameter
        setattr(made, name, nn.Parameter(own.detach(), requires_grad=False))
    made.flatten_parameters()  # on a GPU, else torch warns
    return made.eval()


def _part(state: Any, layer: int, num_ends: int) -> Any:
    """Return the first state of one layer."""
    if state is None:
        return None
    if isinstance(state, tuple):
        return tuple(_part(one, layer, num_ends) for one in state)
    return state[num_ends * layer : num_ends * (layer + 1)]


def _numbers(x: Sequence) -> Tensor:
    return x.data if isinstance(x, PackedSequence) else x
