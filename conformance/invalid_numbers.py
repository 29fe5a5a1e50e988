"""Invalid files of the corpus: payloads, and numbers rounded to steps."""

import struct
from collections.abc import Iterator
from dataclasses import replace

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
    yield "quantized-infinite", "quantized-finite", sound(1, 80, 100, name="bias")
    wide = named(CHAIN, arguments=[(0, [512, 400])], types={"layer0.weight": 10})
    yield "quantized-claims", "quantized-claims", replace(wide, payloads=[payload, *wide.payloads[1:]])
    yield "quantized-wholes", "quantized-whole", own("counters", types={"many": 11})
    small = own("own", types={"kept.small": 11}, numbers={"kept.small": [-129, 0, 0]})
    yield "fit-whole-number", "tensor-range", small
    yield "fit-whole-of-float", "tensor-type", own("linear", types={"bias": 11}, numbers={"bias": [1, 2]})
