"""A traced network becomes a program: each of torch's operations is a value, a stage, or refused by its name."""

import difflib
import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.graph import (
    PARTS,
    check_changes_in_place,
    computed,
    is_empty,
    join_means,
    layer_name,
    op_name,
    rank,
)
from tailcut.export_c.lowering.heads.join import join_heads
from tailcut.export_c.lowering.other_forms import write_out_forms
from tailcut.export_c.lowering.rearranging.join import join_rearrangements
from tailcut.export_c.lowering.sequences import (
    channels_last,
    given_constant,
    given_order,
    given_shape,
    given_target,
    is_canonical,
    recurrence_of,
    rows_of_sequences,
)
from tailcut.export_c.program.program import (
    MAX_LEAVES,
    Kind,
    Leaf,
    Map,
    Norm,
    Program,
    Resampling,
    Stage,
    Value,
    Window,
    of_leaf,
    whole_leaf,
)
from tailcut.export_c.program.weights import Floats, Weight

# More maps than these in one expression are written to memory where the value is used again.
MAX_SHARED_LEAVES = 4
# So are channels of more operations, if more than so many of them would be repeated.
MAX_SHARED_OPS, MAX_REPEATED_OPS = 4, 16
MAX_SIZE = 65_535
MAX_WINDOW = 255
# Rows or columns of zeros before a map: the structures in C have 16 bits for them, with a sign.
MOST_BEFORE = 32_767
# These read what they take twice, or one of two.
_READ_TWICE = ("square", "square_", "pow", "pow_", "maximum", "minimum")
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class KeptTensor:
    """A parameter kept as coefficients.

    Attributes:
        numbers: the coefficients, in the order of the file.
        shape: of the dense tensor.
        corner: the sizes of the corner that holds them.
        axes: transformed ones.
        order_weights: one for each of these.
    """

    numbers: Floats
    shape: tuple[int, ...]
    corner: tuple[int, ...]
    axes: tuple[int, ...]
    order_weights: tuple[int, ...]


class Lowering:
    """State of one lowering of a network.

    Attributes:
        program: so far.
        kept: the parameters kept as coefficients, by name.
        constants: parameters, buffers and constants of the trace, by the name of their placeholder; what is computed
            from them, by the name of its node.
        names: of the parameters, buffers and constants, by placeholder.
        attends: whether the network has attention.
        is_vertical: whether sequences are maps of one column, not of one row.
        states: the last states of recurrent layers, one behind the other, by the name of their node.
        given_last: names of nodes that give the last state of a recurrent layer in place of all of them.
        joined: maps that were written one behind the other, by the nodes that gave them.
    """

    def __init__(
        self,
        kept: Mapping[str, KeptTensor],
        constants: Mapping[str, Tensor],
        names: Mapping[str, str],
        handlers: Mapping[str, Callable[..., Value]],
    ) -> None:
        self.program = Program()
        self.kept, self.names = kept, names
        self.constants: dict[str, Any] = dict(constants)
        self.values: dict[str, Value] = {}
        self.states: dict[str, Value] = {}
        self.given_last: set[str] = set()
        self.joined: dict[tuple[fx.Node, ...], Value] = {}
        self.attends = self.is_vertical = False
        self._where = ""
        self._handlers = handlers
        self._weights: dict[tuple[str, bool], Weight] = {}

    def run(self, graph: fx.Graph) -> Program:
        """Lower a graph of ATen operations on one input of batch size 1.

        Raises:
            StructureError: an operation or layer has no form here.
        """
        write_out_forms(graph, self.constants)
        self.attends = join_heads(graph, self.constants, self.name_of)
        join_rearrangements(graph, self.constants)
        self.is_vertical = rows_of_sequences(graph, self.constants, self.name_of)
        check_changes_in_place(graph)
        join_means(graph)
        for node in graph.nodes:
            if node.op == "placeholder":
                if node.name not in self.constants:
                    self._input(node)
            elif node.op == "output":
                self._outputs(node)
            elif node.name in self.constants:
                continue
            elif (numbers := computed(node, self.constants)) is not None:
                self.constants[node.name] = numbers
            elif is_empty(node) and op_name(node.target) in PARTS:
                continue  # a concatenation leaves it out
            elif op_name(node.target) != "_assert_tensor_metadata" and (node.users or node.target != operator.getitem):
                with self._naming(node):
                    self.values[node.name] = self._shared(node, self._lower(node))
        return self.program

    def value(self, node: Any) -> Value:
        """Return the value of a node."""
        if isinstance(node, fx.Node) and is_empty(node):
            raise _no_number(node, self.name_of(node))
        if not isinstance(node, fx.Node) or node.name not in self.values:
            raise StructureError(f"{self.name_of(node)} does not depend on the input; C code needs a map here")
        return self.values[node.name]

    def name_of(self, node: Any) -> str:
        """Return what the user calls a parameter or constant, or the operation and layer that make a node."""
        node = given_constant(node)
        if not isinstance(node, fx.Node) or node.op != "call_function":
            return self.names.get(str(node), str(node))
        return f"{op_name(given_target(node))} ({layer_name(node)})"

    def plain(self, node: Any) -> Value:
        """Return the value of a node as expressions without a change of size."""
        return self.plain_value(self.value(node))

    def plain_value(self, value: Value) -> Value:
        """Return a value as expressions without a change of size."""
        return value if value.is_plain else self.stored(value)

    def unresized(self, value: Value) -> Value:
        """Return a value of maps that have the size they are read in, which may be resized."""
        return self.stored(value) if any(leaf.up is not None for leaf in value.leaves()) else value

    def constant(self, node: Any) -> Floats | None:
        """Return the numbers of a parameter or buffer; None for None."""
        if node is None:
            return None
        if not isinstance(node, fx.Node) or node.name not in self.constants:
            raise StructureError(
                f"{self.name_of(node)} depends on the input; C code needs a parameter or constant here"
            )
        numbers: Floats = self.constants[node.name].detach().to(torch.float32).contiguous().numpy()
        return numbers

    def weight(self, node: fx.Node, *, is_swapped: bool = False) -> Weight:
        """Return the weight of a layer: its coefficients if it is truncated, else (out, in, rows, columns)."""
        if (node.name, is_swapped) not in self._weights:
            self._weights[node.name, is_swapped] = self._new_weight(node, is_swapped)
        return self._weights[node.name, is_swapped]

    def own_weight(self, node: fx.Node) -> Weight:
        """Return the weight of a layer that stands by itself, even if other layers have the same."""
        return self._new_weight(node, False)

    def _new_weight(self, node: fx.Node, is_swapped: bool) -> Weight:
        name = self.names.get(node.name, node.name)
        kept = self.kept_of(node)
        if kept is not None:
            sizes, corner = (
                _swapped(four(shape, is_column=self.is_vertical), is_swapped) for shape in (kept.shape, kept.corner)
            )
            is_row = len(kept.shape) == 3 and not self.is_vertical
            axes = tuple(3 if axis == 2 and is_row else axis for axis in kept.axes)
            return Weight(name, kept.numbers, sizes, corner, axes, kept.order_weights, True, is_swapped)
        numbers = self.constant(node)
        if numbers is None:
            raise StructureError("a layer without a weight")
        numbers = numbers.swapaxes(0, 1) if is_swapped else numbers
        sizes = four(numbers.shape, is_column=self.is_vertical)
        return Weight(name, np.ascontiguousarray(numbers).reshape(-1), sizes, sizes)

    def kept_of(self, node: Any) -> Any:
        """Return the coefficients of a parameter, None for others; a computed node's name may be a parameter's too."""
        return self.kept.get(self.names.get(str(node), ""))

    def add(self, stage: Stage) -> None:
        """Append a stage of the node that is lowered, after a look whether its numbers fit into the C structures."""
        stage.node = self._where
        leaves = stage.value.leaves()
        if len(leaves) > MAX_LEAVES:
            raise StructureError(f"{len(leaves)} maps are read at once, at most {MAX_LEAVES} can be")
        sizes = [stage.value.channels, *stage.value.source, *stage.value.size]
        sizes += [size for weight in stage.weights for size in weight.sizes]
        if min(sizes) < 1:
            raise StructureError(f"a size of {min(sizes)}, C code has sizes from 1")
        if max(sizes) > MAX_SIZE:
            raise StructureError(f"a size of {max(sizes)}, C code has sizes up to {MAX_SIZE}")
        before = max((number for leaf in leaves for number in (leaf.top, leaf.left)), default=0)
        if before > MOST_BEFORE:
            raise StructureError(f"{before:,} rows or columns of zeros before a map, C code has up to {MOST_BEFORE:,}")
        numbers = [
            number
            for by in (stage.window, stage.value.window)
            for number in (*by.kernel, *by.stride, *by.padding, *by.dilation)
        ]
        if max(numbers) > MAX_WINDOW:
            raise StructureError(f"a kernel, stride, padding or dilation of {max(numbers)}, at most {MAX_WINDOW}")
        if not all((np.abs(part) <= LARGEST).all() for part in _numbers_of(stage)):
            raise StructureError("a weight or constant that is NaN, infinite or beyond float32")
        self.program.stages.append(stage)

    def stored(
        self, value: Value, kind: Kind = Kind.STORE, norm: Norm | None = None, epsilon: float = 0.0, groups: int = 1
    ) -> Value:
        """Write a value to memory, every channel of it, and return what reads it there."""
        height, width = (1, 1) if kind == Kind.MEAN else value.size
        out = Map(value.channels, height, width)
        may_replace = self.attends and kind != Kind.MEAN
        self.add(Stage(kind, value, out, norm=norm, epsilon=epsilon, groups=groups, may_replace=may_replace))
        leaf = Leaf(out, value.channels, height, width, norm=norm)
        return replace(of_leaf(leaf), is_flat=value.is_flat and kind != Kind.MEAN)

    def axis(self, letter: str) -> int:
        """Return which axis of a map, without the batch, a letter of `given_order` is."""
        return {"c": 0, "h": 1, "w": 2, "l": 1 if self.is_vertical else 2}[letter]

    def permuted(self, value: Value, axes: list[tuple[int, int]]) -> Value:
        """Write a value with other axes: the first of each pair becomes the second; axes in no pair have size 1."""
        sizes, strides = [1, 1, 1], [0, 0, 0]
        given = (value.channels, *value.size)
        for one, two in axes:
            sizes[two] = given[one]
        for one, two in axes:
            strides[one] = (sizes[2], sizes[0] * sizes[2], 1)[two]
        return self.written(value, Map(sizes[0], sizes[1], sizes[2]), strides)

    def written(self, value: Value, out: Map, strides: Sequence[int]) -> Value:
        """Write a value to memory, its channels, rows and columns so far apart from one to the next."""
        self.add(Stage(Kind.PERMUTE, value, out, strides=(strides[0], strides[1], strides[2])))
        return of_leaf(Leaf(out, out.channels, *out.size))

    def as_given(self, node: fx.Node) -> Map:
        """Return a map in memory whose numbers lie in the order of the user's network."""
        value, shape, strides, step = self.value(node), given_shape(node), [0, 0, 0], 1
        order = given_order(node) if len(shape) > 2 else "nchw"
        if order == "nchw":
            shape = (1, value.channels, *value.size)
        for letter, size in zip(order[::-1], shape[::-1], strict=True):
            if letter != "n":
                strides[self.axis(letter)] = step
            step *= size
        found = whole_leaf(value)
        if found is None or not found.map.has_strides((strides[0], strides[1], strides[2])):
            sizes = [size for letter, size in zip(order, shape, strict=True) if letter != "n"]
            rows, channels, columns = (1, 1, 1, *sizes)[-3:]
            return self.written(value, Map(channels, rows, columns), strides).leaves()[0].map
        return found.map

    def seen(
        self, memory: Map, channels: int, height: int, width: int, *, row_stride: int = 0, is_flat: bool = False
    ) -> Value:
        """Return numbers in memory as a map of other sizes; with a row stride, channels of a row are side by side."""
        owner = memory.owner
        owner.is_viewed = True
        view_of = None if owner.is_input else owner
        of = Map(channels, height, width, owner.is_input, view_of, row_stride=row_stride, first=memory.first)
        return replace(of_leaf(Leaf(of, channels, height, width)), is_flat=is_flat)

    def _shared(self, node: fx.Node, value: Value) -> Value:
        """Store a value that would be made several times at some cost."""
        most = 1 if self.attends else MAX_SHARED_LEAVES  # sums along a transformer's blocks take the rows of the first
        is_costly = not value.is_plain or len(value.leaves()) > most
        num_ops = max(sum(op.leaf is None for op in segment.ops) for segment in value.segments)
        repeated = (_num_readings(node) - 1) * num_ops if num_ops > MAX_SHARED_OPS else 0
        is_repeated = value.is_plain and repeated > MAX_REPEATED_OPS
        return self.stored(value) if (len(node.users) > 1 and is_costly) or is_repeated else value

    def _input(self, node: fx.Node) -> None:
        if self.program.input_shape:
            raise StructureError("the network takes several inputs; C code is made for one")
        shape = tuple(node.meta["val"].shape)
        if len(shape) not in (2, 3, 4) or shape[0] != 1:
            raise StructureError(
                "expected an input (1, channels, height, width), (1, channels, length), (1, height, width) or "
                f"(1, features), got {shape}"
            )
        if is_empty(node):
            raise StructureError(
                f"an input {given_shape(node)} has no numbers; C code has sizes from 1: give a larger example"
            )
        channels, height, width = (1, *shape[1:]) if len(shape) == 3 else (*shape[1:], 1, 1)[:3]
        self.program.input_shape = given_shape(node)[1:]
        row_stride = channels if channels_last(node) else 0  # all channels of a step side by side
        read = Map(channels, height, width, is_input=True, row_stride=row_stride)
        self.values[node.name] = of_leaf(Leaf(read, channels, height, width))

    def _outputs(self, node: fx.Node) -> None:
        shapes, offset = [], 0
        outputs: Any = node.args[0]
        for place, output in enumerate(outputs):
            if output is None:
                continue
            if not isinstance(output, fx.Node):
                raise StructureError(f"output {place} is {output!r}, not a tensor; return tensors alone")
            value, shape = self.value(output), _shape_without_batch(output)
            with self._naming(output):
                if not is_canonical(output) and sum(size > 1 for size in shape) > 1:
                    sizes = (1, 1, *shape)[-3:]
                    value = self.seen(self.as_given(output), *sizes)
                self.add(Stage(Kind.OUTPUT, value, output_offset=offset))
            offset += value.floats
            shapes.append(shape)
            if math.prod(shape) != value.floats:
                raise StructureError(f"output {place} gives {given_shape(output)}, which C code has no form of")
        if not shapes:
            raise StructureError("the network gives no tensor; C code writes what its forward returns: return a tensor")
        self.program.output_shapes = tuple(shapes)

    def _lower(self, node: fx.Node) -> Value:
        name = op_name(node.target)
        if is_empty(node):
            raise _no_number(node)
        handler = self._handlers.get(name)
        if handler is None:
            raise self.unknown(name)
        inspect.signature(handler).bind(self, node, *node.args, **node.kwargs)
        value = handler(self, node, *node.args, **node.kwargs)
        is_state = recurrence_of(node) not in (None, (node.args[0], 0))
        if node.name not in self.given_last and not is_state:
            _check_same(node, value)
        return value

    def unknown(self, name: str = "") -> StructureError:
        """Return the error of a node that has no form, with the nearest operation to its name that has one."""
        known = [handled for handled in self._handlers if not handled.endswith("_")]  # not those in place
        near = difflib.get_close_matches(name.rstrip("_"), known, n=1, cutoff=0.7)
        hint = f"the nearest it knows is {near[0]}; " if near else ""
        return _UnknownError(
            f"C code has no form of {self._where}; {hint}docs/microcontroller.md lists the layers it knows"
        )

    @contextmanager
    def _naming(self, node: fx.Node) -> Iterator[None]:
        """Within the block, errors begin with what the user calls a node, and stages are named so."""
        self._where = self.name_of(node)
        try:
            yield
        except _UnknownError as error:
            raise StructureError(str(error)) from error
        except (TypeError, StructureError) as error:  # the first of bind
            raise StructureError(f"{self._where}: {error}") from error


class _UnknownError(StructureError):
    """An error that names its node already."""


class Handlers(dict[str, Callable[..., Value]]):
    """Lowerings by the names of torch's operations."""

    def register(self, *names: str) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
        """Take in the decorated function under these names."""

        def take(handler: Callable[..., Value]) -> Callable[..., Value]:
            self.update(dict.fromkeys(names, handler))
            return handler

        return take


def four(shape: tuple[int, ...], *, is_column: bool = False) -> tuple[int, int, int, int]:
    """Return the sizes of a weight with its kernel's axes; a kernel of one axis is one of a row, or of a column."""
    if len(shape) not in (2, 3, 4):
        raise StructureError(
            f"a weight of shape {shape}; C code knows linear layers and convolutions along one or two axes"
        )
    first, second, *kernel = shape
    rows, columns = (*kernel, 1) if len(kernel) == 1 and is_column else (1, 1, *kernel)[-2:]
    return first, second, rows, columns


def _no_number(node: fx.Node, name: str = "") -> StructureError:
    return StructureError(
        f"{name} gives {given_shape(node)}, no number; C code has sizes from 1: leave out what is empty".lstrip()
    )


def _shape_without_batch(node: fx.Node) -> tuple[int, ...]:
    """Return the shape that a node has in the user's network, without the batch, which may be the second axis."""
    shape, order = given_shape(node), given_order(node)
    place = order.index("n") if len(order) == len(shape) else 0
    return shape[:place] + shape[place + 1 :]


def _swapped(sizes: tuple[int, int, int, int], is_swapped: bool) -> tuple[int, int, int, int]:
    first, second, rows, columns = sizes
    return (second, first, rows, columns) if is_swapped else sizes


def pair(value: Any) -> tuple[int, int]:
    """Return a number for both axes, or two."""
    numbers = [int(item) for item in value] if isinstance(value, (list, tuple)) else [int(value)]
    return numbers[0], numbers[-1]


def window(kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Window:
    """Return a kernel along two axes."""
    return Window(pair(kernel), pair(stride), pair(padding), pair(dilation))


def has_channels(node: fx.Node, value: Value) -> bool:
    """Tell if axis 1 of what a node gives is that of the channels."""
    return rank(node) in (2, 4) and not value.mixes_places


def size_of(node: fx.Node) -> tuple[int, int]:
    """Height and width of what a node gives."""
    shape = tuple(node.meta["val"].shape)
    return (int(shape[2]), int(shape[3])) if len(shape) == 4 else (1, 1)


def resampled(
    value: Value, node: fx.Node, resampling: Resampling, by: Window | None = None, flag: bool = False
) -> Value:
    """Return a plain value with a change of size."""
    return replace(value, size=size_of(node), resampling=resampling, window=by or Window(), flag=flag)


def _num_readings(node: fx.Node) -> int:
    """Count how often the operations behind a node read what it gives."""
    readings: list[fx.Node] = []
    for user in node.users:
        own: list[fx.Node] = []
        fx.node.map_arg((user.args, user.kwargs), own.append)
        readings += own * (2 if op_name(user.target) in _READ_TWICE else 1)
    return readings.count(node)


def _numbers_of(stage: Stage) -> list[Any]:
    """Return all numbers that a stage computes with, but its maps."""
    ops = [op for segment in stage.value.segments for op in segment.ops] + [*stage.value.ops]
    parts: list[Any] = [part for op in ops for part in (op.scale, op.shift, op.low, op.high)]
    parts += [weight.numbers for weight in stage.weights]
    parts += [] if stage.recurrence is None else [stage.recurrence.bias, stage.recurrence.state_bias]
    parts += [] if stage.norm is None else [stage.norm.gamma, stage.norm.beta]
    return [part for part in parts if part is not None]


def _check_same(node: fx.Node, value: Value) -> None:
    """Raise `StructureError` unless a value has the shape and the type of the numbers that its node gives."""
    given = node.meta["val"]
    if isinstance(given, (list, tuple)):  # parts of a map, which are checked where they are taken
        return
    if given.dtype != torch.float32:
        raise StructureError(f"gives {str(given.dtype).removeprefix('torch.')}; C code has float32 alone")
    shape, maps = tuple(given.shape), (value.channels, *value.size)
    is_same = {4: shape[1:] == maps, 3: shape[1:] == value.size and value.channels == 1}.get(len(shape), False)
    is_flat = len(shape) != 4 and value.floats == given.numel() and (len(shape) == 2 or value.size == (1, 1))
    if shape[:1] != (1,) or not (is_same or is_flat):
        raise StructureError(f"gives {given_shape(node)}, which C code has no form of")
