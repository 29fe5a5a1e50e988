"""`load`: rebuilds the network of a `.tailcut` file, after every check that can be made before memory is taken."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import IO, TypeVar, overload

import torch
from torch import nn

from tailcut.errors import (
    ArgumentError,
    CorruptFileError,
    ModelMismatchError,
    StructureError,
    TruncatedFileError,
    UnsupportedVersionError,
)
from tailcut.format.container.contents import Contents, decode
from tailcut.format.container.numbers import (
    can_hold,
    has_non_finite,
    needs_double,
    number_type_name,
    overflowing,
    type_name,
)
from tailcut.format.container.streams import counts_by_level, decode_values
from tailcut.format.file_bytes import checked_level, naming, read_file
from tailcut.format.network.building import build_for_real, build_on_meta, materialize, named_base, needs_real_tensors
from tailcut.format.network.rollback import unchanged_on_error
from tailcut.format.network.tensors import NetworkTensors, list_digest, meta_copy, network_tensors
from tailcut.limits import check_level_work, check_total, check_work, limit_of, non_finite_allowed
from tailcut.structure import (
    METADATA_KEY,
    SHORTER_SIDE_KEY,
    CoefficientLayout,
    Edit,
    Reader,
    Record,
    are_names,
    check_module,
    edit_kind,
    family,
    in_evaluation,
    is_shorter_side,
    record_of,
    separate,
    set_class_names,
    set_image_size,
    set_record,
    sharing,
    size_key_in,
    usable_device,
    view_in,
)
from tailcut.structure.views import unwrap
from tailcut.weights.nested_levels import count_below

Network = TypeVar("Network", bound=nn.Module)


@overload
def load(
    path: str | Path | IO[bytes],
    *,
    into: None = None,
    device: torch.device | str = "cpu",
    max_parameters: int | None = None,
    allow_non_finite: bool = False,
    level: int | None = None,
) -> nn.Module: ...


@overload
def load(
    path: str | Path | IO[bytes],
    *,
    into: Network,
    device: torch.device | str = "cpu",
    max_parameters: int | None = None,
    allow_non_finite: bool = False,
    level: int | None = None,
) -> Network: ...


@torch.inference_mode(False)
def load(
    path: str | Path | IO[bytes],
    *,
    into: nn.Module | None = None,
    device: torch.device | str = "cpu",
    max_parameters: int | None = None,
    allow_non_finite: bool = False,
    level: int | None = None,
) -> nn.Module:
    """Rebuild the network of a `.tailcut` file. The file is data only: nothing in it is ever executed.

    Args:
        path: the file, or "zoo:NAME" for a network that ships with Tailcut; or a binary file object, such as
            `io.BytesIO(content)`, which is read to its end.
        into: a fresh network of your own class to fill in; it is changed, and left as it was on an error.
            Needed if the file holds no registered name. It keeps its number types, which must hold the file's numbers.
        device: where the network shall be (with `into` it stays where it is).
        max_parameters: the most numbers that the dense network may have (2^30 if not given). Memory and time are
            bounded by it: see docs/file-format.md.
        allow_non_finite: take numbers that are not finite (NaN, infinities) in tensors that are no coefficients, which
            are an error otherwise. Infinities in buffers, as masks have them, are taken in any case.
        level: of a file with levels (`save(..., levels=)`): the network of this level, from 1, the smallest. What
            follows in the file is not looked at. None takes all that is there.

    Returns:
        The network in evaluation mode, regularised as it was saved. `.train()` to go on training. It knows the names of
        its classes (`tailcut.class_names`) and its images' size (`tailcut.inputs.image_size`) if the file does.
        A registered network is in float32; in float64 if all its numbers are stored so and float32 lacks some.
        A file does not hold the `precision` of `regularize`: to continue training with rounding, set
        `tensor.truncation.precision = "float16"` for each `tensor` of `tailcut.weights.truncated_tensors(model)`.

    Raises:
        FormatError: in one of its kinds: the file is damaged, hostile, too new, too large, or of another model.
        ArgumentError: the file needs `into`, `into` is no fresh network with memory, or there is no such level.
        FileNotFoundError: there is no such file.
    """
    if into is not None:
        check_module("load(into=)", into)
    max_parameters, allow_non_finite = limit_of(max_parameters), non_finite_allowed(allow_non_finite)
    content = read_file(path, max_parameters)
    with naming(path):
        contents = decode(content, checked_level(level))
        del content
        if into is not None:
            with _naming_wrapper(into):
                return _load_into(contents, into, max_parameters, allow_non_finite)
        return _with_user_metadata(
            contents, _load_registered(contents, usable_device(device), max_parameters, allow_non_finite)
        )


@contextmanager
def _naming_wrapper(into: nn.Module) -> Iterator[None]:
    """Within the block, errors about a network that the file does not fit say so if it is one of torch's wrappers."""
    try:
        yield
    except ModelMismatchError as error:
        place = unwrap(into)[1]
        if not place:
            raise
        raise ModelMismatchError(
            f"{error}; into= is a {type(into).__name__}, a wrapper: load into the network in it, its {place}"
        ) from error


def bare_network(contents: Contents, max_parameters: int) -> nn.Module:
    """Return the registered network of a file before its edits, without memory for its tensors."""
    if contents.base is None:
        raise ArgumentError("the file holds a network of a user's own class: load(path, into=YourClass())")
    model = build_on_meta(contents.base, max_parameters)
    shapes = [tuple(tensor.shape) for tensor in model.state_dict().values()]
    check_total(shapes, max_parameters)
    check_work(len(shapes), num_edits=len(contents.edits), max_parameters=max_parameters)
    return model


def check_own_list(contents: Contents, kept: Sequence[CoefficientLayout], max_parameters: int) -> None:
    """Compare the tensors that a file of a user's own class lists with its digest. Needs no network, takes no memory.

    Args:
        contents: of the file.
        kept: the tensors kept as coefficients, by its edits.
        max_parameters: the most numbers of all together.
    """
    shapes = [other.shape for other in contents.others]
    check_total([*(entry.shape for entry in kept), *shapes], max_parameters)
    _check_levels(contents, [entry.num_kept for entry in kept], shapes, max_parameters)
    names = [entry.name for entry in kept] + [other.name for other in contents.others]
    if len(set(names)) < len(names):
        raise CorruptFileError("a tensor is stored twice, as coefficients and as it is")
    if list_digest(kept, contents.others) != contents.digest:
        raise CorruptFileError("the digest is not that of the tensors which the file lists")


def check_tensors(contents: Contents, tensors: NetworkTensors, max_parameters: int) -> None:
    """Compare what the file says with the tensors of the network it shall fill. Takes no memory."""
    check_total(tensors.shapes().values(), max_parameters)
    if contents.base is None:
        _compare_names(contents, tensors)
    if tensors.digest() != contents.digest:
        raise ModelMismatchError(
            "names, shapes or axes of the network's tensors are not those the file was written from; "
            "it needs the version of the model that wrote it"
        )
    if len(contents.other_types) != len(tensors.others):
        raise CorruptFileError(f"{len(contents.other_types)} tensors in the file, {len(tensors.others)} in the network")
    counts = [entry.num_kept for entry in tensors.coefficients]
    _check_levels(contents, counts, [other.shape for other in tensors.others], max_parameters)
    for other, number in zip(tensors.others, contents.other_types, strict=True):
        if not can_hold(other.tensor.dtype, number):
            raise ModelMismatchError(
                f"{other.name} is of type {other.tensor.dtype} in the network, of type {number_type_name(number)} in "
                "the file"
            )


def _check_levels(
    contents: Contents, counts: Sequence[int], others: Sequence[tuple[int, ...]], max_parameters: int
) -> None:
    """Raise `LimitError` if the levels that were read repeat too much. `counts` are those of the highest of them."""
    num_known = sum(map(sum, counts_by_level(contents, counts)[:-1]))
    num_anew = sum(map(math.prod, others)) * sum(level.has_others for level in contents.added)
    check_level_work(num_known, num_anew, max_parameters)


def decode_edits(contents: Contents, max_parameters: int) -> list[Edit]:
    """Return the edits of a user's own class, which can be read without it."""
    edits: list[Edit] = []
    num_kept = 0
    for number, content in contents.edits:
        edits.append(_decode_edit(number, content, None, contents.parts_above))
        num_kept += len(edits[-1].coefficient_layouts())
        num_tensors = num_kept + len(contents.others)
        check_work(num_tensors, num_kept=num_kept, num_edits=len(contents.edits), max_parameters=max_parameters)
    return edits


def apply_edits(contents: Contents, model: nn.Module, max_parameters: int) -> list[Edit]:
    """Decode, check and apply the edits of a file. Changes the model, which shall be on the meta device."""
    context = None if contents.base is None else model
    edits: list[Edit] = []
    num_tensors, num_kept = len(model.state_dict(keep_vars=True)), 0
    for number, content in contents.edits:
        edit = _decode_edit(number, content, context, contents.parts_above)
        num_kept += len(edit.coefficient_layouts())
        check_work(num_tensors, num_kept=num_kept, num_edits=len(contents.edits), max_parameters=max_parameters)
        try:
            edit.check(model)
            edit.apply(model)
        except (ArgumentError, StructureError) as error:
            raise ModelMismatchError(
                f"an edit of the file does not fit the network: {error}; was the code of the network's class, or the "
                "arguments that it is made with, another when the file was written?"
            ) from error
        edits.append(edit)
    return edits


def _load_registered(
    contents: Contents, device: torch.device, max_parameters: int, allow_non_finite: bool
) -> nn.Module:
    model = bare_network(contents, max_parameters)
    base = record_of(model).base
    has_constants = needs_real_tensors(model)
    edits = apply_edits(contents, model, max_parameters)
    tensors = network_tensors(model, edits)
    check_tensors(contents, tensors, max_parameters)
    values = _decoded(contents, tensors)
    is_double = needs_double(values)
    if is_double:
        tensors = network_tensors(model.double(), edits)
    _check_values(tensors, values, allow_non_finite)
    if base is not None and has_constants:
        model = build_for_real(base).to(device)
        for edit in edits:
            edit.apply(model)
        model = model.double() if is_double else model
    else:
        model = materialize(model, device)
    return _filled(model, Record(base, edits), values, tensors.digest())


def _load_into(contents: Contents, into: nn.Module, max_parameters: int, allow_non_finite: bool) -> nn.Module:
    record = record_of(into)
    if record.edits:
        raise ArgumentError(
            "into= must be a fresh network, as its class makes it: this one is regularised or pruned already"
        )
    if any(tensor.is_meta for tensor in (*into.parameters(), *into.buffers())):
        raise ArgumentError("into= lies on the meta device: call into.to_empty(device=...) before")
    view = view_in(into)
    if view is not None:
        raise ArgumentError(
            f"into= has a fused view in it ({view or 'itself'}): load into the network first, then fuse"
        )
    _check_same_arguments(contents, record)
    trial = meta_copy(into)
    if contents.edits and any(tensor.is_inference() for tensor in (*into.parameters(), *into.buffers())):
        raise ArgumentError(
            "into= was made under torch.inference_mode, so that its layers cannot be changed: make it outside of that "
            "(the loaded network may run under it)"
        )
    try:
        edits = apply_edits(contents, trial, max_parameters)
    except (CorruptFileError, TruncatedFileError) as error:
        if contents.base is None:
            raise
        # The edits of a registered network omit what follows from its parameters.
        raise ModelMismatchError(f"the file holds a {contents.base.name!r}, which into= is not: {error}") from error
    if contents.base is None:
        check_own_list(contents, [entry for edit in edits for entry in edit.coefficient_layouts()], max_parameters)
    order = [other.name for other in contents.others]
    tensors = network_tensors(trial, edits).in_order(order)
    check_tensors(contents, tensors, max_parameters)
    values = _decoded(contents, tensors)
    _check_values(tensors, values, allow_non_finite)
    with unchanged_on_error(into) as before:
        for edit in edits:
            edit.apply(into)
        before.keep_numbers(other.tensor for other in network_tensors(into, edits).others)
        record = Record(record.base, edits)
        return _with_user_metadata(contents, _filled(into, record, values, tensors.digest(), order))


def _check_same_arguments(contents: Contents, record: Record) -> None:
    """Raise `ModelMismatchError` if both are of one registered model, but made with other arguments.

    Not all of them show in the tensors: a network's normalisation, the number of its heads. Dropout counts in training
    only.
    """
    if contents.base is None or record.base is None or contents.base.name != record.base.name:
        return
    stored, own = named_base(contents.base).arguments, record.base.arguments
    defaults = family(record.base.name).defaults
    differing = [
        f"{key} is {stored.get(key, defaults[key])!r} in the file, {own.get(key, defaults[key])!r} in into="
        for key in defaults
        if "drop" not in key and stored.get(key, defaults[key]) != own.get(key, defaults[key])
    ]
    if differing:
        raise ModelMismatchError(
            f"the file holds a {contents.base.name!r} made with other arguments than into=: {'; '.join(differing)}; "
            "load(path) without into= makes the network of the file"
        )


def _with_user_metadata(contents: Contents, model: nn.Module) -> nn.Module:
    """Set a file's user metadata on a network (changes the model's metadata only)."""
    names = contents.metadata.get(METADATA_KEY)
    if are_names(names):
        set_class_names(model, names)
    size_key = size_key_in(contents.metadata)
    if size_key is not None:
        size, shorter_side = contents.metadata[size_key], contents.metadata.get(SHORTER_SIDE_KEY)
        is_framed = is_shorter_side(shorter_side, size)
        set_image_size(model, size, shorter_side=shorter_side if is_framed else None)
    return model


def _decoded(contents: Contents, tensors: NetworkTensors) -> list[torch.Tensor]:
    """Return the numbers of a file in the order of `tensors`."""
    vectors, others = decode_values(contents, tensors.coefficients, tensors.stored_others)
    return vectors + others


def _check_values(tensors: NetworkTensors, values: Sequence[torch.Tensor], allow_non_finite: bool) -> None:
    """Check that the tensors of a network can hold the numbers of a file, in the order of `tensors`."""
    for other, value in zip(tensors.others, values[len(tensors.coefficients) :], strict=True):
        if not allow_non_finite and has_non_finite(other.name, value, is_parameter=other.is_parameter):
            raise CorruptFileError(
                f"{other.name} has numbers that are not finite; load(..., allow_non_finite=True) takes them"
            )
    targets = [(entry.name, entry.parameter.dtype) for entry in tensors.coefficients]
    targets += [(other.name, other.tensor.dtype) for other in tensors.others]
    for (name, dtype), value in zip(targets, values, strict=True):
        largest = overflowing(value, dtype)
        if largest is not None:
            raise ModelMismatchError(
                f"{name}: {largest:.3g} does not fit into {type_name(dtype)}, its type in the network; load into= a "
                f"network of {type_name(value.dtype)}, as the file has it"
            )


def _filled(
    model: nn.Module, record: Record, values: Sequence[torch.Tensor], digest: bytes, order: Sequence[str] = ()
) -> nn.Module:
    """Write the record and the numbers, of other tensors in this order of names, on the finished network."""
    tensors = network_tensors(model, record.edits).in_order(order)
    if tensors.digest() != digest:
        raise ModelMismatchError("the network has other tensors on its device than on the meta device")
    set_record(model, record)
    targets = [entry.parameter for entry in tensors.coefficients] + [other.tensor for other in tensors.others]
    separate(targets)
    with torch.no_grad():
        for target, value in zip(targets, values, strict=True):
            target.data.copy_(value)
    _check_shared(tensors, targets, values)
    return in_evaluation(model)


def _check_shared(tensors: NetworkTensors, targets: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    """Raise `ModelMismatchError` where tensors in one memory, filled one after the other, have other numbers now."""
    names = [entry.name for entry in tensors.coefficients] + [other.name for other in tensors.others]
    shared = sharing(zip(names, targets, strict=True))
    for name, target, value in zip(names, targets, values, strict=True):
        if name not in shared and name not in shared.values():
            continue
        there, stored = target.detach().cpu(), value.to(target.dtype)
        if not torch.equal(there.nan_to_num(), stored.nan_to_num()):
            other = shared.get(name) or next(later for later, first in shared.items() if first == name)
            raise ModelMismatchError(
                f"{name} and {other} are two tensors in the same memory of the network, but have other numbers in the "
                "file; hold one parameter, and use it in both places"
            )


def _decode_edit(number: int, content: bytes, model: nn.Module | None, parts_above: Sequence[int]) -> Edit:
    """Return an edit with the counts of the level that was read."""
    kind = edit_kind(number)
    if kind is None:
        raise UnsupportedVersionError(f"unknown kind of edit {number}; the file may need a newer version of tailcut")
    reader = Reader(content, what=f"edit {kind.kind!r}")
    edit = kind.decode(reader, model)
    reader.end()
    return edit.with_counts(partial(reduce, count_below, parts_above)) if parts_above else edit


def _compare_names(contents: Contents, tensors: NetworkTensors) -> None:
    stored = {other.name: other.shape for other in contents.others}
    there = {other.name: other.shape for other in tensors.others}
    for name, shape in stored.items():
        if name not in there:
            raise ModelMismatchError(
                f"the file holds a tensor {name!r}, which the network does not have{_of_wrapper(stored, there)}"
            )
        if there[name] != shape:
            raise ModelMismatchError(f"{name} has shape {there[name]} in the network, {shape} in the file")
    for name in there:
        if name not in stored:
            raise ModelMismatchError(f"the network has a tensor {name!r}, which the file does not hold")


def _of_wrapper(stored: Collection[str], there: Collection[str]) -> str:
    """Say what to do if all names in the file have the prefix of a wrapper, and fit the network without it."""
    for prefix, wrapper in (("module.", "nn.DataParallel"), ("_orig_mod.", "torch.compile")):
        if {f"{prefix}{name}" for name in there} == set(stored):
            return (
                f": it was saved from a wrapper ({wrapper}); load it into such a wrapper, and save the network inside, "
                f"its .{prefix.removesuffix('.')}"
            )
    return ""
