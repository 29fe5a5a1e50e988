"""The invalid files with levels: each breaks one rule, of "Levels" in SPEC.md or another one in a further level."""

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace

from conformance.level_writer import Further, Levels, in_levels, joined
from conformance.networks import registered
from conformance.reference.decoder import Kept, apply, digest_of, list_others
from conformance.reference.items import Items
from conformance.valid import ALL, CHAIN, own, regularize
from conformance.valid_axes import shifts_below
from conformance.valid_levels import infinite_below
from conformance.writer import Shifts, base_of, items, shape, varint

Named = tuple[str, str, bytes, str | None]


def _plain(parts: Sequence[int] = (100, 150)) -> Levels:
    return in_levels("linear", [ALL], parts, anew={2: {"bias": [1.5, 2.5]}})


def _quantized(**cuts: int) -> Levels:
    return in_levels(
        "linear",
        [ALL],
        [100, 150],
        coefficients=10,
        types={"bias": 10},
        anew={2: {"bias": [3, 4]}},
        cuts={3: cuts},
    )


def _with(made: Levels, place: int, further: Further) -> Levels:
    return replace(made, further=[*made.further[:place], further, *made.further[place + 1 :]])


def blocks() -> Iterator[tuple[str, str, bytes]]:
    """What is around the levels."""
    plain = _plain([128])
    whole, (first, second) = plain.file(), plain.contents()
    start = 7 + len(varint(len(first)))
    end = start + len(first) + 4
    for number in (0, 1, 9, 255):
        yield f"number-{number}", "level-number", joined([first, second], [128] * max(0, number - 1), number)
    yield "part-0", "level-parts", joined([first, second], [0])
    yield "second-part-0", "level-parts", joined([first, second, second], [128, 0])
    yield "no-block", "level-cut", joined([], [128] * 7)
    yield "short-head", "file-short", whole[:12]
    yield "cut-lowest", "level-cut", whole[: end - 1]
    yield "cut-size", "cut-off", whole[:end] + b"\x80"
    yield "cut-content", "level-cut", whole[: end + 4]
    yield "cut-checksum", "level-cut", whole[:-1]
    yield "size-largest", "level-cut", whole[: start - 1] + varint(2**63 - 1) + whole[start:]
    yield "size-not-shortest", "varint-shortest", whole[: start - 1] + b"\xbe\x80\0" + whole[start:]
    yield "followed", "level-followed", whole + b"\0"
    yield "followed-by-level", "level-followed", whole + whole[end:]
    for name, place in {
        "parts": 6,
        "digest": start,
        "payload": end - 5,
        "lowest": end - 1,
        "level": end + 2,
        "highest": len(whole) - 1,
    }.items():
        yield f"checksum-{name}", "level-checksum", whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
    alone = len(varint(len(second))) + len(second)
    swapped = whole[:end] + whole[end : end + alone] + struct.pack("<I", 0)
    yield "checksum-0", "level-checksum", swapped
    yield "no-content", "cut-off", joined([b"", second], [128])
    empty = own("linear")
    yield "without-coefficients", "level-coefficients", joined([empty.body(), second], [128])


def contents() -> Iterator[tuple[str, str, Levels]]:
    """Wrong contents of a further level."""
    plain, rounded = _plain(), _quantized()
    second, third = plain.further
    for mark in (2, 255):
        yield f"mark-{mark}", "level-others", _with(plain, 1, replace(third, mark=mark))
    yield "empty", "cut-off", _with(plain, 1, Further(0, b"", []))
    yield "codecs-cut", "cut-off", _with(plain, 0, Further(1, b"\0", []))
    yield "length-too-long", "cut-off", _with(plain, 0, replace(second, lengths=[100]))
    yield "length-largest", "cut-off", _with(plain, 0, replace(second, lengths=[2**63 - 1]))
    yield "codec-4", "quantized-codec", _with(plain, 1, replace(third, codecs=b"\4"))
    yield "codec-6", "codec-known", _with(plain, 1, replace(third, codecs=b"\6"))
    yield "codec-of-others-15", "codec-known", _with(plain, 0, replace(second, codecs=b"\0\x0f"))
    yield "codec-3", "quantized-codec", _with(plain, 1, replace(third, codecs=b"\3"))
    yield "codec-0-of-quantized", "quantized-codec", _with(rounded, 1, replace(rounded.further[1], codecs=b"\0"))
    yield "codec-6-of-quantized", "codec-known", _with(rounded, 1, replace(rounded.further[1], codecs=b"\6"))
    (numbers,) = third.payloads
    yield "raw-short", "payload-raw", _with(plain, 1, replace(third, payloads=[numbers[:-1]]))
    yield "raw-long", "payload-raw", _with(plain, 1, replace(third, payloads=[numbers + b"\0"]))
    others = replace(second, payloads=[second.payloads[0], second.payloads[1] + b"\0"])
    yield "raw-long-others", "payload-raw", _with(plain, 0, others)
    above = _with(plain, 0, others)
    yield "codec-4-above-raw-long", "quantized-codec", _with(above, 1, replace(third, codecs=b"\4"))
    yield "codec-6-above-raw-long", "codec-known", _with(above, 1, replace(third, codecs=b"\6"))
    infinite = replace(third, payloads=[numbers[:-4] + b"\0\0\x80\x7f"])
    yield "infinite", "coefficients-finite", _with(plain, 1, infinite)
    ranged = in_levels("linear", [ALL], [100, 150], codecs=("range",))
    coded = ranged.further[1]
    for name, content in {
        "empty": b"",
        "cut": coded.payloads[0][:-1],
        "followed": coded.payloads[0] + b"\0",
    }.items():
        yield f"range-{name}", "payload-range-end", _with(ranged, 1, replace(coded, payloads=[content]))
    nothing = in_levels("linear", [ALL], [255])
    yield "range-of-nothing", "level-range-size", _with(nothing, 0, Further(0, b"\2", [b"\0"]))
    large = [(0, [4096, 3])]
    weight = in_levels(
        CHAIN,
        [regularize(b"\1", 0, b"\1", 1.0)],
        [160],
        arguments=large,
        coefficients=3,
        codecs=("fixed", "raw"),
        numbers={"layer0.weight": [0.0] * 12_288},
    )
    yield "range-large", "level-range-size", _with(weight, 0, Further(0, b"\2", [b"\0"]))
    bools = in_levels("own", [regularize(items(1, "gain", b"\0"), 0, b"\0", 1)], [128], anew={2: {}})
    place = bools.lowest.streams.index(b"\x90")
    marked = list(bools.further[0].payloads)
    marked[place] = b"\2" + marked[place][1:]
    yield "bool-2", "bool", _with(bools, 0, replace(bools.further[0], payloads=marked))
    lower = list(bools.lowest.payloads)
    lower[place] = b"\2" + lower[place][1:]
    yield "bool-2-below", "bool", replace(bools, lowest=replace(bools.lowest, payloads=lower))
    (content,) = rounded.further[1].payloads
    for name, wrong in {"empty": b"", "cut": content[:-1], "followed": content + b"\0"}.items():
        level = replace(rounded.further[1], payloads=[wrong])
        yield f"quantized-{name}", "payload-quantized-end", _with(rounded, 1, level)
    for name, cut in {"above": 4, "negative": -1}.items():
        yield f"quantized-count-{name}", "level-count", _quantized(weight=cut)
    nothing = in_levels("linear", [ALL], [255], coefficients=10, cuts={2: {"weight": 1}})
    yield "quantized-count-of-nothing", "level-count", nothing
    for name, coefficients in (("", 10), ("-alone", 0)):
        unsound = infinite_below(coefficients)
        yield f"quantized-infinite{name}", "quantized-finite", replace(unsound, there=1)
    wide = in_levels(
        CHAIN,
        [regularize(b"\1", 0, b"\1", 1.0)],
        [1],
        arguments=[(0, [512, 400])],
        coefficients=10,
        cuts={2: {"layer0.weight": 1}},
    )
    short = replace(wide.further[0], payloads=[rounded.further[1].payloads[0]])
    yield "quantized-claims", "quantized-claims", _with(wide, 0, short)


def along_axes() -> Iterator[tuple[str, str, Levels]]:
    """Codec 4, in one level and not in another; and what codec 4 asks of the levels."""
    for codec in (3, 4, 5):
        every = _along_axes(10, codec)
        second = every.further[0]
        other = bytes([4 if codec == 3 else 3])
        yield f"axes-{codec}-below", "level-quantized-codec", _with(every, 0, replace(second, codecs=other))
        plain = _along_axes(0, codec)
        second = plain.further[0]
        yield (
            f"axes-{codec}-below-others",
            "level-quantized-codec",
            _with(plain, 0, replace(second, codecs=second.codecs[:1] + other)),
        )
    every = _along_axes(10, 4)
    yield "axes-raw", "quantized-codec", _with(every, 0, replace(every.further[0], codecs=b"\0"))
    (content,) = every.further[0].payloads
    level = replace(every.further[0], payloads=[content + b"\0"])
    yield "axes-followed", "payload-quantized-end", _with(every, 0, level)
    yield "axes-above", "quantized-axes", _along_axes(10, 4, axes=4)
    yield "axes-shifts", "quantized-shifts", _along_axes(10, 4, shifts={"weight": {1: [0, 0, 500]}})
    for name, coefficients in (("", 10), ("-alone", 0)):
        unsound = shifts_below(coefficients)
        yield f"axes-shifts-below{name}", "quantized-shifts", replace(unsound, there=1)


def _along_axes(coefficients: int, codec: int, shifts: Shifts | None = None, axes: int | None = None) -> Levels:
    """Return a file of two levels whose second one has the quantised weight of a layer anew."""
    bias = regularize(items(1, "bias", shape(2)), 0, b"\1", 1.0)
    parameters = (0, -32, 0, 0) if axes is None else (0, -32, 0, 0, axes)
    return in_levels(
        "linear",
        [bias],
        [128],
        coefficients=coefficients,
        types={"weight": 10},
        quantized_codec=codec,
        anew={2: {}},
        anew_parameters={2: {"weight": parameters}},
        anew_shifts={2: shifts or {}},
    )


def too_much_work() -> Levels:
    """Return a file whose levels repeat more than is allowed; it is refused before its few numbers are looked at.

    It needs a `max_parameters` below 2^23 for that.
    """
    edit, arguments = regularize(b"\1", 0, b"\1", 1.0), [(0, [2048, 512])]
    made = in_levels(CHAIN, [edit], [255] * 5)
    network = registered()[CHAIN].build({**registered()[CHAIN].defaults, "widths": [2048, 512]})
    assert network is not None
    kept: list[Kept] = []
    apply(1, Items(edit[1]), network, False, kept)
    digest = digest_of(kept, list_others(network, kept))
    return replace(made, lowest=replace(made.lowest, base=base_of(CHAIN, arguments), digest=digest))


def cases() -> Iterator[Named]:
    """Yield name, rule, content and own class."""
    for name, rule, content in blocks():
        yield f"levels-{name}", rule, content, "linear"
    nothing = joined([own("nothing").body()], [128])
    yield "levels-of-nothing", "level-coefficients", nothing, "nothing"
    for name, rule, made in itertools.chain(contents(), along_axes()):
        yield f"levels-{name}", rule, made.file(), made.own
