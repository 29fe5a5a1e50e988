"""Propagation of channel labels through torch's operations: one rule per family of operations.

A rule gets an `OperationCall` and returns the labels of the results. Operations that only move numbers (views,
concatenations, padding) run on the labels themselves; elementwise operations couple the labels of their operands. An
operation without a rule locks its inputs, so that nothing is ever cut on a guess.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tailcut.channels.graph.coupling import Coupling, fixed
from tailcut.channels.graph.memory_layout import Layout, entries_at

# What they give last is a place along the axis, not a number that was there.
_INDEXING = {"argmax", "argmin", "max", "min", "median", "nanmedian", "mode", "kthvalue"}

_AVERAGES = {"mean", "var", "std", "var_mean", "std_mean"}
_SUMS = {"sum", "nansum", "linalg_vector_norm", "count_nonzero", "any"}


@dataclass(frozen=True)
class OperationCall:
    """One operation of a forward.

    Attributes:
        coupling: where channels are coupled and locked.
        func: the operation.
        arguments: its arguments by the names of its schema, defaults included.
        inputs: the tensors among them, in order.
        results: the tensors that it gave.
        labels: gives the labels of a tensor, all `FIXED` for one that is not followed.
        place: where in the network, for messages.
        layout: how the first tensor lay in memory before the operation, where the operation's meaning depends on it.
    """

    coupling: Coupling
    func: Any
    arguments: Mapping[str, Any]
    inputs: list[Tensor]
    results: list[Tensor]
    labels: Callable[[Tensor], Tensor]
    place: str
    layout: Layout | None = None

    @property
    def name(self) -> str:
        """Name of the operation without overload and without the underscore of in-place forms: `add`."""
        return str(self.func.overloadpacket.__name__).rstrip("_")

    @property
    def main(self) -> Tensor:
        """Tidy labels of the first tensor."""
        return self.coupling.tidy(self.labels(self.inputs[0]))

    def axes(self, key: str) -> tuple[int, ...]:
        """Return an argument that names axes, as non-negative numbers; all axes for None and for an empty list."""
        value = self.arguments.get(key)
        num_axes = self.inputs[0].ndim
        if value is None or value == []:
            return tuple(range(num_axes))
        chosen = value if isinstance(value, (list, tuple)) else [value]
        return tuple(axis % num_axes for axis in chosen) if num_axes else ()

    def fixed_results(self) -> list[Tensor]:
        """Results that nothing can be taken out of."""
        return [fixed(result.shape) for result in self.results]

    def lock_all(self, why: str) -> list[Tensor]:
        """Lock all inputs."""
        for tensor in self.inputs:
            self.coupling.lock(self.labels(tensor), f"{why}, {self.place}")
        return self.fixed_results()


Rule = Callable[[OperationCall], list[Tensor]]


def bind_arguments(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation by the names of its schema."""
    values = {}
    for place, argument in enumerate(func._schema.arguments):
        if place < len(args) and not argument.kwarg_only:
            values[argument.name] = args[place]
        elif argument.name in kwargs:
            values[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            values[argument.name] = argument.default_value
    return values


def labels_of_results(call: OperationCall) -> list[Tensor]:
    """Return the labels of an operation's result."""
    if any(argument.is_out for argument in call.func._schema.arguments):
        return call.lock_all("the result is written into a given tensor (out=)")
    rule = _RULES.get(call.name)
    if rule is None:
        if torch.Tag.pointwise in call.func.tags:
            rule = entry_by_entry
        elif torch.Tag.reduction in call.func.tags:
            rule = reduction
        elif _SPATIAL.fullmatch(call.name):
            rule = spatial
        else:
            return call.lock_all(f"channels cannot be followed through {call.func}")
    if len(call.inputs) > 1 and rule not in _SEVERAL_INPUTS:
        return call.lock_all(f"several tensors go into {call.func}")
    return [call.coupling.tidy(labels) for labels in rule(call)]


def numbered_channels(call: OperationCall) -> Tensor | None:
    """Labels of the channels that the last result indexes, or None if it is not an index of channels."""
    if call.name not in _INDEXING or not (call.name.startswith("arg") or len(call.results) > 1):
        return None
    labels = call.main
    return labels if set(call.axes("dim")) & set(call.coupling.varied(labels)) else None


def entry_by_entry(call: OperationCall) -> list[Tensor]:
    """Couple the operands of an elementwise operation (addition, activation): they are kept or removed together.

    An operand that is stretched along the channels of another one (a gate of one channel, a number) does not
    belong to any of them; it stays as it is. So does one that was stretched before, by `expand_as`.
    """
    shape = call.results[0].shape if call.results else call.inputs[0].shape
    operands = [(_aligned(call.labels(x), len(shape)), _stretched(x, shape)) for x in call.inputs]
    is_expanded = any(0 in x.stride() for x in call.inputs)
    varied = [set(call.coupling.varied(labels)) for labels, _ in operands]
    merged = None
    for place, (labels, stretched) in enumerate(operands):
        others: set[int] = set().union(*(axes for other, axes in enumerate(varied) if other != place))
        if stretched & others:
            call.coupling.lock(labels, f"stretched over other channels, {call.place}")
            continue
        labels = labels.expand(shape)
        why = f"is combined with numbers that have no channels, {call.place}"
        merged = labels if merged is None else call.coupling.couple(merged, labels, why)
    merged = fixed(shape) if merged is None else merged
    if is_expanded:
        call.coupling.assume(merged, f"is combined with numbers that are expanded to its channels, {call.place}")
    return [merged for _ in call.results]


def like_input(call: OperationCall) -> list[Tensor]:
    """Results with the sizes of the input: copies, `zeros_like`."""
    return [call.main for _ in call.results]


def new_like(call: OperationCall) -> list[Tensor]:
    """`x.new_empty(sizes)`: numbers that do not depend on `x`, as wide as `x` where they have its width.

    So does dropout of whole channels draw its mask: (batch, channels, 1, 1), beside the channels of its input.
    """
    labels, shape = call.main, call.results[0].shape
    resized = _resized(call.coupling, labels, shape) if labels.ndim == len(shape) else None
    return call.fixed_results() if resized is None else [resized]


def restrided(call: OperationCall) -> list[Tensor]:
    """`as_strided`: each entry is the one that the new strides point to in memory, so its label is too.

    Global pooling of maps in the channels-last layout writes other strides for the axes of size 1 with it.
    """
    before, labels = call.layout, call.main
    given = call.arguments["storage_offset"]
    if before is None or before.sizes != tuple(labels.shape):
        return call.lock_all(f"channels cannot be followed through {call.func}")
    offset = before.offset if given is None else given
    after = Layout(tuple(call.arguments["size"]), tuple(call.arguments["stride"]), offset)
    if before.is_like(after):
        return [labels]
    found = entries_at(before, after)
    if found is None:
        return call.lock_all(f"{call.func} reads numbers outside of its input")
    call.coupling.assume(labels, f"its channels are read at other strides, {call.place}")
    return [labels.reshape(-1)[torch.from_numpy(found)]]


def layout(call: OperationCall) -> list[Tensor]:
    """Operations that move numbers about are run on the labels."""
    arguments = pytree.tree_map(lambda x: call.labels(x) if isinstance(x, Tensor) else x, dict(call.arguments))
    result = call.func(**arguments)
    return [result] if isinstance(result, Tensor) else list(result)


def reshape(call: OperationCall) -> list[Tensor]:
    """Propagate labels through views. A split channel axis is assumed to have equal groups; verification tests it."""
    before, coupling = call.main, call.coupling
    if before.numel() != call.results[0].numel():
        return call.lock_all(f"channels cannot be followed through {call.func}")
    after = coupling.tidy(before.reshape(call.results[0].shape))
    old, new = coupling.varied(before), coupling.varied(after)
    if not old:
        return [after]
    if len(new) > len(old):
        # Channels lie along the widest axis, of equally wide ones the last: code writes (groups, width of a group).
        chosen = max(reversed(new), key=lambda axis: after.shape[axis])
        rest = [axis for axis in new if axis != chosen]
        coupling.regrouped = True
        coupling.assume(after, f"its channels are reshaped into groups, {call.place}")
        return [coupling.couple_along(after, rest, f"reshaped with fixed entries, {call.place}")]
    coupling.assume(after, f"its channels are reshaped, {call.place}")
    return [after]


def along_axis(call: OperationCall) -> list[Tensor]:
    """`select`, `slice`, `unbind`, `flip`, `roll`, `softmax`, ...: nothing special across the channels' axis."""
    keys = [key for key in ("dim", "dims") if key in call.arguments]
    chosen = {axis for key in keys for axis in call.axes(key)}
    labels = call.main
    if call.inputs[0].shape == call.results[0].shape and call.name == "slice":
        return [labels]
    if chosen & set(call.coupling.varied(labels)):
        return call.lock_all(f"{call.name} along its channels")
    if call.name in ("select", "slice", "narrow", "unbind"):
        return layout(call)
    return [labels.expand(result.shape) for result in call.results]


def indexed(call: OperationCall) -> list[Tensor]:
    """`x[numbers]`: the channels of all that is chosen, along other axes than theirs."""
    labels, indices = call.main, call.arguments["indices"]
    if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
        return call.lock_all(f"channels cannot be followed through {call.func} by a mask")
    axes = {axis for axis, index in enumerate(indices) if index is not None}
    if axes & set(call.coupling.varied(labels)):
        return call.lock_all("chosen by an index along its channels")
    _lock_indices(call, indices)
    found: Tensor = call.func(labels, [None if index is None else torch.zeros_like(index) for index in indices])
    return [found]


def picked(call: OperationCall) -> list[Tensor]:
    """`index_select` and `gather`: as long along an axis as the index, of the channels of all that is chosen."""
    labels, coupling, index = call.main, call.coupling, call.arguments["index"]
    varied, (axis,) = coupling.varied(labels), call.axes("dim")
    if axis in varied:
        return call.lock_all("chosen by an index along its channels")
    resized = _resized(coupling, labels, call.results[0].shape)
    if resized is None:
        return call.lock_all("some of its channels are chosen by an index")
    if call.name == "gather" and varied:
        coupling.assume(resized, f"its channels have an index each, {call.place}")
        own = coupling.tidy(call.labels(index))
        if coupling.varied(own) == varied:  # the places of each channel's own largest, say
            return [coupling.couple(resized, own, f"its index has fixed entries, {call.place}")]
    _lock_indices(call, [index])
    return [resized]


def scattered(call: OperationCall) -> list[Tensor]:
    """`index_add`, `scatter_add`, ...: what a source has goes to places along other axes than the channels'."""
    labels, coupling = call.main, call.coupling
    source = call.arguments.get("source", call.arguments.get("src"))
    if source is None:
        return call.lock_all(f"channels cannot be followed through {call.func}")
    own, (axis,) = coupling.tidy(call.labels(source)), call.axes("dim")
    if axis in (*coupling.varied(labels), *coupling.varied(own)):
        return call.lock_all("scattered by an index along its channels")
    if [*own.shape[:axis], *own.shape[axis + 1 :]] != [*labels.shape[:axis], *labels.shape[axis + 1 :]]:
        return call.lock_all("scattered into a tensor of another shape")
    _lock_indices(call, [call.arguments["index"]])
    own = own.narrow(axis, 0, min(1, own.shape[axis])).expand(labels.shape)
    why = f"is scattered among numbers that have no channels (x.new_zeros makes some that have), {call.place}"
    labels = coupling.couple(labels, own, why)
    if call.arguments["index"].ndim > 1:
        coupling.assume(labels, f"its channels have an index each, {call.place}")
    return [labels]


def _lock_indices(call: OperationCall, indices: Iterable[Tensor | None]) -> None:
    """Lock what indices are made of: all of their numbers are used."""
    for index in indices:
        if index is not None:
            call.coupling.lock(call.labels(index), f"is used as an index, {call.place}")


def split(call: OperationCall) -> list[Tensor]:
    """Equal parts of the channels stay equally wide: the same channels go from each."""
    (axis,) = call.axes("dim")
    labels, coupling = call.main, call.coupling
    if axis in coupling.varied(labels):
        sizes = [result.shape[axis] for result in call.results]
        if len(set(sizes)) > 1:
            return call.lock_all("split into unequal parts along its channels")
        coupling.assume(labels, f"its channels are split, {call.place}")
        first, *others = labels.split(sizes, dim=axis)
        for other in others:
            coupling.couple(first, other, f"split with fixed entries, {call.place}")
    return layout(call)


def gated_half(call: OperationCall) -> list[Tensor]:
    """`glu`: the second half of the channels gates the first, so the same channels go from both."""
    (axis,) = call.axes("dim")
    first, second = call.main.split(call.results[0].shape[axis], dim=axis)
    return [call.coupling.couple(first, second, f"gated with fixed entries, {call.place}")]


def pad(call: OperationCall) -> list[Tensor]:
    """Propagate labels through padding: around the map channels stay; numbers put beside channels lock them."""
    labels, varied = call.main, set(call.coupling.varied(call.main))
    amounts, shape = list(call.arguments["pad"]), list(call.inputs[0].shape)
    for place in range(len(amounts) // 2):
        axis = len(shape) - 1 - place
        before, after = amounts[2 * place], amounts[2 * place + 1]
        shape[axis] += before + after
        if axis not in varied or not (before or after):
            labels = (labels if axis in varied else labels.narrow(axis, 0, 1)).expand(shape)
        elif before < 0 or after < 0:
            return call.lock_all("cut off along its channels")
        else:
            sides = [fixed([*shape[:axis], size, *shape[axis + 1 :]]) for size in (before, after)]
            labels = torch.cat([sides[0], labels, sides[1]], dim=axis)
    return [labels]


def layer_norm(call: OperationCall) -> list[Tensor]:
    """Normalisation over the last axes, by scales and shifts that go with the channels along the last one."""
    labels, coupling = call.main, call.coupling
    num_axes = len(call.arguments["normalized_shape"])
    last = set(range(labels.ndim - num_axes, labels.ndim))
    over_channels = last & set(coupling.varied(labels))
    if over_channels and num_axes > 1:
        return call.lock_all("normalised over several axes")
    for x in call.inputs[1:]:
        own = _aligned(call.labels(x), labels.ndim).expand(labels.shape)
        labels = coupling.couple(labels, own, f"normalised with fixed entries, {call.place}")
    if over_channels:
        coupling.assume(labels, f"its channels are normalised together, {call.place}")
    statistics = fixed(labels.shape) if over_channels else labels
    for axis in last:
        statistics = statistics.narrow(axis, 0, 1)
    return [labels, *(statistics.expand(result.shape) for result in call.results[1:])]


def channel_norm(call: OperationCall) -> list[Tensor]:
    """Batch norm and group norm: scales, shifts and statistics go with the channels along axis 1."""
    coupling, why = call.coupling, f"normalised with fixed entries, {call.place}"
    labels = coupling.couple_along(call.main, [axis for axis in coupling.varied(call.main) if axis != 1], why)
    for x in call.inputs[1:]:
        own = call.labels(x).view(-1, *[1] * (labels.ndim - 2)).expand(labels.shape)
        labels = coupling.couple(labels, own, why)
    channels = labels.movedim(1, 0).flatten(1)[:, 0]
    groups = int(call.arguments.get("group", 1))
    if 1 < groups < len(channels):
        coupling.couple_along(channels.view(groups, -1), [0], f"normalised in groups with fixed entries, {call.place}")
    shape = channels.shape
    return [labels, *(channels if one.shape == shape else fixed(one.shape) for one in call.results[1:])]


def reduction(call: OperationCall) -> list[Tensor]:
    """Propagate labels through sums, means, norms: over the map channels stay, over channels they end.

    Means over channels may be cut, as layer norms may, but they are noted: they divide by how many are left. So are
    other reductions that empty channels take part in, such as the largest of all.
    """
    labels, coupling = call.main, call.coupling
    reduced, varied = set(call.axes("dim")), set(coupling.varied(labels))
    if varied & reduced:
        if varied <= reduced:
            if call.name in _AVERAGES:
                coupling.note(labels, f"averaged over its channels, {call.place}: the mean is that of those left")
            elif not _is_sum(call):
                what = f"reduced over its channels by {call.name}, {call.place}"
                coupling.note(labels, f"{what}: the result is that of those left")
            return call.fixed_results()
        labels = coupling.couple_along(labels, sorted(reduced), f"reduced with fixed entries, {call.place}")
    for axis in sorted(reduced, reverse=True):
        labels = labels.select(axis, 0)
    if call.results[0].ndim > labels.ndim:
        for axis in sorted(reduced):
            labels = labels.unsqueeze(axis)
    return [labels for _ in call.results]


def _is_sum(call: OperationCall) -> bool:
    """Return whether channels of zeros do not change a reduction. A sum of conditions counts those that hold."""
    is_count = call.name == "sum" and call.inputs[0].dtype == torch.bool
    return call.name in _SUMS and not is_count and call.arguments.get("ord", 0) >= 0


def spatial(call: OperationCall) -> list[Tensor]:
    """Pooling, resizing, padding by reflection: over the last axes, map by map."""
    found = _NUM_AXES.search(call.name)
    num_axes = int(found[1]) if found else 0
    last = range(call.inputs[0].ndim - num_axes, call.inputs[0].ndim)
    labels = call.coupling.couple_along(call.main, last, f"pooled with fixed entries, {call.place}")
    for axis in last:
        labels = labels.narrow(axis, 0, 1)
    return [labels.expand(result.shape) for result in call.results]


def shuffle(call: OperationCall) -> list[Tensor]:
    """`channel_shuffle` by its groups: the same channels go from each."""
    labels, coupling = call.main, call.coupling
    groups = int(call.arguments["groups"])
    parts = labels.unflatten(1, (groups, labels.shape[1] // groups))
    coupling.couple_along(parts, [1], f"shuffled with fixed entries, {call.place}")
    return [parts.transpose(1, 2).reshape(labels.shape)]


def pixel_shuffle(call: OperationCall) -> list[Tensor]:
    """Channels that become places of one channel go together."""
    labels = call.main
    parts = labels.unflatten(-3, (-1, int(call.arguments["upscale_factor"]) ** 2))
    call.coupling.couple_along(parts, [parts.ndim - 3], f"shuffled to places with fixed entries, {call.place}")
    return layout(call)


def _resized(coupling: Coupling, labels: Tensor, shape: torch.Size) -> Tensor | None:
    """Return labels at other sizes along axes without channels, or None where there are more or fewer channels."""
    varied = coupling.varied(labels)
    if any(labels.shape[axis] != shape[axis] for axis in varied):
        return None
    for axis in set(range(labels.ndim)).difference(varied):
        labels = labels.narrow(axis, 0, min(1, labels.shape[axis]))
    return labels.expand(shape)


def _aligned(labels: Tensor, num_axes: int) -> Tensor:
    return labels[(None,) * (num_axes - labels.ndim)]


def _stretched(x: Tensor, shape: torch.Size) -> set[int]:
    """Return the axes of `shape` along which `x` is broadcast, or was (stride 0)."""
    lead = len(shape) - x.ndim
    own = (1,) * lead + tuple(size if stride else 1 for size, stride in zip(x.shape, x.stride(), strict=True))
    return {axis for axis, (size, full) in enumerate(zip(own, shape, strict=True)) if size == 1 and full != 1}


def product(call: OperationCall) -> list[Tensor]:
    """Matrix products of maps with maps, or with weights that no layer holds."""
    return call.lock_all("multiplied with other maps or with weights outside of a layer (attention?)")


_SEVERAL_INPUTS = (entry_by_entry, layout, product, layer_norm, channel_norm, indexed, picked, scattered)
_SPATIAL = re.compile(
    r"_?(mkldnn_)?(adaptive_)?(avg|max)_pool[123]d(_with_indices)?"
    r"|_?upsample_[a-z]+(_[a-z]+)*[123]d(_aa)?"
    r"|(reflection|replication)_pad[123]d"
)
_NUM_AXES = re.compile(r"([123])d")


def _family(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_RULES: dict[str, Rule] = {
    **_family(entry_by_entry, "copy hardswish hardsigmoid hardtanh leaky_relu elu softplus rrelu_with_noise addcmul"),
    **_family(like_input, "clone _to_copy zeros_like ones_like empty_like full_like rand_like randn_like zero fill"),
    **_family(like_input, "native_dropout dropout bernoulli uniform normal"),
    **_family(new_like, "new_empty new_zeros new_ones new_full new_empty_strided"),
    **_family(restrided, "as_strided"),
    **_family(layout, "t transpose permute expand unsqueeze squeeze alias detach lift_fresh cat stack repeat"),
    **_family(layout, "pixel_unshuffle"),
    **_family(pixel_shuffle, "pixel_shuffle"),
    **_family(reshape, "view _unsafe_view reshape _reshape_alias"),
    **_family(along_axis, "select slice unbind flip roll _softmax _log_softmax cumsum cumprod logcumsumexp sort"),
    **_family(indexed, "index _unsafe_index"),
    **_family(picked, "index_select gather"),
    **_family(scattered, "index_add index_copy index_reduce scatter scatter_add scatter_reduce"),
    **_family(split, "split split_with_sizes"),
    **_family(gated_half, "glu"),
    **_family(pad, "constant_pad_nd"),
    **_family(shuffle, "channel_shuffle native_channel_shuffle"),
    **_family(layer_norm, "native_layer_norm _fused_rms_norm"),
    **_family(channel_norm, "native_batch_norm _native_batch_norm_legit _batch_norm_with_update native_group_norm"),
    **_family(channel_norm, "cudnn_batch_norm miopen_batch_norm _batch_norm_no_update"),
    **_family(reduction, "linalg_vector_norm logsumexp"),
    **_family(product, "mm bmm addmm baddbmm addbmm mv dot"),
    **_family(
        product,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention",
    ),
}
