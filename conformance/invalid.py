"""The invalid files of the corpus: each breaks one rule of SPEC.md, which `rules.json` names."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from conformance import invalid_levels
from conformance.reference.decoder import digest_of, read
from conformance.reference.refusal import RefusedError
from conformance.valid import (
    CHAIN,
    GATE,
    IMAGE,
    LINEAR,
    OWN_WEIGHTS,
    STEM,
    channels,
    named,
    own,
    registered_stem,
)
from conformance.writer import (
    Draft,
    base_of,
    fixed_block,
    items,
    list_of_others,
    range_payload,
    shape,
    stored_block,
    value,
    varint,
    whole,
)

MAX = 2**63 - 1


@dataclass(frozen=True)
class Case:
    """A file that is refused.

    Attributes:
        rule: the name of the rule that it breaks.
        content: the file.
        own: the own class that it is read into; None for a registered network.
        max_parameters: the cap, where it is not the usual one.
        alone: for a file that does not fit its own class: the rule that it breaks by itself, None if it is sound.
    """

    rule: str
    content: bytes
    own: str | None
    max_parameters: int | None = None
    alone: str | None = None


Named = tuple[str, str, Draft | bytes]


def _plain() -> Draft:
    return own("linear")


def _kept() -> Draft:
    return own("linear", [(1, items(LINEAR, 0, b"\0", 3))])


def head() -> Iterator[Named]:
    sound = _plain().file()
    yield "magic-empty", "magic", b""
    yield "magic-short", "magic", b"\x89TCU"
    yield "magic-other", "magic", b"\x89PNG" + sound[4:]
    for version in (0, 4, 255):
        yield f"version-{version}", "version", sound[:4] + bytes([version]) + sound[5:]
    yield "version-short", "version", b"\x89TCT\x04"
    for length in (1, 4, 5, 12):
        yield f"short-{length}", "file-short", sound[:length]
    yield "checksum-payload", "checksum", sound[:-1] + bytes([sound[-1] ^ 1])
    yield "checksum-itself", "checksum", sound[:5] + bytes([sound[5] ^ 128]) + sound[6:]
    yield "checksum-cut", "checksum", sound[:-1]
    yield "checksum-more", "checksum", sound + b"\0"
    yield "no-header", "cut-off", whole(b"1234")
    yield "header-cut", "cut-off", whole(b"1234" + varint(2 * 50) + _plain().header())
    yield "header-large", "header-size", whole(b"1234" + varint(2 * (2**20 + 1)))
    yield "header-large-packed", "header-size", whole(b"1234" + items(2 * 3 + 1, 2**20 + 1, b"abc"))
    header = _plain().header()
    rest = b"".join(_plain().payloads)
    for name, packed, claimed in (
        ("longer", fixed_block(header), len(header) - 1),
        ("shorter", fixed_block(header), len(header) + 1),
        ("followed", stored_block(header) + b"\0", len(header)),
        ("cut", fixed_block(header)[:-1], len(header)),
        ("no-deflate", b"\xff" * 9, len(header)),
        ("bomb", fixed_block(bytes(5000)), 100),
    ):
        body = _plain().digest + items(2 * len(packed) + 1, claimed, packed) + rest
        yield f"packed-{name}", "header-packed", whole(body)


def _header(content: bytes) -> bytes:
    return whole(b"1234" + varint(2 * len(content)) + content)


def scalars() -> Iterator[Named]:
    """Items: varints, texts, values."""
    for number, form in enumerate((b"\x80\0", b"\x81\0", b"\xff" * 7 + b"\x80\0")):
        yield f"varint-not-shortest-{number}", "varint-shortest", _header(b"\0" + form)
    for number, form in enumerate((b"\xff" * 8 + b"\xff\x01", b"\x80" * 20 + b"\x01")):
        yield f"varint-long-{number}", "varint-length", _header(b"\0" + form)
    yield "varint-cut", "cut-off", _header(b"\0" + b"\xff\xff")
    yield "text-long", "text-length", _header(items(4097, b"a" * 4097, 0, 0, 0, 0))
    yield "text-cut", "cut-off", _header(items(5, b"abcd"))
    for number, text in enumerate((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80")):
        yield f"text-no-utf8-{number}", "text-utf8", _header(items(len(text), text, 0, 0, 0, 0))
    for number in (0, 0x0A, 0x1B, 0x7F, 0x80, 0x9F):
        yield f"text-control-{number:02x}", "text-control", _header(items("a" + chr(number), 0, 0, 0, 0))
    sound = named(CHAIN)

    def arguments(*parts: bytes | int) -> Draft:
        return replace(sound, base=items(CHAIN, *parts))

    yield "value-negative-zero", "value-negative-zero", arguments(1, 2, b"\x03\0")
    yield "value-tag-7", "value-tag", arguments(1, 2, b"\x07\0")
    yield "value-tag-255", "value-tag", arguments(1, 2, b"\xff\0")
    yield "value-list-long", "value-list-length", arguments(1, 0, value([1] * 257))
    yield "value-nested", "value-nesting", arguments(1, 0, value([[[1]]]))
    yield "value-cut", "cut-off", _header(items(CHAIN, 1, 2, b"\x04\0\0"))
    yield "arguments-many", "arguments-count", arguments(65, *(items(n, b"\0") for n in range(65)))
    yield "arguments-twice", "arguments-order", arguments(2, 1, b"\0", 1, b"\0")
    yield "arguments-backwards", "arguments-order", arguments(2, 1, b"\0", 0, value([3, 2]))
    yield "argument-place-4", "argument-place", arguments(1, 4, b"\0")
    yield "argument-place-largest", "argument-place", arguments(1, MAX, b"\0")
    for name, place, given in (
        ("type", 1, value(3)),
        ("list", 0, value("x")),
        ("short-list", 0, value([3])),
        ("long-list", 0, value([1] * 9)),
        ("zero", 0, value([3, 0])),
        ("large", 0, value([3, 4097])),
        ("negative", 0, value([3, -1])),
        ("nested", 0, value([[3, 2]])),
        ("nan", 2, value(float("nan"))),
        ("infinite", 2, value(float("inf"))),
        ("integer", 2, value(1)),
        ("text", 3, value(False)),
    ):
        yield f"arguments-{name}", "arguments-fit", arguments(1, place, given)
    yield "base-unknown", "base-name", replace(sound, base=base_of("conformance-unknown"))
    yield "base-case", "base-name", replace(sound, base=base_of("Conformance-chain"))


def metadata() -> Iterator[Named]:
    sound = own("nothing")
    yield "metadata-long", "metadata-size", replace(sound, metadata=b" " * 65_535 + b"{}", packing=fixed_block)
    for name, content in {
        "list": b"[]",
        "text": b'"a"',
        "null": b"null",
        "spaces": b"  ",
        "open": b'{"a":1',
        "two": b"{}{}",
        "utf8": b'{"a":"\xff"}',
        "nan": b'{"a":NaN}',
        "infinity": b'{"a":[-Infinity]}',
        "overflow": b'{"a":1e999}',
        "surrogate": b'{"a":"\\ud800"}',
        "surrogate-key": b'{"\\udfff":1}',
        "control": b'{"a":"\n"}',
        "quote": b"{'a':1}",
        "comma": b'{"a":1,}',
        "zero": b'{"a":01}',
    }.items():
        yield f"metadata-{name}", "metadata-json", replace(sound, metadata=content)


def lists() -> Iterator[Named]:
    """Edits as a list, other tensors, number types, streams."""
    plain, kept = _plain(), _kept()
    empty = (3, items(0, 0))
    yield "edits-many", "edits-count", own("linear", [empty] * 17)
    yield "edits-fewer", "cut-off", replace(own("nothing"), num_edits=1, others=b"\0", types=b"\0")
    for kind in (0, 5, MAX):
        yield f"edit-kind-{kind}", "edit-kind", replace(plain, edits=[(kind, b"")])
    yield "edit-cut", "cut-off", replace(kept, edits=[(1, kept.edits[0][1][:-1])])
    yield "edit-longer", "bytes-left", replace(kept, edits=[(1, kept.edits[0][1] + b"\0")])
    yield "edit-empty", "cut-off", replace(kept, edits=[(1, b"")])
    for number in (2, 3, 4):
        yield f"edit-empty-{number}", "cut-off", replace(plain, edits=[(number, b"")])
    yield "edit-ycbcr-longer", "bytes-left", replace(own("image", [(4, items(1, 1))]), edits=[(4, items(1, 1, 0))])
    yield "header-longer", "bytes-left", replace(plain, after=b"\0")
    assert plain.others is not None
    yield "others-many", "others-count", replace(plain, others=items(16_385))
    yield "others-kind", "others-kind", replace(plain, others=plain.others[:1] + b"\2" + plain.others[2:])
    twice = items(2, b"\1", "bias", shape(2), b"\1", "bias", shape(2))
    yield "others-twice", "others-names", replace(plain, others=twice)
    yield "shape-axes", "shape-axes", replace(plain, others=items(1, b"\1", "bias", 17, *([1] * 17)))
    yield "types-many", "types-count", replace(plain, types=items(2 * 16_385))
    yield "types-run-long", "types-count", replace(plain, types=items(2, 16_385, b"\0"))
    yield "types-unknown", "type-known", replace(plain, types=items(2, 2, b"\x0a"))
    yield "types-empty-run", "types-runs", replace(plain, types=items(4, 2, b"\0", 0, b"\1"))
    yield "types-run-not-joined", "types-runs", replace(plain, types=items(4, 1, b"\0", 1, b"\0"))
    yield "types-few", "types-number", replace(plain, types=items(2, 1, b"\0"))
    yield "types-more", "types-number", replace(plain, types=items(2, 3, b"\0"))
    chain = named(CHAIN)
    yield (
        "types-few-registered",
        "types-number",
        replace(chain, types=items(2, 5, b"\0"), streams=chain.streams[:1], payloads=chain.payloads[:1]),
    )
    yield "stream-other-type", "stream-types", replace(plain, streams=b"\x10")
    yield "stream-unknown-type", "stream-type-known", replace(plain, streams=b"\xa0")
    yield "codec-3", "codec-known", replace(plain, streams=b"\x03")
    yield "codec-15", "codec-known", replace(plain, streams=b"\x0f")
    yield "streams-cut", "cut-off", _header(replace(plain, streams=b"").header())
    yield "lengths-too-long", "cut-off", replace(kept, lengths=[100])
    yield "lengths-largest", "cut-off", replace(kept, lengths=[MAX])
    yield "nothing-followed", "payload-of-nothing", replace(own("nothing"), payloads=[b"\0"], lengths=[])
    yield (
        "coefficients-without-tensors",
        "coefficients-there",
        replace(
            plain,
            types=bytes([plain.types[0] + 1]) + plain.types[1:],
            streams=b"\0" + plain.streams,
            payloads=[b"", *plain.payloads],
        ),
    )
    yield (
        "tensors-without-coefficients",
        "coefficients-there",
        replace(
            kept,
            types=bytes([kept.types[0] - 1]) + kept.types[1:],
            streams=kept.streams[1:],
            payloads=kept.payloads[1:],
        ),
    )
    for number in range(4, 10):
        yield (
            f"coefficients-type-{number}",
            "coefficients-type",
            replace(kept, streams=bytes([16 * number]) + kept.streams[1:]),
        )


def payloads() -> Iterator[Named]:
    kept = _kept()

    def first(content: bytes, codec: int = 0, type_: int = 0) -> Draft:
        return replace(
            kept, payloads=[content, *kept.payloads[1:]], streams=bytes([16 * type_ + codec]) + kept.streams[1:]
        )

    three = struct.pack("<3f", 1.5, -0.5, 0.25)
    mixed = b"".join(three[plane::4] for plane in (3, 2, 1, 0))
    for number, code in ((0, "f"), (3, "d")):
        for name, odd in (("nan", float("nan")), ("infinite", float("-inf"))):
            content = struct.pack(f"<3{code}", 1.0, odd, 0.0)
            yield f"coefficients-{name}-{number}", "coefficients-finite", first(content, 0, number)
    yield "coefficients-infinite-1", "coefficients-finite", first(b"\x00\x3c\x00\x7c\x00\x00", 0, 1)
    yield "coefficients-nan-2", "coefficients-finite", first(b"\xc0\x7f\x00\x00\x00\x00", 0, 2)
    yield "raw-short", "payload-raw", first(three[:-1])
    yield "raw-long", "payload-raw", first(three + b"\0")
    yield "raw-empty", "payload-raw", first(b"")
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
        yield f"deflate-{name}", "payload-deflate-end" if name == "followed" else "payload-deflate", first(content, 1)
    coded = range_payload(three, 4)
    for name, content in {
        "empty": b"",
        "cut": coded[:-1],
        "followed": coded + b"\0",
        "other-end": coded[:-1] + bytes([coded[-1] ^ 1]),
        "all-ones": b"\xff" * len(coded),
    }.items():
        yield f"range-{name}", "payload-range-end", first(content, 2)
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


def regularize() -> Iterator[Named]:
    kept = _kept()

    def edit(*parts: int | str | bytes | float, draft: Draft = kept) -> Draft:
        return replace(draft, edits=[(1, items(*parts))])

    counts = items(b"\0", 3)
    yield "regularize-many", "regularize-tensors", edit(16_385)
    yield "regularize-twice", "regularize-names", edit(2, LINEAR[1:], LINEAR[1:], 0, counts)
    yield "regularize-many-settings", "regularize-settings", edit(LINEAR, 2)
    yield "regularize-axes-set", "regularize-axes-set", edit(LINEAR, 1, 65_537, 0, counts)
    yield "regularize-many-weights", "regularize-weights", edit(LINEAR, 1, 0, 17, *([1] * 17), counts)
    yield "regularize-few-weights", "regularize-weights-too-few", edit(LINEAR, 1, 0, 1, 1, counts)
    yield "regularize-weight-0", "regularize-weight", edit(LINEAR, 1, 0, 2, 1, 0, counts)
    yield "regularize-weight-65", "regularize-weight", edit(LINEAR, 1, 0, 2, 65, 1, counts)
    yield "regularize-weight-unused", "regularize-weight", edit(LINEAR, 1, 0, 3, 1, 1, 65, counts)
    yield "regularize-axis-2", "regularize-axes", edit(LINEAR, 1, 1 + 0b100, 0, counts)
    yield "regularize-axis-15", "regularize-axes", edit(LINEAR, 1, 1 + (1 << 15), 0, counts)
    two = own("own", [(1, items(OWN_WEIGHTS, 0, b"\0", 2))])
    yield "regularize-setting", "regularize-setting", edit(OWN_WEIGHTS, 2, 0, 0, 1, 0, 0, 1, 2, counts, draft=two)
    for name, ratio in (
        ("0", 0.0),
        ("negative", -0.5),
        ("above-1", 1.0000000000000002),
        ("nan", float("nan")),
        ("inf", float("inf")),
    ):
        yield f"regularize-ratio-{name}", "regularize-ratio", edit(LINEAR, 0, b"\1", ratio)
    for way in (5, 255):
        yield f"regularize-way-{way}", "regularize-way", edit(LINEAR, 0, bytes([way]), 3)
    yield "regularize-width-64", "regularize-differences-width", edit(LINEAR, 0, b"\3", 3, 0, b"\x40", bytes(8))
    yield "regularize-difference-bits", "regularize-differences-bits", edit(LINEAR, 0, b"\3", 3, 0, b"\2", b"\4")
    yield "regularize-empty", "regularize-empty", edit(1, "weight", shape(2, 0), 0, counts)
    for name, listed in (
        ("0", items(b"\0", 0)),
        ("7", items(b"\2", 7)),
        ("largest", items(b"\2", MAX)),
        ("below", items(b"\3", 1, 2, b"\1", b"\1")),
        ("above", items(b"\3", 5, 0, b"\2", b"\2")),
    ):
        yield f"regularize-count-{name}", "regularize-count", edit(LINEAR, 0, listed)
    image = named(IMAGE, [(1, items(b"\1\0\0", 0, b"\0", 3))])
    assert len(image.kept) == 1
    yield "regularize-selection", "regularize-selection", edit(b"\1\0\x80", 0, counts, draft=image)
    for name, listed in (
        ("name", items(1, "other", shape(2, 3))),
        ("shape", items(1, "weight", shape(3, 2))),
        ("again", LINEAR),
    ):
        wrong = edit(listed, 0, counts)
        yield (
            f"fit-regularize-{name}",
            "regularize-fit",
            replace(wrong, edits=wrong.edits * (2 if name == "again" else 1)),
        )
    again = (1, items(b"\1\0\0", 0, b"\2", 9))  # more than the first one left, which does not matter
    yield "fit-regularize-again-registered", "regularize-fit", replace(image, edits=[*image.edits, again])
    yield "fit-regularize-integers", "regularize-fit", edit(1, "kept.steps", shape(), 0, b"\0", 1, draft=own("own"))


def stem() -> Iterator[Named]:
    image = own("image", [(2, GATE)])

    def edit(*parts: int | str | bytes | float) -> Draft:
        return replace(image, edits=[(2, items(*parts))])

    start = items(b"\0", channels(0), 8, 8)
    none = items(0, 0, 0)
    yield "stem-flags-8", "stem-flags", edit(b"\x08", channels(0), 8, 8, 0, b"\0", none)
    yield "stem-no-channels", "stem-channels", edit(b"\0", bytes(24), 8, 8, 0, b"\0", none)
    yield "stem-map-height-0", "stem-map-zero", edit(b"\0", channels(0), 0, 8, 0, b"\0", none)
    yield "stem-map-width-0", "stem-map-zero", edit(b"\0", channels(0), 8, 0, 0, b"\0", none)
    yield "stem-map-1025", "stem-map", edit(b"\0", channels(0), 8, 1025, 0, b"\0", none)
    yield "stem-many-removed", "stem-items", edit(start, 4097)
    yield "stem-many-resized", "stem-items", edit(start, 0, b"\0", 4097)
    yield "stem-many-projections", "stem-items", edit(start, 0, b"\0", 0, 4097)
    yield "stem-many-settings", "stem-items", edit(start, 0, b"\0", 0, 0, 4097)
    yield "stem-removed-twice", "stem-removed-twice", edit(start, 2, "conv1", "conv1", b"\0", none)
    yield "stem-entry-3", "stem-entry", edit(start, 1, "conv1", b"\3", none)
    for name, number in (("0", 0.0), ("negative", -1.0), ("infinite", float("inf")), ("nan", float("nan"))):
        yield f"stem-temperature-{name}", "stem-temperature", edit(start, 1, "conv1", b"\1", number, none)
    for name, layer in (
        ("channels", (0, 1, 1, 0, 1)),
        ("kernel", (1, 0, 1, 0, 1)),
        ("stride", (1, 1, 0, 0, 1)),
        ("shuffle", (1, 1, 1, 0, 0)),
    ):
        yield f"stem-layer-{name}-0", "stem-layer-zero", edit(start, 1, "conv1", b"\2", *layer, none)
    for name, layer in (
        ("channels", (65_537, 1, 1, 0, 1)),
        ("kernel", (1, 65, 1, 0, 1)),
        ("stride", (1, 1, 65, 0, 1)),
        ("padding", (1, 1, 1, 65, 1)),
        ("shuffle", (1, 1, 1, 0, 65)),
        ("shuffled", (16_385, 1, 1, 0, 2)),
    ):
        yield f"stem-layer-{name}-large", "stem-layer-number", edit(start, 1, "conv1", b"\2", *layer, none)
    yield "stem-entry-of-nothing", "stem-entry-of-nothing", edit(start, 0, b"\1", 1.0, none)
    yield "stem-inside-of-nothing", "stem-entry-of-nothing", edit(b"\4", channels(0), 8, 8, 0, b"\0", none)
    before = items(start, 0, b"\0")
    yield "stem-resized-0", "stem-resized-zero", edit(before, 1, "norm1", 0, 4, 0, 0, 0)
    yield "stem-resized-large", "stem-resized-number", edit(before, 1, "norm1", 4, 65_537, 0, 0, 0)
    yield "stem-resized-groups-large", "stem-resized-number", edit(before, 1, "norm1", 4, 4, 65_537, 0, 0)
    yield "stem-resized-twice", "stem-resized-twice", edit(before, 2, *("norm1", 4, 4, 0) * 2, 0, 0)
    yield "stem-projection-0", "stem-projection-zero", edit(before, 0, 1, "block", 0, 4, 0, 0)
    yield "stem-projection-large", "stem-projection-number", edit(before, 0, 1, "block", 0, 65_537, 4, 0)
    yield "stem-projection-attribute", "stem-projection-attribute", edit(before, 0, 1, "block", 2, 4, 4, 0)
    yield "stem-projection-twice", "stem-projection-twice", edit(before, 0, 2, *("block", 0, 4, 4) * 2, 0)
    yield "stem-setting-attribute", "stem-setting-attribute", edit(before, 0, 0, 1, "conv1", 5, 1)
    yield "stem-setting-large", "stem-setting-value", edit(before, 0, 0, 1, "conv1", 0, 65_537)
    yield "stem-setting-twice", "stem-setting-twice", edit(before, 0, 0, 2, "conv1", 0, 1, "conv1", 0, 2)
    registered = named(IMAGE, [(2, registered_stem())])
    yield "stem-module-large", "stem-module", replace(registered, edits=[(2, items(start, 1, 1000, b"\0", none))])
    for name, parts in {
        "removed": items(start, 1, "nothing", b"\0", none),
        "removed-network": items(start, 1, "", b"\0", none),
        "resized": items(before, 1, "nothing", 4, 4, 1, 0, 0),
        "within": items(start, 1, "block", b"\0", 1, "block.conv", 4, 4, 1, 0, 0),
        "removed-within": items(start, 2, "block.conv", "block", b"\0", none),
        "groups": items(before, 1, "depthwise", 6, 6, 4, 0, 0),
        "no-groups": items(before, 1, "conv1", 4, 4, 0, 0, 0),
        "groups-of-norm": items(before, 1, "norm1", 4, 4, 1, 0, 0),
        "norm-groups": items(before, 1, "group_norm", 5, 5, 0, 0, 0),
        "transposed": items(before, 1, "up", 6, 4, 1, 0, 0),
        "linear": items(before, 1, "head", 4, 5, 0, 0, 0),
        "one-slope": items(before, 1, "one_slope", 4, 4, 0, 0, 0),
        "projection": items(before, 0, 1, "block", 1, 4, 4, 0),
        "no-projection": items(before, 0, 1, "conv1", 0, 4, 4, 0),
        "stride": items(before, 0, 0, 1, "up", 0, 2),
        "stride-0": items(before, 0, 0, 1, "conv1", 0, 0),
        "pixels": items(before, 0, 0, 1, "block", 1, 8),
        "pixels-0": items(before, 0, 0, 1, "", 1, 0),
        "switch": items(before, 0, 0, 1, "block", 3, 1),
        "switch-of-number": items(before, 0, 0, 1, "", 3, 1),
    }.items():
        yield f"fit-stem-{name}", "stem-fit", replace(image, edits=[(2, parts)])
    yield "fit-stem-twice", "stem-fit", replace(image, edits=[(2, items(start, 0, b"\0", none))] * 2)
    yield (
        "fit-stem-after-ycbcr",
        "stem-fit",
        replace(image, edits=[(4, items(1, 1)), (2, items(start, 0, b"\0", none))]),
    )
    kept = (1, items(1, "conv1.weight", shape(4, 3, 3, 3), 0, b"\0", 3))
    yield "fit-stem-after-regularize", "stem-fit", replace(image, edits=[kept, (2, items(start, 0, b"\0", none))])
    yield "fit-stem-attribute", "stem-fit", replace(own("taken"), edits=[(2, items(start, 0, b"\0", none))])
    assert len(STEM) == 4


def prune() -> Iterator[Named]:
    image = own("image")

    def edit(*parts: int | str | bytes) -> Draft:
        return replace(image, edits=[(3, items(*parts))])

    yield "prune-many", "prune-layers", edit(16_385)
    yield "prune-many-tensors", "prune-tensors", edit(0, 16_385)
    for kind in (0, 9, 255):
        yield f"prune-kind-{kind}", "prune-kind", edit(1, "conv1", bytes([kind]), 1, 1, 1, 0)
    yield "prune-twice", "prune-names", edit(2, "norm1", b"\3", 2, "norm1", b"\3", 2, 0)
    yield "prune-tensor-twice", "prune-tensor-names", edit(0, 2, *("scale", shape(1, 1)) * 2)
    registered = named(IMAGE)
    for number in (1000, MAX):
        yield f"prune-place-{number}", "prune-place", replace(registered, edits=[(3, items(1, number, b"\3", 2, 0))])
    for name, parts in {
        "name": items(1, "nothing", b"\3", 2, 0),
        "second-name": items(1, "block.act", b"\6", 2, 0),
        "kind": items(1, "conv1", b"\2", 2, 2, 0),
        "container": items(1, "block", b"\3", 2, 0),
        "two-axes": items(1, "two_axes", b"\4", 1, 0),
        "grows": items(1, "norm1", b"\3", 5, 0),
        "zero": items(1, "conv1", b"\1", 3, 0, 1, 0),
        "groups": items(1, "grouped", b"\1", 3, 4, 2, 0),
        "groups-zero": items(1, "grouped", b"\1", 4, 4, 0, 0),
        "fewer-groups": items(1, "depthwise", b"\1", 4, 4, 2, 0),
        "norm-groups": items(1, "group_norm", b"\5", 2, 3, 0),
        "pads": items(1, "pad", b"\x08", 0, 7, 0),
        "no-pad": items(1, "act", b"\x08", 0, 0, 0),
        "tensor": items(0, 1, "nothing", shape(1)),
        "tensor-of-layer": items(0, 1, "conv1.weight", shape(1, 1, 1, 1)),
        "tensor-axes": items(0, 1, "scale", shape(4)),
        "tensor-grows": items(0, 1, "scale", shape(4, 2)),
        "tensor-zero": items(0, 1, "scale", shape(0, 1)),
        "tied": items(2, "table", b"\7", 3, "head", b"\2", 2, 5, 0),
    }.items():
        yield f"fit-prune-{name}", "prune-fit", edit(parts)
    kept = (1, items(1, "conv1.weight", shape(4, 3, 3, 3), 0, b"\0", 3))
    pruned = (3, items(1, "conv1", b"\1", 3, 2, 1, 0))
    yield "fit-prune-after-regularize", "prune-fit", replace(image, edits=[kept, pruned])


def ycbcr() -> Iterator[Named]:
    image = own("image")
    yield "ycbcr-height-0", "ycbcr-zero", replace(image, edits=[(4, items(0, 1))])
    yield "ycbcr-width-0", "ycbcr-zero", replace(image, edits=[(4, items(1, 0))])
    yield "ycbcr-large", "ycbcr-size", replace(image, edits=[(4, items(8193, 1))])
    yield "fit-ycbcr-twice", "ycbcr-fit", replace(image, edits=[(4, items(1, 1))] * 2)
    yield "fit-ycbcr-after-stem", "ycbcr-fit", replace(image, edits=[(2, GATE), (4, items(1, 1))])
    yield "fit-ycbcr-sequence", "ycbcr-fit", replace(own("sequence"), edits=[(4, items(1, 1))])
    yield "fit-ycbcr-attribute", "ycbcr-fit", replace(own("taken"), edits=[(4, items(1, 1))])


def tensors() -> Iterator[Named]:
    """Yield the digest, and the network that the file is read into."""
    plain, chain = _plain(), named(CHAIN)
    flipped = bytes([plain.digest[0] ^ 1]) + plain.digest[1:]
    yield "digest-own", "own-digest", replace(plain, digest=flipped)
    yield "digest-registered", "digest", replace(chain, digest=flipped)
    both = own("linear", [(1, items(LINEAR, 0, b"\0", 3))])
    listed = items(2, b"\1", "weight", shape(2, 3), b"\1", "bias", shape(2))
    yield "own-kept-and-listed", "own-names", replace(both, others=listed, types=items(3, 2, b"\0"), digest=b"1234")
    yield "fit-own-other-network", "own-tensors", replace(own("half"), own="linear")
    yield "fit-own-fewer-tensors", "own-tensors", replace(own("row"), own="linear")
    yield "fit-own-kind", "digest", _relisted(plain, b"\0", 0)
    integers = own("linear", types={"bias": 5})
    yield "fit-type-integers", "tensor-type", integers
    yield "fit-type-chain", "tensor-type", named(CHAIN, types={"norm.num_batches_tracked": 0})
    yield "fit-type-smaller-integers", "tensor-type", named(CHAIN, types={"norm.num_batches_tracked": 5})
    yield "fit-range", "tensor-range", own("half", types={"bias": 0}, numbers={"bias": [65_520.0, 1.0]})
    yield "fit-range-double", "tensor-range", own("linear", types={"bias": 3}, numbers={"bias": [3.5e38, 1.0]})
    half = own("half", [(1, items(1, "weight", shape(2, 2), 0, b"\0", 1))], numbers={"weight": [-70_000.0]})
    yield "fit-range-coefficients", "tensor-range", half


def _relisted(draft: Draft, kind: bytes, place: int) -> Draft:
    """Return the file with another kind of one of its tensors, and the digest of that."""
    others = [
        replace(o, is_parameter=bool(kind[0]) if n == place else o.is_parameter) for n, o in enumerate(draft.tensors)
    ]
    return replace(draft, others=list_of_others(others), digest=digest_of(draft.kept, others))


def capped() -> Iterator[tuple[str, str, Draft, int]]:
    """More than a cap that the reader was given."""
    plain = _plain()
    yield "total-own", "total-size", plain, 7
    yield "total-registered", "total-building", named(CHAIN), 16
    yield "total-coefficients", "total-size", _kept(), 7
    huge = replace(plain, others=items(2, b"\1", "weight", shape(2, 3), b"\1", "bias", shape(2**40, 2**40)))
    yield "total-huge", "total-size", huge, 1 << 30


def _alone(content: bytes) -> str | None:
    try:
        read(content)
    except RefusedError as error:
        return error.rule
    return None


def cases() -> dict[str, Case]:
    """Name -> the file."""
    found: dict[str, Case] = {}
    parts: list[Callable[[], Iterator[Named]]] = [
        head,
        scalars,
        metadata,
        lists,
        payloads,
        quantized,
        regularize,
        stem,
        prune,
        ycbcr,
        tensors,
    ]
    for part in parts:
        for name, rule, made in part():
            assert name not in found, name
            content = made.file() if isinstance(made, Draft) else made
            own_class = made.own if isinstance(made, Draft) else "nothing"
            is_of_network = own_class is not None and name.startswith("fit-")
            found[name] = Case(rule, content, own_class, alone=_alone(content) if is_of_network else rule)
    for name, rule, content, own_class in invalid_levels.cases():
        found[name] = Case(rule, content, own_class, alone=rule)
    work = invalid_levels.too_much_work()
    found["levels-work"] = Case("level-work", work.file(), work.own, 1 << 21, "level-work")
    for name, rule, draft, cap in capped():
        found[name] = Case(rule, draft.file(), draft.own, cap, rule)
    return found
