"""The `regularize` edit in files: the tensors kept as coefficients, their transformed axes and counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from tailcut.errors import ArgumentError, CorruptFileError, ModelMismatchError, StructureError
from tailcut.limits import MAX_TENSORS
from tailcut.structure import CoefficientLayout, Coefficients, Edit, Reader, Writer, register_edit
from tailcut.structure.wire import MAX_AXES
from tailcut.transform.order import MAX_ORDER_WEIGHT, check_order_weights, normalize_axes
from tailcut.weights.layers import candidates
from tailcut.weights.parametrization.attach import attach, finish_attaching
from tailcut.weights.parametrization.truncated_tensors import TruncatedTensor, truncated_tensors
from tailcut.weights.parametrization.truncation import Truncation
from tailcut.weights.regularization.count_encoding import read_counts, write_counts

_Setting = tuple[tuple[int, ...] | None, tuple[int, ...]]
_DEFAULT_SETTING: _Setting = (None, ())


@register_edit
@dataclass(frozen=True)
class RegularizeEdit(Edit):
    """Weights kept as truncated DCT coefficients."""

    number = 1
    kind = "regularize"

    tensors: tuple[CoefficientLayout, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Return the edit that describes the regularised tensors of `model`. Does not change the model."""
        return cls(
            tuple(
                CoefficientLayout(
                    tensor.name, tensor.shape, tensor.axes, tensor.truncation.order_weights, tensor.num_kept
                )
                for tensor in truncated_tensors(model)
            )
        )

    def current(self, model: nn.Module) -> Self:
        """Return the edit with the counts that `model` keeps now."""
        return self.of(model)

    def check(self, model: nn.Module) -> None:
        """Raise `StructureError` unless `model` has these tensors in these shapes, as plain parameters."""
        if truncated_tensors(model):
            raise StructureError("the model is regularised already")
        found = {candidate.names[0]: candidate for candidate in candidates(model)}
        for tensor in self.tensors:
            candidate = found.get(tensor.name)
            if candidate is None:
                hint = _compile_hint([tensor.name, *found])
                raise StructureError(f"the model has no parameter {tensor.name!r} to regularise{hint}")
            if candidate.obstacle is not None:
                raise StructureError(f"{tensor.name} cannot be regularised: {candidate.obstacle}")
            if tuple(candidate.parameter.shape) != tensor.shape:
                raise StructureError(
                    f"{tensor.name}: the model has shape {tuple(candidate.parameter.shape)}, recorded is {tensor.shape}"
                )

    def apply(self, model: nn.Module) -> None:
        """Make the tensors vectors of zeros, to be filled in. Changes the model."""
        found = {candidate.names[0]: candidate for candidate in candidates(model)}
        with torch.inference_mode(False), torch.no_grad():
            for tensor in self.tensors:
                parameter = found[tensor.name].parameter
                truncation = Truncation(
                    tensor.shape,
                    tensor.num_kept,
                    axes=tensor.axes,
                    order_weights=tensor.order_weights,
                    device=parameter.device,
                    dtype=parameter.dtype,
                )
                attach(found[tensor.name], truncation, blank=True)
        finish_attaching(model)

    def coefficients(self, model: nn.Module) -> list[Coefficients]:
        """Return the regularised tensors of `model`, in the order of this edit."""
        found = {tensor.name: tensor for tensor in truncated_tensors(model)}
        missing = [tensor.name for tensor in self.tensors if tensor.name not in found]
        if missing:
            raise StructureError(f"{missing[0]} is no longer regularised, though the model's record says so")
        return [_coefficients(found[entry.name]) for entry in self.tensors]

    def coefficient_layouts(self) -> list[CoefficientLayout]:
        """Names, shapes, axes, order weights and counts."""
        return list(self.tensors)

    def with_counts(self, change: Callable[[int], int]) -> Self:
        """Return the edit with other counts, each from 1 to the size of its tensor."""
        return type(self)(tuple(tensor._replace(num_kept=change(tensor.num_kept)) for tensor in self.tensors))

    def encode(self, writer: Writer, model: nn.Module | None) -> None:
        """Write selection, settings and counts; see `format/SPEC.md`."""
        if model is None:
            _write_names(writer, self.tensors)
        else:
            _write_selection(writer, self.tensors, [candidate.names[0] for candidate in candidates(model)])
        _write_settings(writer, self.tensors)
        write_counts(writer, self.tensors)

    @classmethod
    def decode(cls, reader: Reader, model: nn.Module | None) -> Self:
        """Read what `encode` wrote; every number is checked against the tensor's shape."""
        if model is None:
            named = _read_names(reader)
        else:
            if truncated_tensors(model):
                # The bitmap is over plain parameters; of this network's it would mean other ones.
                raise ModelMismatchError(
                    "an edit of the file does not fit the network: the model is regularised already"
                )
            known = [(found.names[0], tuple(found.parameter.shape)) for found in candidates(model)]
            named = _read_selection(reader, known)
        settings = _read_settings(reader, [shape for _, shape in named])
        counts = read_counts(reader, [shape for _, shape in named], [axes for axes, _ in settings])
        return cls(
            tuple(
                CoefficientLayout(name, shape, axes, weights, num_kept)
                for (name, shape), (axes, weights), num_kept in zip(named, settings, counts, strict=True)
            )
        )


def _compile_hint(names: Sequence[str]) -> str:
    if all("_orig_mod" not in name.split(".") for name in names):
        return ""
    return "; _orig_mod is torch.compile's: the same parts must be compiled as in the network that was saved"


def _coefficients(tensor: TruncatedTensor) -> Coefficients:
    vector = tensor.vector
    return Coefficients(
        tensor.name,
        tensor.shape,
        tensor.axes,
        tensor.truncation.order_weights,
        tensor.num_kept,
        vector,
        # Arithmetic on the meta device would import half of torch's compiler.
        vector.detach()[: tensor.num_kept] if vector.is_meta else tensor.coefficients().detach(),
    )


def _write_names(writer: Writer, tensors: Sequence[CoefficientLayout]) -> None:
    writer.uint(len(tensors))
    for tensor in tensors:
        writer.text(tensor.name)
        writer.shape(tensor.shape)


def _read_names(reader: Reader) -> list[tuple[str, tuple[int, ...]]]:
    count = reader.uint(at_most=MAX_TENSORS, of="the number of regularised tensors")
    named = [(reader.text(), reader.shape()) for _ in range(count)]
    if len({name for name, _ in named}) < len(named):
        raise CorruptFileError("a regularised tensor is named twice")
    return named


def _write_selection(writer: Writer, tensors: Sequence[CoefficientLayout], names: Sequence[str]) -> None:
    chosen = {tensor.name for tensor in tensors}
    unknown = chosen.difference(names)
    if unknown:
        raise StructureError(f"the recorded base has no parameter {sorted(unknown)[0]!r}")
    bits = sum(1 << place for place, name in enumerate(names) if name in chosen)
    writer.raw(bits.to_bytes((len(names) + 7) // 8, "little"))


def _read_selection(reader: Reader, known: Sequence[tuple[str, tuple[int, ...]]]) -> list[tuple[str, tuple[int, ...]]]:
    bits = int.from_bytes(reader.raw((len(known) + 7) // 8), "little")
    if bits >> len(known):
        raise CorruptFileError(f"a tensor behind the last of {len(known)} parameters is selected")
    return [entry for place, entry in enumerate(known) if bits >> place & 1]


def _setting(tensor: CoefficientLayout) -> _Setting:
    """Axes (None for all) and order weights (empty for ones) as written."""
    all_axes = tensor.axes == tuple(range(len(tensor.shape)))
    ones = all(weight == 1 for weight in tensor.order_weights)
    return (None if all_axes else tensor.axes), (() if ones else tensor.order_weights)


def _fits(setting: _Setting, tensor: CoefficientLayout) -> bool:
    """Return whether a tensor can be written with this setting: it takes the first order weights."""
    axes, weights = setting
    same_axes = (tuple(range(len(tensor.shape))) if axes is None else axes) == tensor.axes
    num_axes = len(tensor.axes)
    return same_axes and (weights[:num_axes] if weights else (1,) * num_axes) == tensor.order_weights


def _settings(tensors: Sequence[CoefficientLayout]) -> list[_Setting]:
    """Return few settings that fit all tensors: a tensor with fewer axes takes the first order weights."""
    chosen: list[_Setting] = []
    for setting in sorted(dict.fromkeys(map(_setting, tensors)), key=lambda setting: -len(setting[1])):
        rest = [tensor for tensor in tensors if not any(_fits(known, tensor) for known in chosen)]
        if any(_fits(setting, tensor) for tensor in rest):
            chosen.append(setting)
    return chosen


def _write_settings(writer: Writer, tensors: Sequence[CoefficientLayout]) -> None:
    settings = _settings(tensors)
    if settings == [_DEFAULT_SETTING]:
        settings = []
    writer.uint(len(settings))
    for axes, weights in settings:
        writer.uint(0 if axes is None else 1 + sum(1 << axis for axis in axes))
        writer.uint(len(weights))
        for weight in weights:
            writer.uint(weight)
    if len(settings) > 1:
        for tensor in tensors:
            writer.uint(next(place for place, setting in enumerate(settings) if _fits(setting, tensor)))


def _read_settings(reader: Reader, shapes: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    count = reader.uint(at_most=len(shapes), of="the number of settings")
    settings: list[tuple[int, list[int]]] = [] if count else [(0, [])]
    for _ in range(count):
        mask = reader.uint(at_most=1 << MAX_AXES, of="a set of axes")
        num_weights = reader.uint(at_most=MAX_AXES, of="the number of order weights")
        settings.append((mask, [_read_weight(reader) for _ in range(num_weights)]))
    places = [0] * len(shapes)
    if count > 1:
        places = [reader.uint(at_most=count - 1, of="the number of a setting") for _ in shapes]
    return [_fit(*settings[place], shape) for place, shape in zip(places, shapes, strict=True)]


def _read_weight(reader: Reader) -> int:
    """Return an order weight, checked here: no tensor may take it."""
    weight = reader.uint(of="an order weight")
    if not 1 <= weight <= MAX_ORDER_WEIGHT:
        raise CorruptFileError(f"expected order weights as integers from 1 to {MAX_ORDER_WEIGHT}, got {weight}")
    return weight


def _fit(mask: int, weights: list[int], shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    axes = None if mask == 0 else [axis for axis in range(MAX_AXES) if mask - 1 >> axis & 1]
    try:
        chosen = normalize_axes(axes, len(shape))
        return chosen, check_order_weights(weights[: len(chosen)] if weights else None, len(chosen))
    except ArgumentError as error:
        raise CorruptFileError(f"axes or order weights do not fit a tensor of shape {shape}: {error}") from error
