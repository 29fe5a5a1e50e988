"""`save`: writes a network to a `.tailcut` file."""

import io
import logging
import os
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cache, reduce
from pathlib import Path
from typing import IO, Any, TypedDict, Unpack

import torch
from torch import nn

from tailcut.arguments import is_number
from tailcut.errors import ArgumentError, LimitError, StructureError, TailcutError, first_line
from tailcut.files import check_is_path, write_atomically
from tailcut.format.container.contents import Contents, Level, StoredBase, Stream, decode, encode, stream_types
from tailcut.format.container.numbers import QUANTIZED, QUANTIZED_DTYPE, float_type, has_non_finite, type_number
from tailcut.format.container.streams import decode_values
from tailcut.format.encoder.quantization import (
    RELATIVE_STEP,
    Rounding,
    coarsest_eighth,
    completed,
    default_sensitivity,
    finest_eighth,
    naming_exact,
    types_of_others,
)
from tailcut.format.encoder.sensitivity import Sensitivity
from tailcut.format.encoder.step_search import checked_max_bytes, finest_step
from tailcut.format.level_streams import coefficient_streams, other_streams, quantized_payloads, stored_type
from tailcut.format.network.building import on_meta
from tailcut.format.network.levels import NetworkLevel, network_levels, warn_of_statistics
from tailcut.format.network.tensors import NetworkTensors, OtherTensor, network_tensors
from tailcut.format.network.verification import (
    check_covered,
    check_not_wrapped,
    check_same_network,
    warn_of_wrapper,
)
from tailcut.format.quantized import Coded
from tailcut.format.save_report import SaveReport, save_report
from tailcut.limits import MAX_TENSORS, check_level_work, check_total, check_work, limit_of, non_finite_allowed
from tailcut.model_inputs import Loader
from tailcut.structure import (
    Base,
    Edit,
    Reader,
    Record,
    Writer,
    check_module,
    check_not_shared,
    family,
    record_of,
    user_metadata,
    without_views,
)
from tailcut.weights import truncated_tensors
from tailcut.weights.nested_levels import parts_of

_log = logging.getLogger(__name__)


class ContentSettings(TypedDict, total=False):
    """Arguments of `save` that say what lies in the file, however it is rounded; for functions that pass them on."""

    metadata: Mapping[str, Any] | None
    registered: bool
    allow_non_finite: bool
    levels: Sequence[float]


class WriteSettings(ContentSettings, total=False):
    """The arguments of `save` behind `dtype`."""

    other_dtype: str | torch.dtype | None
    step: float | None
    max_bytes: int | None
    sensitivity: Sensitivity | None
    loader: Loader | None


@torch.inference_mode(False)
def save(
    model: nn.Module,
    path: str | Path | IO[bytes],
    *,
    dtype: str | torch.dtype | None = None,
    other_dtype: str | torch.dtype | None = None,
    step: float | None = None,
    max_bytes: int | None = None,
    sensitivity: Sensitivity | None = None,
    metadata: Mapping[str, Any] | None = None,
    registered: bool = True,
    allow_non_finite: bool = False,
    levels: Sequence[float] = (),
    loader: Loader | None = None,
) -> SaveReport:
    """Write `model` to a `.tailcut` file, whole or not at all. Does not change the model.

    Args:
        model: a network from `create_model` or of a user's own class, regularised or not.
        path: the file; one of that name is replaced. Or a binary file object, to which it is written.
        dtype: of the coefficients: "float32", "float16", "bfloat16" (or "float64"), or the same as `torch.float16`; or
            "quantized": rounded to steps and coded in a few bits each, with parameters and running statistics too.
            None: "quantized" where `step`, `max_bytes` or `sensitivity` is given; else "float32", or "float64" where
            some are float64 in the network.
        other_dtype: of all other floating-point tensors (biases, batch norm), or "quantized"; None: their own,
            and quantised with `dtype="quantized"`.
        step: of quantised numbers, one for the whole network: a tensor's own is `step` over the root of its
            sensitivity. Without `sensitivity` that is in parts of its root mean square; 0.25 when None.
        max_bytes: the most bytes of the file. The exact file is written if it is as small; else the finest step that
            fits is taken.
        sensitivity: how much each tensor matters; None estimates it from magnitudes.
        metadata: anything JSON can hold, at most 64 KiB. The network's class names (see `tailcut.set_class_names`) and
            its images' size (`tailcut.inputs.set_image_size`) are written with it, unless it says `class_names` or
            `image_size` itself.
        registered: write the registered name, so that `load(path)` rebuilds the network. False writes it as a
            class of your own, for `load(path, into=...)`.
        allow_non_finite: write numbers that are not finite (NaN, infinities) in tensors that are no coefficients;
            `load` needs the same then. Infinities in buffers, as masks have them, are written in any case.
        levels: for a progressive file, of which a part is a network: the coefficients that each smaller network has of
            every tensor, as parts of all, from the smallest, such as (0.25, 0.5). `load(path, level=1)` gives the
            smallest, and so does a file that was cut at the end of its level.
        loader: batches of training inputs, see `tailcut.compress`, on which batch norm's running statistics are
            measured for each smaller network (on the first 640); they have those of the whole one when None.

    Returns:
        Sizes and counts.

    Raises:
        ArgumentError: a dtype is unknown, a number does not fit into it or is not finite, the model is no module, keeps
            state that is not a tensor or has over 16,384 tensors, the metadata is no JSON object, the folder does not
            exist, no step makes the file as small as `max_bytes`, or the levels do not rise from above 0 to below 1.
        StructureError: the model is no longer what its record says; or it wraps or holds the network that an edit was
            made on (`DataParallel`, `DistributedDataParallel`, `torch.compile`, a class around a pruned backbone).
    """
    asked_for = dtype
    if dtype is None:
        is_quantized = (step, max_bytes, sensitivity) != (None, None, None)
        dtype = QUANTIZED_DTYPE if is_quantized else _type_of_coefficients(model, torch.float32)
    report = write_network(
        model,
        path,
        dtype=dtype,
        other_dtype=other_dtype,
        step=step,
        max_bytes=max_bytes,
        sensitivity=sensitivity,
        metadata=metadata,
        registered=registered,
        allow_non_finite=allow_non_finite,
        levels=levels,
        loader=loader,
    )
    warn_of_unused_dtype(report, asked_for, other_dtype)
    _log.info("saved %s", report)
    return report


def _type_of_coefficients(model: object, *others: torch.dtype) -> torch.dtype:
    """Return the narrowest type that holds the coefficients of a network, and numbers of other types, as they are."""
    tensors = truncated_tensors(model) if isinstance(model, nn.Module) else []
    types = [*others, *(tensor.vector.dtype for tensor in tensors)]
    return reduce(torch.promote_types, types) if types else torch.float32


def warn_of_unused_dtype(
    report: SaveReport, dtype: str | torch.dtype | None, other_dtype: str | torch.dtype | None
) -> None:
    """Say that a type was asked for coefficients alone, and that the network has none."""
    is_plain = other_dtype is None and report.num_truncated == 0
    if is_plain and dtype not in (None, QUANTIZED_DTYPE, "float32", torch.float32):
        _log.warning(
            "dtype=%s is the type of coefficients, and the network has none: other_dtype=%s stores its weights so",
            dtype,
            dtype,
        )


def write_network(
    model: nn.Module, path: str | Path | IO[bytes], *, dtype: str | torch.dtype, **settings: Unpack[WriteSettings]
) -> SaveReport:
    """`save` without a word in the log, for callers that say themselves what was written."""
    _check_arguments(model, path)
    content, tensors = encode_network(model, dtype=dtype, **settings)
    warn_of_wrapper(without_views(model), registered=settings.get("registered", True))
    if len(settings.get("levels", ())) and settings.get("loader") is None:
        warn_of_statistics(model)
    report = save_report(path, len(content), tensors)
    if QUANTIZED_DTYPE in (dtype, settings.get("other_dtype")):
        warn_of_nothing_left(tensors, *decode_values(decode(content), tensors.coefficients, tensors.stored_others))
    # Last, so that an earlier failure leaves an old file unchanged.
    if isinstance(path, (str, os.PathLike)):
        write_atomically(path, content)
    else:
        path.write(content)
    return report


def warn_of_nothing_left(
    tensors: NetworkTensors, kept: Sequence[torch.Tensor], others: Sequence[torch.Tensor], *, hint: str = ""
) -> None:
    """Say so if all weights of a file are zeros: it was rounded that coarsely. `kept` and `others` are its numbers."""
    pairs = zip(tensors.others, others, strict=True)
    weights = [*kept, *(value for other, value in pairs if other.is_parameter and value.ndim > 1)]
    if weights and not any(bool(weight.count_nonzero()) for weight in weights):
        _log.warning(
            "all weights are rounded to zero, so the network gives the same for all inputs: give a smaller step, or "
            "more bytes%s",
            hint,
        )


def _check_arguments(model: object, path: object) -> None:
    """Raise `ArgumentError` for the slips that would end in an error of Python's."""
    if isinstance(model, (str, os.PathLike)) and isinstance(path, nn.Module):
        raise ArgumentError("the network comes first: save(model, path)")
    if isinstance(model, Mapping):
        raise ArgumentError(
            "expected a network, got a dict: a state_dict does not describe the layers; load it into its network "
            "(model.load_state_dict(...)) and save that"
        )
    check_module("save", model)
    if isinstance(path, io.TextIOBase):
        raise ArgumentError('expected a binary file object, got one of text: open it with "wb"')
    if not callable(getattr(path, "write", None)):
        check_is_path(path)


def encode_network(
    model: nn.Module,
    *,
    dtype: str | torch.dtype,
    other_dtype: str | torch.dtype | None = None,
    step: float | None = None,
    max_bytes: int | None = None,
    sensitivity: Sensitivity | None = None,
    metadata: Mapping[str, Any] | None = None,
    registered: bool = True,
    allow_non_finite: bool = False,
    levels: Sequence[float] = (),
    loader: Loader | None = None,
    known: Mapping[str, Coded] | None = None,
) -> tuple[bytes, NetworkTensors]:
    """Return the bytes of the file and the tensors in it; see `save`.

    Its further argument `known` is that of `Rounding`.
    """
    model = without_views(model)
    kinds = _Kinds.of(dtype, other_dtype)
    parts = () if isinstance(levels, Sized) and len(levels) == 0 else parts_of(levels)
    if loader is not None and not parts:
        raise ArgumentError("loader= is for a file with levels=")
    if not kinds.quantizes and (step, max_bytes, sensitivity) != (None, None, None):
        raise ArgumentError('step, max_bytes and sensitivity are for dtype="quantized"')
    record = record_of(model) if registered else Record(None, record_of(model).edits)
    edits = [edit.current(model) for edit in record.edits]
    check_not_wrapped(model, registered=registered)
    tensors = network_tensors(model, edits)
    tensors.check_numbers()
    check_covered(model, tensors, rebuilt=record.base is not None or not registered)
    if not non_finite_allowed(allow_non_finite):
        check_finite(tensors.others, "allow_non_finite=True writes them all the same")
    encoded = _encode_edits(model, record.base, edits, tensors)
    plain = Contents(
        base=None if record.base is None else _stored_base(record.base),
        digest=tensors.digest(),
        metadata={**user_metadata(model), **_checked_metadata(metadata)},
        edits=tuple(encoded),
        others=() if record.base is not None else tensors.stored_others,
        parts=parts,
    )
    found = network_levels(model, tensors, edits, parts, loader)
    _check_caps(found, len(model.state_dict(keep_vars=True)), len(edits))
    if not kinds.quantizes:
        return _unrounded(plain, found, kinds), tensors
    if max_bytes is not None:
        _check_size(max_bytes, step)
        exact = _unrounded(plain, found, _Kinds.of(_type_of_coefficients(model), None))
        if len(exact) <= max_bytes:
            return exact, tensors
    return _quantized(plain, found, kinds, step, max_bytes, sensitivity, known or {}), tensors


def _checked_metadata(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ArgumentError(f"metadata must be a dict, got {type(metadata).__name__}")
    return metadata or {}


def exact_within(
    model: nn.Module, max_bytes: int, *, loader: Loader | None = None, **settings: Unpack[ContentSettings]
) -> bytes | None:
    """Return the file with all numbers of a network as they are; None where it has more bytes. See `encode_network`."""
    exact, _ = encode_network(model, dtype=_type_of_coefficients(model), loader=loader, **settings)
    return exact if len(exact) <= max_bytes else None


def _check_size(max_bytes: object, step: object) -> None:
    """Raise `ArgumentError` for a size that is none, or beside a step."""
    if step is not None:
        raise ArgumentError("step and max_bytes exclude each other: one sets the other")
    checked_max_bytes(max_bytes)


def _check_caps(levels: Sequence[NetworkLevel], num_tensors: int, num_edits: int) -> None:
    """Warn if `load` needs a higher `max_parameters`; raise `ArgumentError` if that does not help."""
    limit, tensors = limit_of(None), levels[-1].tensors
    num_known = sum(entry.num_kept for level in levels[:-1] for entry in level.tensors.coefficients)
    anew = [other.tensor.numel() for level in levels[1:] if level.has_others for other in level.tensors.others]
    try:
        check_total(tensors.shapes().values(), limit)
        check_work(num_tensors, num_kept=len(tensors.coefficients), num_edits=num_edits, max_parameters=limit)
        check_level_work(num_known, sum(anew), limit)
    except LimitError as error:
        if num_tensors > MAX_TENSORS:
            raise ArgumentError(f"the network does not fit into a .tailcut file: {error}") from error
        _log.warning("load refuses this file if it is not told otherwise: %s", error)


def _with_streams(
    plain: Contents, levels: Sequence[NetworkLevel], vectors: Sequence[Stream], others: Sequence[Sequence[Stream]]
) -> Contents:
    """Return the contents with the coefficients of each level, and the other tensors of those that have them."""
    own, lowest = iter(others), next(iter(vectors), None)
    one_each: Sequence[Stream | None] = vectors or [None]
    added = [
        Level(vector, level.has_others, tuple(next(own)) if level.has_others else ())
        for level, vector in zip(levels, one_each, strict=True)
    ]
    return replace(plain, coefficients=lowest, other_streams=added[0].other_streams, added=tuple(added[1:]))


@dataclass(frozen=True)
class _Kinds:
    """Storage of coefficients and of the other tensors: a type, None for their own, or rounded."""

    coefficients: torch.dtype
    others: torch.dtype | None
    rounds_coefficients: bool
    rounds_others: bool

    @classmethod
    def of(cls, dtype: str | torch.dtype, other_dtype: str | torch.dtype | None) -> "_Kinds":
        rounds = dtype == QUANTIZED_DTYPE
        rounds_others = rounds if other_dtype is None else other_dtype == QUANTIZED_DTYPE
        others = None if other_dtype is None or rounds_others else float_type(other_dtype)
        return cls(torch.float32 if rounds else float_type(dtype), others, rounds, rounds_others)

    @property
    def quantizes(self) -> bool:
        return self.rounds_coefficients or self.rounds_others


def _types_of_others(others: Sequence[OtherTensor], kinds: _Kinds) -> list[int]:
    """Return the number type of each other tensor in the file."""
    if kinds.rounds_others:
        return types_of_others(others, kinds.others)
    return [type_number(stored_type(other, kinds.others), name=other.name) for other in others]


def _unrounded(plain: Contents, levels: Sequence[NetworkLevel], kinds: _Kinds) -> bytes:
    """Return the file in which each number has its type."""
    types = _types_of_others(levels[-1].tensors.others, kinds)
    vectors = coefficient_streams(levels, kinds.coefficients)
    others = [other_streams(level.tensors.others, types, kinds.others) for level in levels if level.has_others]
    return encode(_with_streams(replace(plain, other_types=tuple(types)), levels, vectors, others))


def _quantized(
    plain: Contents,
    levels: Sequence[NetworkLevel],
    kinds: _Kinds,
    step: float | None,
    max_bytes: int | None,
    sensitivity: Sensitivity | None,
    known: Mapping[str, Coded],
) -> bytes:
    """Return the file of rounded numbers: with this step, or with the finest that takes at most `max_bytes`."""
    tensors = levels[-1].tensors
    check_not_shared("rounding", tensors.named())
    types = _types_of_others(tensors.others, kinds)
    with_coefficients = kinds.rounds_coefficients and bool(tensors.coefficients)
    if not with_coefficients and not any(number >= QUANTIZED for number in types):
        raise ArgumentError("the network has nothing to quantise: no coefficients, parameters or running statistics")
    rounding = Rounding(tensors, types, with_coefficients, _sensitivity_of(tensors, sensitivity), known)
    expected = stream_types(types, has_quantized_coefficients=with_coefficients)
    # What no step changes is encoded once.
    exact = [number if number < QUANTIZED else None for number in types]
    exact_streams = [other_streams(level.tensors.others, exact, kinds.others) for level in levels if level.has_others]
    exact_vectors = [] if with_coefficients else coefficient_streams(levels, kinds.coefficients)

    @cache
    def content(size: float) -> bytes:
        streams = [Stream(QUANTIZED, codec, made) for codec, made in quantized_payloads(levels, rounding, size)]
        own = [stream for level, stream in zip(levels, streams, strict=True) if level.has_others]
        others = []
        for exactly, stream in zip(exact_streams, own, strict=True):
            by_type = {entry.type_number: entry for entry in [*exactly, stream]}
            others.append([by_type[number] for number in expected])
        vectors = streams if with_coefficients else exact_vectors
        return encode(_with_streams(replace(plain, other_types=tuple(types)), levels, vectors, others))

    if max_bytes is None:
        return content(RELATIVE_STEP if step is None else checked_step(step))
    finest = finest_eighth(rounding.sensitivity, tensors)
    coarsest = coarsest_eighth(rounding.sensitivity, tensors)
    with naming_exact(tensors):
        found = finest_step(
            lambda size: len(content(size)),
            max_bytes,
            finest=finest,
            coarsest=coarsest,
            estimate=rounding.estimated_bytes,
        )
    return content(found)


def _sensitivity_of(tensors: NetworkTensors, given: Sensitivity | None) -> Sensitivity:
    return default_sensitivity(tensors) if given is None else completed(given, tensors)


def checked_step(step: Any) -> float:
    """Return the user's step; raise `ArgumentError` unless it is a number above 0."""
    if not is_number(step) or step <= 0:
        raise ArgumentError(f"step must be a number above 0, got {step!r}")
    return float(step)


def check_finite(others: Sequence[OtherTensor], advice: str) -> None:
    """Raise `ArgumentError`, which ends with the advice, if one of the tensors has NaN or infinities."""
    found = next(
        (other.name for other in others if has_non_finite(other.name, other.tensor, is_parameter=other.is_parameter)),
        None,
    )
    if found is not None:
        raise ArgumentError(
            f"{found} has numbers that are not finite, so the network's answers are likely none; {advice}"
        )


def _stored_base(base: Base) -> StoredBase:
    places = list(family(base.name).defaults)
    return StoredBase(base.name, tuple((places.index(key), value) for key, value in base.arguments.items()))


def _encode_edits(
    model: nn.Module, base: Base | None, edits: Sequence[Edit], tensors: NetworkTensors
) -> list[tuple[int, bytes]]:
    """Return the edits as bytes.

    With a base, the edits are also applied to a bare copy of it, which must give the same network.
    """
    rebuilt = None if base is None else _rebuilt(base)
    encoded = []
    try:
        for edit in edits:
            writer = Writer()
            if rebuilt is not None:
                edit.check(rebuilt)
            edit.encode(writer, rebuilt)
            content = writer.getvalue()
            if type(edit).decode(Reader(content), rebuilt) != edit:
                raise StructureError(f"the edit {edit.kind!r} does not survive its encoding")
            if rebuilt is not None:
                edit.apply(rebuilt)
            encoded.append((edit.number, content))
        if rebuilt is not None:
            check_same_network(rebuilt, network_tensors(rebuilt, list(edits)), model, tensors)
    except TailcutError as error:
        raise StructureError(_changed(base, str(error))) from error
    return encoded


def _rebuilt(base: Base) -> nn.Module:
    """Return the network of a base without its numbers, as a reader of the file makes it."""
    try:
        return on_meta(base)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:  # of the class's own code
        raise StructureError(
            f"the model {base.name!r} cannot be made on the meta device, as readers of the file make it "
            f"({first_line(error)}): compute what its __init__ needs in plain Python, or of tensors on the CPU by name "
            "(device='cpu')"
        ) from error


def _changed(base: Base | None, why: str) -> str:
    if base is None:
        return f"an edit cannot be written: {why}"
    return (
        f"the model is no longer the registered {base.name!r} with its recorded edits ({why}); "
        "save it as a class of your own with registered=False, and load it with into="
    )
