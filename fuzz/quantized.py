"""The target of codec 3: descriptions of tensors and a payload, read by the library and by the reference reader.

A content is a byte with the number of tensors, six bytes for each (`_described`), and the payload.
"""

import math
import random
from collections.abc import Iterator

import numpy as np
from conformance.quantized_writer import Writer
from conformance.reference import RefusedError
from conformance.reference import quantized as reference

from fuzz.mutators import Havoc, havoc
from tailcut.compiling import is_installed
from tailcut.errors import CorruptFileError, LimitError
from tailcut.format import quantized
from tailcut.format.quantized import Coded, Layout, coder
from tailcut.transform.order import corner_positions, l1_order_index

COEFFICIENTS, WHOLE_TENSOR, INTEGERS = range(3)
KEYS = ("weight", "running_var")
DESCRIPTION_BYTES = 6
MAX_TENSORS = 4
LONGEST = 12


class WrongNumbersError(Exception):
    """The library and the reference reader do not agree, or a content has two payloads."""


def run(content: bytes) -> None:
    """Both read the same numbers and values, or refuse; what was read is written as the same payload."""
    layouts, tensors, payload = parse(content)
    wanted = _reference(tensors, payload)
    try:
        found = quantized.decode(payload, layouts)
        values = [quantized.dequantize(tensor, layout) for tensor, layout in zip(found, layouts, strict=True)]
    except (CorruptFileError, LimitError) as error:
        if wanted is not None:
            raise WrongNumbersError(f"refused with {error!r}, which the reference reader reads") from error
        return
    if wanted is None:
        raise WrongNumbersError("accepted, which the reference reader refuses")
    for value, numbers in zip(values, wanted, strict=True):
        if not _agree(value.double().tolist(), numbers):
            raise WrongNumbersError(f"{value.tolist()[:9]}, the reference reader has {numbers[:9]}")
    if quantized.encode(layouts, found) != payload:
        raise WrongNumbersError("one content has two payloads")
    if is_installed():
        _check_compiled(payload, layouts, found)


def parse(content: bytes) -> tuple[list[Layout], list[reference.Tensor], bytes]:
    """The tensors as the library and as the reference reader know them, and the payload."""
    content = content or b"\0"
    count, rest = 1 + content[0] % MAX_TENSORS, content[1:]
    described = [rest[DESCRIPTION_BYTES * place :][:DESCRIPTION_BYTES] for place in range(count)]
    pairs = [_described(part.ljust(DESCRIPTION_BYTES, b"\1")) for part in described]
    return [layout for layout, _ in pairs], [tensor for _, tensor in pairs], rest[DESCRIPTION_BYTES * count :]


def _described(part: bytes) -> tuple[Layout, reference.Tensor]:
    """Kind, key, axes, three sizes, and how many coefficients of a tensor: a byte each, the axes with the key."""
    kind, key, num_axes = part[0] % 3, KEYS[part[1] % 2], part[1] // 2 % 4
    shape = tuple(size % (LONGEST + 1) for size in part[2 : 2 + num_axes])
    size = math.prod(shape)
    if kind != COEFFICIENTS or not size:
        is_integer = kind == INTEGERS
        layout = Layout(key, shape, size, is_integer=is_integer)
        return layout, reference.Tensor(key, shape, reference.row_major(shape), is_whole=is_integer)
    num = 1 + part[5] % size

    def order(count: int) -> tuple[np.ndarray, tuple[int, ...]]:
        return corner_positions(shape, count, axes=range(len(shape)), weights=(1,) * len(shape))

    indices = [tuple(index) for index in l1_order_index(shape, num).tolist()]
    layout = Layout("", shape, num, order=order)
    return layout, reference.Tensor("", shape, indices, is_coefficients=True)


def _reference(tensors: list[reference.Tensor], payload: bytes) -> list[list[float]] | None:
    """The values that the reference reader finds; None where it refuses."""
    try:
        reference.Reader(payload).tensors(tensors)
        return [
            [float(n) for n in tensor.numbers] if tensor.is_whole else reference.values(tensor) for tensor in tensors
        ]
    except RefusedError:
        return None


def _agree(found: list[float], wanted: list[float]) -> bool:
    """Up to rounding, which a transform of large numbers spreads over all."""
    largest = max(map(abs, wanted), default=0.0)
    return len(found) == len(wanted) and all(
        math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6 * largest) for one, other in zip(found, wanted, strict=True)
    )


def _check_compiled(payload: bytes, layouts: list[Layout], plain: list[Coded]) -> None:
    """The compiled loops read and write the same."""
    before, coder.COMPILED_FROM = coder.COMPILED_FROM, 0
    try:
        found = quantized.decode(payload, layouts)
        written = quantized.encode(layouts, found)
    finally:
        coder.COMPILED_FROM = before
    if written != payload or [_told(tensor) for tensor in found] != [_told(tensor) for tensor in plain]:
        raise WrongNumbersError("the compiled loops differ from the plain ones")


def _told(tensor: Coded) -> tuple[list[int], int, int, int]:
    return tensor.numbers.tolist(), tensor.transform, tensor.step, tensor.offset


def mutate(content: bytes, rng: random.Random, change: Havoc = havoc) -> bytes:
    """Change the bytes, or numbers and parameters, which are then coded again."""
    if rng.random() < 0.4:
        return change(content, rng)
    _, tensors, payload = parse(content)
    described = content[: len(content) - len(payload)]
    reader = reference.Reader(payload)
    try:
        reader.tensors(tensors)
    except RefusedError:
        if any(not tensor.is_whole and not tensor.parameters for tensor in tensors):
            return change(content, rng)
    for _ in range(rng.choice((1, 1, 2, 5))):
        _change_tensor(rng.choice(tensors), rng)
    for tensor in tensors:
        wanted = len(tensor.indices) if tensor.is_whole else tensor.parameters[3] - 1
        if not tensor.is_whole and tensor.parameters[3] == 0:
            wanted = len(tensor.indices)
        wanted = min(max(wanted, 0), len(tensor.indices))
        tensor.numbers = (tensor.numbers + [0] * wanted)[:wanted]
    return described + Writer().payload(tensors)


def _change_tensor(tensor: reference.Tensor, rng: random.Random) -> None:
    """One number or one parameter becomes another."""
    numbers = (0, 1, -1, 2, 7, 400, 401, -400, 2**19, 2**20 - 1, 1 - 2**20, rng.randrange(-50, 50))
    if tensor.numbers and (tensor.is_whole or rng.random() < 0.5):
        tensor.numbers[rng.randrange(len(tensor.numbers))] = rng.choice(numbers)
    elif not tensor.is_whole:
        place = rng.randrange(4)
        tensor.parameters[place] = rng.randrange(5) if place == 0 else rng.choice(numbers)
        if place == 3 and rng.random() < 0.8:
            tensor.parameters[3] = rng.randrange(len(tensor.indices) + 2)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Every kind of tensor and every transform, alone and beside others."""
    rng = random.Random(3)
    kinds = {
        "coefficients": bytes((COEFFICIENTS, 4, 5, 6, 1, 11)),
        "bias": bytes((WHOLE_TENSOR, 2, 9, 1, 1, 0)),
        "variance": bytes((WHOLE_TENSOR, 3, 9, 1, 1, 0)),
        "kernel": bytes((WHOLE_TENSOR, 6, 3, 2, 4, 0)),
        "counts": bytes((INTEGERS, 0, 1, 1, 1, 0)),
    }
    for name, part in kinds.items():
        for transform in (0,) if name in ("coefficients", "counts") else (0, 1, 2, 3) if name == "kernel" else (0, 1):
            yield f"{name}-{transform}", _written([part], transform, rng)
    yield "all", _written(list(kinds.values())[:MAX_TENSORS], 0, rng)
    yield "counts-last", _written([kinds["bias"], kinds["counts"], kinds["counts"]], 0, rng)


def _written(parts: list[bytes], transform: int, rng: random.Random) -> bytes:
    described = bytes([len(parts) - 1]) + b"".join(parts)
    _, tensors, _ = parse(described)
    for tensor in tensors:
        tensor.numbers = [rng.randrange(-9, 10) for _ in tensor.indices]
        tensor.parameters = [transform, -16, 3 if transform < 2 else 0, 0]
    return described + Writer().payload(tensors)
