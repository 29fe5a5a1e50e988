"""`load`: a `.tailcut` file becomes a network again, with everything checked before memory is taken."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from tailcut.errors import (
    ArgumentError,
    CorruptFileError,
    FormatError,
    LimitError,
    ModelMismatchError,
    StructureError,
    TailcutError,
)
from tailcut.format.container import Contents, StoredBase, check_total, decode
from tailcut.format.numbers import from_bytes, number_type
from tailcut.format.tensors import NetworkTensors, meta_copy, network_tensors
from tailcut.format.zoo import resolve
from tailcut.structure import (
    Base,
    Edit,
    Reader,
    Record,
    create_model,
    edit_kind,
    family,
    model_names,
    set_record,
)
from tailcut.structure.wire import Value

MAX_PARAMETERS = 1 << 30
MAX_FILE_BYTES = 1 << 34


def load(
    path: str | Path,
    *,
    into: nn.Module | None = None,
    device: torch.device | str = "cpu",
    max_parameters: int = MAX_PARAMETERS,
) -> nn.Module:
    """Rebuild the network of a `.tailcut` file. The file is data only: nothing in it is ever executed.

    Args:
        path: the file, or "zoo:NAME" for a network that ships with Tailcut.
        into: a fresh network of your own class to fill in; it is changed, and left as it was on an error.
            Needed if the file holds no registered name.
        device: where the network shall be (with `into` it stays where it is).
        max_parameters: the most numbers that the dense network may have.

    Returns:
        The network in evaluation mode, regularised as it was saved. `.train()` to go on training.

    Raises:
        FormatError: in one of its kinds: the file is damaged, hostile, too new, too large, or of another model.
        ArgumentError: the file needs `into`.
        FileNotFoundError: there is no such file.
    """
    contents = decode(read_file(path))
    try:
        if into is None:
            return _load_registered(contents, torch.device(device), max_parameters)
        return _load_into(contents, into, max_parameters)
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from error


def read_file(path: str | Path) -> bytes:
    """The bytes of the file `path` or "zoo:NAME"; `LimitError` if it is larger than any network may be."""
    resolved = resolve(path)
    size = resolved.stat().st_size
    if size > MAX_FILE_BYTES:
        raise LimitError(f"{path} has {size} bytes, at most {MAX_FILE_BYTES} are allowed")
    return resolved.read_bytes()


def bare_network(contents: Contents, max_parameters: int) -> tuple[nn.Module, list[Edit]]:
    """The registered network of a file with its edits, without memory for its tensors."""
    if contents.base is None:
        raise ArgumentError("the file holds a network of a user's own class: load(path, into=YourClass())")
    model = _build_base(contents.base)
    check_total([tuple(tensor.shape) for tensor in model.state_dict().values()], max_parameters)
    edits = _apply_edits(contents, model)
    return model, edits


def check_tensors(contents: Contents, tensors: NetworkTensors, max_parameters: int) -> None:
    """Compare what the file says with the tensors of the network it shall fill. Takes no memory."""
    check_total(list(tensors.shapes().values()), max_parameters)
    if contents.base is None:
        _compare_names(contents, tensors)
    if tensors.digest() != contents.digest:
        raise ModelMismatchError(
            "names, shapes or axes of the network's tensors are not those the file was written from; "
            "it needs the version of the model that wrote it"
        )
    if len(contents.other_types) != len(tensors.others):
        raise CorruptFileError(f"{len(contents.other_types)} tensors in the file, {len(tensors.others)} in the network")
    if bool(tensors.coefficients) != (contents.coefficients is not None):
        raise CorruptFileError("coefficients without regularised tensors, or the other way round")


def decode_edits(contents: Contents, model: nn.Module | None) -> list[Edit]:
    """The edits of a user's own class (`model` None), as far as they can be read without it."""
    return [_decode_edit(number, content, model) for number, content in contents.edits]


def _load_registered(contents: Contents, device: torch.device, max_parameters: int) -> nn.Module:
    model, edits = bare_network(contents, max_parameters)
    tensors = network_tensors(model, edits)
    check_tensors(contents, tensors, max_parameters)
    values = _decode_values(contents, tensors)
    base = named_base(contents.base) if contents.base is not None else None
    if base is not None and _has_constants(model):
        # Buffers that files do not hold must be computed: build the network for real.
        with torch.random.fork_rng(devices=[]):
            model = create_model(base.name, **base.arguments).to(device)
        for edit in edits:
            edit.apply(model)
    else:
        model = model.to_empty(device=device)
    set_record(model, Record(base, edits))
    _fill(network_tensors(model, edits), values)
    return model.eval()


def _load_into(contents: Contents, into: nn.Module, max_parameters: int) -> nn.Module:
    trial = meta_copy(into)
    edits = _apply_edits(contents, trial)
    tensors = network_tensors(trial, edits)
    check_tensors(contents, tensors, max_parameters)
    values = _decode_values(contents, tensors)
    for edit in edits:
        edit.apply(into)
    set_record(into, Record(None if contents.base is None else named_base(contents.base), edits))
    _fill(network_tensors(into, edits), values)
    return into.eval()


def _build_base(base: StoredBase) -> nn.Module:
    named = named_base(base)
    try:
        with torch.device("meta"):
            return create_model(named.name, **named.arguments)
    except (TailcutError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise CorruptFileError(f"the model {base.name!r} cannot be built with the stored arguments: {error}") from error


def named_base(base: StoredBase) -> Base:
    """The base with its arguments by name; `ModelMismatchError` if it is not known here."""
    if base.name not in model_names():
        raise ModelMismatchError(
            f"the file names the model {base.name!r}, which is not registered here (registered: "
            f"{', '.join(model_names())}); import the module that registers it, or load into= a network"
        )
    names = list(family(base.name).defaults)
    arguments: dict[str, Value] = {}
    for place, value in base.arguments:
        if place >= len(names):
            raise ModelMismatchError(
                f"the file gives argument number {place} of model {base.name!r}, which has {len(names)} here; "
                "it was written by a newer version of the model"
            )
        arguments[names[place]] = value
    return Base(base.name, arguments)


def _apply_edits(contents: Contents, model: nn.Module) -> list[Edit]:
    """Decode, check and apply the edits to a network without memory."""
    context = None if contents.base is None else model
    edits = []
    for number, content in contents.edits:
        edit = _decode_edit(number, content, context)
        try:
            edit.check(model)
            edit.apply(model)
        except StructureError as error:
            raise ModelMismatchError(f"an edit of the file does not fit the network: {error}") from error
        edits.append(edit)
    return edits


def _decode_edit(number: int, content: bytes, model: nn.Module | None) -> Edit:
    kind = edit_kind(number)
    if kind is None:
        raise CorruptFileError(f"unknown kind of edit {number}; the file may need a newer version of tailcut")
    reader = Reader(content, what=f"edit {kind.kind!r}")
    edit = kind.decode(reader, model)
    reader.end()
    return edit


def _compare_names(contents: Contents, tensors: NetworkTensors) -> None:
    stored = {other.name: other.shape for other in contents.others}
    there = {other.name: other.shape for other in tensors.others}
    for name, shape in stored.items():
        if name not in there:
            raise ModelMismatchError(f"the file holds a tensor {name!r}, which the network does not have")
        if there[name] != shape:
            raise ModelMismatchError(f"{name} has shape {there[name]} in the network, {shape} in the file")
    for name in there:
        if name not in stored:
            raise ModelMismatchError(f"the network has a tensor {name!r}, which the file does not hold")


def _decode_values(contents: Contents, tensors: NetworkTensors) -> list[torch.Tensor]:
    """The numbers of all tensors, in their order: coefficients first. Sizes were checked before."""
    values: list[torch.Tensor] = []
    if contents.coefficients is not None:
        counts = [entry.num_kept for entry in tensors.coefficients]
        dtype = number_type(contents.coefficients.type_number)
        if not dtype.is_floating_point:
            raise CorruptFileError(f"coefficients of type {dtype} are no real numbers")
        values += from_bytes(contents.coefficients.decode(sum(counts)), dtype).split(counts)
    others: list[torch.Tensor | None] = [None] * len(tensors.others)
    for stream in contents.other_streams:
        members = [place for place, number in enumerate(contents.other_types) if number == stream.type_number]
        counts = [math.prod(tensors.others[place].shape) for place in members]
        numbers = from_bytes(stream.decode(sum(counts)), number_type(stream.type_number))
        for place, part in zip(members, numbers.split(counts), strict=True):
            others[place] = part.reshape(tensors.others[place].shape)
    return values + [value for value in others if value is not None]


def _fill(tensors: NetworkTensors, values: Sequence[torch.Tensor]) -> None:
    targets = [entry.parameter for entry in tensors.coefficients] + [other.tensor for other in tensors.others]
    with torch.no_grad():
        for target, value in zip(targets, values, strict=True):
            target.data.copy_(value)


def _has_constants(model: nn.Module) -> bool:
    """Whether some module computes buffers that are not in its state_dict (those of edits make themselves)."""
    return any(
        name in module._non_persistent_buffers_set and not hasattr(module, "order_weights")
        for module in model.modules()
        for name in module._buffers
    )
