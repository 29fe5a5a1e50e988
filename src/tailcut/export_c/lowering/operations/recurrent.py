"""Recurrent layers in a program: GRU, LSTM and plain ones, of several layers and both directions."""

from typing import Any

import numpy as np
import torch
from torch import fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.lowering import Handlers, Lowering
from tailcut.export_c.lowering.sequences import axis_of, given_order, given_shape, recurrence_of
from tailcut.export_c.program.program import Kind, Leaf, Map, Recurrence, Stage, Value, joined_channels, of_leaf
from tailcut.export_c.program.weights import Floats

HANDLERS = Handlers()

_KINDS = {"gru": Kind.GRU, "lstm": Kind.LSTM, "rnn_tanh": Kind.RNN_TANH, "rnn_relu": Kind.RNN_RELU}
_NUM_GATES = {Kind.GRU: 3, Kind.LSTM: 4, Kind.RNN_TANH: 1, Kind.RNN_RELU: 1}


def _register() -> None:
    for name, kind in _KINDS.items():

        def handler(low: Lowering, node: fx.Node, *args: Any, kind: Kind = kind, **kwargs: Any) -> Value:
            return _layers(low, node, kind, *args, **kwargs)

        HANDLERS[name] = handler


_register()


def _layers(
    low: Lowering,
    node: fx.Node,
    kind: Kind,
    x: fx.Node,
    first: Any,
    weights: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    is_training: bool,
    is_bidirectional: bool,
    is_batch_first: bool,
) -> Value:
    """Return the states at all steps, and keep the last ones; of those alone if no other are read."""
    if not isinstance(x, fx.Node) or "l" not in given_order(x):
        raise StructureError("a recurrent layer over a batch of sequences in one tensor; C code knows a sequence")
    _check_states(low, first)
    num_directions = 2 if is_bidirectional else 1
    each = 4 if has_biases else 2
    if len(weights) != num_layers * num_directions * each:
        raise StructureError("proj_size; C code knows recurrent layers without a projection of their state")
    value, states = low.value(x), []
    is_last_alone = not is_bidirectional and _reads_last_alone(low, node)
    for layer in range(num_layers):
        outputs = []
        keeps_last = is_last_alone and layer == num_layers - 1
        for direction in range(num_directions):
            begin = each * (layer * num_directions + direction)
            output, state = _layer(low, kind, value, weights[begin : begin + each], direction == 1, keeps_last)
            outputs.append(output)
            states.append(state)
        value = joined_channels(outputs)
    low.states[node.name] = joined_channels(states)
    return value


def _layer(
    low: Lowering, kind: Kind, value: Value, weights: list[fx.Node], is_reversed: bool, keeps_last: bool
) -> tuple[Value, Value]:
    """Return the states of one layer in one direction at all steps, or the last one instead, and the last one."""
    of_input, of_state = low.own_weight(weights[0]), low.own_weight(weights[1])
    hidden, length = of_state.sizes[1], value.size[0]
    if of_state.sizes[0] != _NUM_GATES[kind] * hidden:
        raise StructureError("proj_size; C code knows recurrent layers without a projection of their state")
    bias: Floats | None = None
    state_bias: Floats | None = None
    if len(weights) > 2:
        bias, state_bias = low.constant(weights[2]), low.constant(weights[3])
    if kind != Kind.GRU and bias is not None and state_bias is not None:
        bias, state_bias = (bias.astype(np.float64) + state_bias).astype(np.float32), None
    out = Map(hidden, 1 if keeps_last else length, 1, is_viewed=True)
    recurrence = Recurrence(of_input, of_state, bias, state_bias, is_reversed)
    low.add(Stage(kind, value, out, recurrence=recurrence))
    last = Map(hidden, 1, 1, view_of=out, first=0 if keeps_last or is_reversed else (length - 1) * hidden)
    states = of_leaf(Leaf(last, hidden, 1, 1))
    return (states if keeps_last else of_leaf(Leaf(out, hidden, length, 1))), states


def _check_states(low: Lowering, first: Any) -> None:
    for node in first if isinstance(first, (list, tuple)) else [first]:
        numbers = low.constant(node)
        if numbers is not None and numbers.any():
            raise StructureError("a first state that is not zero; C code begins with zeros")


def _reads_last_alone(low: Lowering, node: fx.Node) -> bool:
    """Tell if of the states at all steps the last one alone is read; their nodes give that one then."""
    outputs = [user for user in node.users if recurrence_of(user) == (node, 0)]
    users = [user for output in outputs for user in output.users]
    if not all(_takes_last(user) for user in users):
        return False
    low.given_last |= {output.name for output in outputs} | {user.name for user in users}
    return True


def _takes_last(node: fx.Node) -> bool:
    if node.target is not torch.ops.aten.select.int:
        return False
    sequence, axis, index = node.args
    if not isinstance(sequence, fx.Node) or not isinstance(axis, int) or not isinstance(index, int):
        return False
    name = axis_of(sequence, axis)
    length = given_order(sequence).index("l")
    return name == f"axis {length}" and index % given_shape(sequence)[length] == given_shape(sequence)[length] - 1
