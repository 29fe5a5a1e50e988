"""Invalid files of the corpus: payloads, and numbers rounded to steps."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from conformance.quantized_writer import Writer
from conformance.reference.quantized import Tensor
from conformance.valid import (
    CHAIN,
    LINEAR,
    Named,
    named,
    own,
    truncated_linear,
)
from conformance.writer import (
    Draft,
    fixed_block,
    items,
    range_payload,
    stored_block,
)

_THREE = struct.pack("<3f", 1.5, -0.5, 0.25)


def _first(content: bytes, codec: int = 0, type_: int = 0) -> Draft:
    kept = truncated_linear()
    return replace(kept, payloads=[content, *kept.payloads[1:]], streams=bytes([16 * type_ + codec]) + kept.streams[1:])


def payloads() -> Iterator[Named]:
    for number, code in ((0, "f"), (3, "d")):
        for name, odd in (("nan", float("nan")), ("infinite", float("-inf"))):
            content = struct.pack(f"<3{code}", 1.0, odd, 0.0)
            yield f"coefficients-{name}-{number}", "coefficients-finite", _first(content, 0, number)
    yield "coefficients-infinite-1", "coefficients-finite", _first(b"\x00\x3c\x00\x7c\x00\x00", 0, 1)
    yield "coefficients-nan-2", "coefficients-finite", _first(b"\xc0\x7f\x00\x00\x00\x00", 0, 2)
    yield "raw-short", "payload-raw", _first(_THREE[:-1])
    yield "raw-long", "payload-raw", _first(_THREE + b"\0")
    yield "raw-empty", "payload-raw", _first(b"")


def deflate_payloads() -> Iterator[Named]:
    mixed = b"".join(_THREE[plane::4] for plane in (3, 2, 1, 0))
    packed = fixed_block(mixed)
    for name, content in {
        "empty": b"",
        "cut": packed[:-1],
        "followed": packed + b"\0",
        "short": fixed_block(mixed[:-1]),
        "long": fixed_block(mixed + b"\0"),
        "zlib": b"\x78\x9c" + packed,
        "block-type-3": b"\x07",
        "stored-length": b"\x01\x0c\x00\xf3\xfe" + mixed,
        "distance": bytes((0x4B, 0x84, 0x03, 0x00)),
        "not-final": b"\x00" + stored_block(mixed)[1:],
    }.items():
        yield f"deflate-{name}", "payload-deflate-end" if name == "followed" else "payload-deflate", _first(content, 1)


def range_payloads() -> Iterator[Named]:
    coded = range_payload(_THREE, 4)
    for name, content in {
        "empty": b"",
        "cut": coded[:-1],
        "followed": coded + b"\0",
        "other-end": coded[:-1] + bytes([coded[-1] ^ 1]),
        "all-ones": b"\xff" * len(coded),
    }.items():
        yield f"range-{name}", "payload-range-end", _first(content, 2)


def odd_payloads() -> Iterator[Named]:
    """Payloads of other tensors."""
    one = own("own", codecs=("raw",))
    bools = one.streams.index(0x90)
    place = one.payloads[bools]
    yield (
        "bool-2",
        "bool",
        replace(one, payloads=[*one.payloads[:bools], b"\2" + place[1:], *one.payloads[bools + 1 :]]),
    )
    nothing = own("own", codecs=("range",), types={"kept.nothing": 3, "kept.limits": 0})
    doubles = nothing.streams.index(0x32)
    yield (
        "range-of-nothing",
        "payload-range-size",
        replace(nothing, payloads=[*nothing.payloads[:doubles], b"\0", *nothing.payloads[doubles + 1 :]]),
    )


def quantized() -> Iterator[Named]:
    """Version 2, and what version 1 does not know."""
    linear = [(1, items(LINEAR, 0, b"\0", 3))]

    def sound(transform: int = 0, step: int = -32, offset: int = 0, count: int = 0, name: str = "weight") -> Draft:
        return own(
            "linear",
            linear,
            coefficients=10,
            types={"bias": 10},
            numbers={"weight": [1, -2, 3], "bias": [4, 5]},
            parameters={name: (transform, step, offset, count)},
        )

    plain = sound()
    (payload,) = plain.payloads
    yield "quantized-version-1", "stream-type-known", replace(plain, version=1, types=items(3, 1, b"\0"))
    bias = own("linear", types={"bias": 10, "weight": 0})
    yield "quantized-type-version-1", "type-known", replace(bias, version=1)
    for name, content in {
        "empty": b"",
        "cut": payload[:-1],
        "followed": payload + b"\0",
    }.items():
        yield f"quantized-{name}", "payload-quantized-end", replace(plain, payloads=[content])
    yield "quantized-raw", "quantized-codec", replace(plain, streams=b"\xa0")
    yield "quantized-codec-6", "codec-known", replace(plain, streams=b"\xa6")
    yield "quantized-float", "quantized-codec", replace(bias, streams=bytes([bias.streams[0] | 3, bias.streams[1]]))
    for name, wrong in {
        "transform-4": sound(4),
        "transform-negative": sound(-1),
        "step-401": sound(step=401),
        "step-below": sound(step=-401),
        "count-negative": sound(count=-1),
        "count-above": sound(count=4),
    }.items():
        yield f"quantized-{name}", "quantized-parameters", wrong
    for transform in (1, 2, 3):
        yield f"quantized-coefficients-{transform}", "quantized-transform", sound(transform)
    yield "quantized-kernel", "quantized-transform", sound(3, name="bias")
    yield (
        "quantized-line",
        "quantized-line",
        own("line", types={"weight": 10}, numbers={"weight": []}, parameters={"weight": (2, -32, 0, 0)}),
    )
    yield "quantized-infinite", "quantized-finite", sound(1, 80, 100, name="bias")
    # Its payload is that of another; none of its own numbers is coded before.
    none = {"layer0.weight": (0, -32, 0, 0)}
    wide = named(CHAIN, arguments=[(0, [512, 400])], types={"layer0.weight": 10}, parameters=none)
    yield "quantized-claims", "quantized-claims", replace(wide, payloads=[payload, *wide.payloads[1:]])
    yield "quantized-wholes", "quantized-whole", own("counters", types={"many": 11})
    small = own("own", types={"kept.small": 11}, numbers={"kept.small": [-129, 0, 0]})
    yield "fit-whole-number", "tensor-range", small
    yield "fit-whole-of-float", "tensor-type", own("linear", types={"bias": 11}, numbers={"bias": [1, 2]})


def along_axes() -> Iterator[Named]:
    """Codec 4."""

    def linear(shifts: dict[int, list[int]], step: int = -32, axes: int | None = None) -> Draft:
        return _rounded_linear((0, step, 0, 0) if axes is None else (0, step, 0, 0, axes), 4, shifts)

    sound = linear({1: [0, 4, -7]})
    (payload,) = sound.payloads
    yield "axes-version-1", "type-known", replace(sound, version=1)
    coefficients = own("linear", [(1, items(LINEAR, 0, b"\0", 3))], coefficients=10, quantized_codec=4)
    yield "axes-coefficients-version-1", "stream-type-known", replace(coefficients, version=1)
    bias = own("linear", types={"bias": 10, "weight": 0})
    yield "axes-float", "quantized-codec", replace(bias, streams=bytes([bias.streams[0] | 4, bias.streams[1]]))
    for name, content in {"cut": payload[:-1], "followed": payload + b"\0"}.items():
        yield f"axes-{name}", "payload-quantized-end", replace(sound, payloads=[content])
    for name, axes in {"negative": -1, "above": 4, "far-above": 1 << 16}.items():
        yield f"axes-{name}", "quantized-axes", linear({}, axes=axes)
    for name, wrong in {
        "above": linear({0: [0, 200]}, 1),
        "below": linear({1: [-200, 0, 0]}, -1),
        "above-together": linear({0: [0, 120], 1: [0, 0, 97]}),
        "below-together": linear({0: [-190, 120], 1: [5, 0, 5]}, -21),
        "16-bits": linear({0: [1 << 16, 0]}),
        "16-bits-below": linear({0: [0, 0], 1: [-(1 << 16), 1 << 16, 0]}),
        "largest": linear({0: [(1 << 20) - 1] * 2, 1: [(1 << 20) - 1] * 3}),
    }.items():
        yield f"axes-shifts-{name}", "quantized-shifts", wrong
    empty = own("empty", types={"weight": 10}, quantized_codec=4, shifts={"weight": {0: [0, 300, 0]}})
    yield "axes-shifts-of-nothing", "quantized-shifts", empty
    infinite = own("linear", types={"weight": 10}, parameters={"weight": (1, 80, 0, 0)}, quantized_codec=4)
    yield "axes-infinite", "quantized-finite", infinite
    coded = own("linear", types={"weight": 10}, parameters={"weight": (3, 0, 0, 0)}, quantized_codec=4)
    yield "axes-kernel", "quantized-transform", coded
    yield "axes-claims", "quantized-claims", _claims(1)


def dependent() -> Iterator[Named]:
    """Codec 5."""

    linear = partial(_rounded_linear, codec=5)
    sound = linear((4, -32, 0, 0))
    (payload,) = sound.payloads
    for name, content in {"cut": payload[:-1], "followed": payload + b"\0"}.items():
        yield f"dependent-{name}", "payload-quantized-end", replace(sound, payloads=[content])
    yield "dependent-version-1", "type-known", replace(sound, version=1)
    for codec in (3, 4):
        yield f"dependent-in-codec-{codec}", "quantized-parameters", _rounded_linear((4, -32, 0, 0), codec)
    yield "dependent-transform-8", "dependent-transform", linear((8, -32, 0, 0))
    yield "dependent-transform-below", "dependent-transform", linear((-1, -32, 0, 0))
    yield "dependent-count", "quantized-parameters", linear((4, -32, 0, 7))
    yield "dependent-step", "quantized-parameters", linear((4, -401, 0, 0))
    yield "dependent-kernel", "quantized-transform", linear((7, -32, 0, 0))
    yield "dependent-axes", "quantized-axes", linear((4, -32, 0, 0, 4))
    yield "dependent-infinite", "quantized-finite", linear((5, 80, 0, 0))
    coefficients = own(
        "linear",
        [(1, items(LINEAR, 0, b"\0", 3))],
        coefficients=10,
        quantized_codec=5,
        parameters={"weight": (6, -32, 0, 0)},
    )
    yield "dependent-coefficients", "quantized-transform", coefficients


def _rounded_linear(parameters: tuple[int, ...], codec: int, shifts: dict[int, list[int]] | None = None) -> Draft:
    return own(
        "linear",
        types={"weight": 10, "bias": 10},
        numbers={"weight": [1, -2, 3, 0, 0, 9], "bias": [4, 5]},
        parameters={"weight": parameters},
        quantized_codec=codec,
        shifts={"weight": shifts or {}},
    )


def _claims(too_many: int) -> Draft:
    """Return a file whose first tensor claims so many numbers and shifts more than its payload may hold."""
    length, sizes = 24, (400, 512)
    claimed = 6144 * length + 49_152 - sum(sizes) + too_many
    tensor = Tensor("weight", sizes, [], parameters=[0, -32, 0, claimed + 1, 3])
    payload = Writer(codec=4).payload([tensor])
    assert len(payload) <= length
    made = named(
        CHAIN,
        arguments=[(0, [512, 400, 2]), (1, False)],
        types={"layer0.weight": 10, "layer1.weight": 10},
        quantized_codec=4,
        parameters=dict.fromkeys(("layer0.weight", "layer1.weight"), (0, -32, 0, 1)),
    )
    return replace(made, payloads=[payload.ljust(length, b"\0"), *made.payloads[1:]])
