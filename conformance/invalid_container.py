"""Invalid files of the corpus: the head, the header with its items, metadata and lists."""

from collections.abc import Iterator
from dataclasses import replace

from conformance.valid import (
    CHAIN,
    Named,
    linear,
    named,
    own,
    truncated_linear,
)
from conformance.writer import Draft, base_of, fixed_block, items, shape, stored_block, value, varint, whole

MAX = 2**63 - 1


def head() -> Iterator[Named]:
    sound = linear().file()
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
    yield "header-cut", "cut-off", whole(b"1234" + varint(2 * 50) + linear().header())
    yield "header-large", "header-size", whole(b"1234" + varint(2 * (2**20 + 1)))
    yield "header-large-packed", "header-size", whole(b"1234" + items(2 * 3 + 1, 2**20 + 1, b"abc"))
    header = linear().header()
    rest = b"".join(linear().payloads)
    for name, packed, claimed in (
        ("longer", fixed_block(header), len(header) - 1),
        ("shorter", fixed_block(header), len(header) + 1),
        ("followed", stored_block(header) + b"\0", len(header)),
        ("cut", fixed_block(header)[:-1], len(header)),
        ("no-deflate", b"\xff" * 9, len(header)),
        ("bomb", fixed_block(bytes(5000)), 100),
    ):
        body = linear().digest + items(2 * len(packed) + 1, claimed, packed) + rest
        yield f"packed-{name}", "header-packed", whole(body)


def _header(content: bytes) -> bytes:
    return whole(b"1234" + varint(2 * len(content)) + content)


def scalars() -> Iterator[Named]:
    """Items: varints and texts."""
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


def arguments() -> Iterator[Named]:
    """Names and arguments of registered networks."""
    sound = named(CHAIN)

    def edited(*parts: bytes | int) -> Draft:
        return replace(sound, base=items(CHAIN, *parts))

    yield "value-negative-zero", "value-negative-zero", edited(1, 2, b"\x03\0")
    yield "value-tag-7", "value-tag", edited(1, 2, b"\x07\0")
    yield "value-tag-255", "value-tag", edited(1, 2, b"\xff\0")
    yield "value-list-long", "value-list-length", edited(1, 0, value([1] * 257))
    yield "value-nested", "value-nesting", edited(1, 0, value([[[1]]]))
    yield "value-cut", "cut-off", _header(items(CHAIN, 1, 2, b"\x04\0\0"))
    yield "arguments-many", "arguments-count", edited(65, *(items(n, b"\0") for n in range(65)))
    yield "arguments-twice", "arguments-order", edited(2, 1, b"\0", 1, b"\0")
    yield "arguments-backwards", "arguments-order", edited(2, 1, b"\0", 0, value([3, 2]))
    yield "argument-place-4", "argument-place", edited(1, 4, b"\0")
    yield "argument-place-largest", "argument-place", edited(1, MAX, b"\0")
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
        yield f"arguments-{name}", "arguments-fit", edited(1, place, given)
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


def edit_lists() -> Iterator[Named]:
    """Edits as a list."""
    plain, kept = linear(), truncated_linear()
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


def other_lists() -> Iterator[Named]:
    """Other tensors and their number types."""
    plain = linear()
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


def streams() -> Iterator[Named]:
    plain, kept = linear(), truncated_linear()
    yield "stream-other-type", "stream-types", replace(plain, streams=b"\x10")
    yield "stream-unknown-type", "stream-type-known", replace(plain, streams=b"\xa0")
    yield "codec-3", "codec-known", replace(plain, streams=b"\x03")
    yield "codec-4", "codec-known", replace(plain, streams=b"\x04")
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
