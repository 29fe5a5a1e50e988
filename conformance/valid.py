"""The valid files of the corpus: at least one of every feature of SPEC.md."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from conformance.networks import own_class, registered
from conformance.reference.decoder import Kept, apply
from conformance.reference.items import Items
from conformance.reference.networks import Module
from conformance.writer import Draft, base_of, draft, fixed_block, items, shape, stored_block

CHAIN, IMAGE = "conformance-chain", "conformance-image"
Edit = tuple[int, bytes]
Named = tuple[str, str, Draft | bytes]  # of an invalid file: its name, the rule that it breaks, the file
ALL_192 = b"\xff" * 24


def channels(*chosen: int) -> bytes:
    """Return the bitmap of a replaced stem."""
    return sum(1 << channel for channel in chosen).to_bytes(24, "little")


def regularize(*parts: int | str | bytes | float) -> Edit:
    return 1, items(*parts)


def own(name: str, edits: Sequence[Edit] = (), **options: Any) -> Draft:
    """Return a file of an own class."""
    network = own_class(name)
    kept: list[Kept] = []
    for number, content in edits:
        apply(number, Items(content), network, True, kept)
    return replace(draft(network, kept, list(edits), **options), own=name)


def named(name: str, edits: Sequence[Edit] = (), arguments: Sequence[tuple[int, Any]] = (), **options: Any) -> Draft:
    """Return a file of a registered network."""
    entry = registered()[name]
    names = list(entry.defaults)
    network = entry.build({**entry.defaults, **{names[place]: given for place, given in arguments}})
    assert network is not None
    kept: list[Kept] = []
    for number, content in edits:
        apply(number, Items(content), network, False, kept)
    return draft(network, kept, list(edits), base=base_of(name, arguments), **options)


def place(name: str, network: Module) -> int:
    """Return the number of a module."""
    return [found for found, _ in network.walk()].index(name)


def selected(network: Module, *names: str) -> bytes:
    known = [name for name, _ in network.parameters()]
    return sum(1 << known.index(name) for name in names).to_bytes((len(known) + 7) // 8, "little")


def _image() -> Module:
    return own_class("image")


# Selections of kind 1: weights of the own class, and of the image network.
OWN_WEIGHTS = items(3, "line.weight", shape(3, 2, 3), "plane.weight", shape(3, 2, 3, 3), "linear.weight", shape(5, 6))
LINEAR = items(1, "weight", shape(2, 3))
ALL = regularize(LINEAR, 0, b"\1", 1.0)


def linear() -> Draft:
    """Return the file of a linear layer."""
    return own("linear")


def truncated_linear() -> Draft:
    """Return the file of a linear layer of whose weight three coefficients are kept."""
    return own("linear", [regularize(LINEAR, 0, b"\0", 3)])


WIDE = items(1, "weight", shape(3, 64))
STEM = (
    items(b"\0", channels(0, 1, 64, 128), 8, 8, 1, "conv1", b"\0"),
    items(3, "norm1", 4, 4, 0, "block.conv", 4, 4, 1, "depthwise", 8, 8, 4),
    items(1, "block", 0, 4, 4),
    items(3, "block.conv", 0, 2, "", 1, 2, "block", 4, 0),
)
GATE = items(b"\5", channels(0, 8, 64), 1024, 1, 2, "conv1", "norm1", b"\1", 0.75, 0, 0, 0)
FINER = items(b"\3", ALL_192, 1, 1024, 1, "conv1", b"\2", 2, 1, 1, 0, 2, 0, 0, 0)
LAYER = items(b"\2", channels(191), 2, 2, 1, "act", b"\2", 4, 3, 2, 1, 1, 1, "group_norm", 8, 8, 0, 0, 1, "other", 3, 1)
PRUNE_ITEMS = (
    ("conv1", 1, (3, 2, 1)),
    ("norm1", 3, (2,)),
    ("slope", 6, (3,)),
    ("block.conv", 1, (2, 4, 1)),
    ("pad", 8, (0, 5)),
    ("depthwise", 1, (2, 2, 2)),
    ("grouped", 1, (2, 4, 2)),
    ("up", 1, (4, 3, 1)),
    ("group_norm", 5, (1, 3)),
    ("layer_norm", 4, (3,)),
    ("rms_norm", 4, (1,)),
    ("table", 7, (3,)),
    ("head", 2, (3, 5)),
)
PRUNE = items(
    len(PRUNE_ITEMS),
    *(items(name, bytes([kind]), *sizes) for name, kind, sizes in PRUNE_ITEMS),
    items(2, "scale", shape(3, 1), "steps", shape(1)),
)


def registered_prune() -> bytes:
    """The same, with layers by their places."""
    network, last, parts = _image(), -1, []
    for name, kind, sizes in PRUNE_ITEMS:
        number = place(name, network)
        parts.append(items(number - last - 1, bytes([kind]), *sizes))
        last = number
    return items(len(parts), *parts, items(1, "scale", shape(4, 1)))


def registered_stem() -> bytes:
    """Return a gate in the network of an image, with modules by their places."""
    network = _image()
    conv, norm, block, up = (place(name, network) for name in ("conv1", "norm1", "block", "other"))
    return items(
        b"\1",
        channels(0, 1, 2, 64),
        4,
        6,
        1,
        conv,
        b"\1",
        1.0,
        1,
        norm,
        6,
        6,
        0,
        1,
        up,
        1,
        4,
        8,
        2,
        block,
        4,
        1,
        0,
        1,
        32,
    )


def _after_stem() -> bytes:
    """Return a prune of what a replaced stem left: the places count the modules of the gate."""
    network: Module = _image()
    apply(2, Items(registered_stem()), network, False, [])
    return items(1, place("norm1", network), b"\3", 5, 0)


def ways() -> dict[str, Callable[[], Draft]]:
    """Counts in every way, with several settings."""
    settings = items(3, 0, 0, 1 + 0b110, 2, 2, 1, 1 + 0b10, 1, 64)
    chosen = items(0, 1, 2)
    every = {
        "equal": items(b"\0", 4),
        "equal-all": items(b"\0", 2**62),
        "ratio": items(b"\1", 0.3),
        "ratio-one": items(b"\1", 1.0),
        "ratio-least": items(b"\1", 5e-324),
        "ratio-half": items(b"\1", 0.25),  # 0.25 * 6 + 0.5 is 2
        "listed": items(b"\2", 18, 1, 30),
        "near-equal": items(b"\3", 9, 2, b"\3", b"\x3a\0"),  # 2 - 2, 7 - 2, 0 - 2
        "near-equal-no-bits": items(b"\3", 9, 1, b"\0"),
        "near-ratio": items(b"\4", 0.5, 1, b"\2", b"\x12"),
        "near-wide": items(b"\3", 2, 0, b"\x3f", bytes(24)),
    }
    return {
        f"counts-{name}": partial(own, "own", [regularize(OWN_WEIGHTS, settings, chosen, way)])
        for name, way in every.items()
    }


def codecs() -> dict[str, Callable[[], Draft]]:
    """Return each codec with each size of numbers."""
    made: dict[str, Callable[[], Draft]] = {}
    kept = [regularize(WIDE, 0, b"\0", 150)]
    for codec in ("raw", "stored", "fixed", "range"):
        for number, name in enumerate(("float32", "float16", "bfloat16", "float64")):
            made[f"codec-{codec}-{name}"] = partial(own, "wide", kept, coefficients=number, codecs=(codec,))
        # A stream without numbers has no payload in range.
        first = "raw" if codec == "range" else codec
        made[f"codec-{codec}-all-types"] = partial(own, "own", codecs=(first, codec), types={"kept.nothing": 0})
    zeros = {"weight": [0.0] * 150}
    for codec in ("fixed", "range"):
        made[f"codec-{codec}-zeros"] = partial(own, "wide", kept, codecs=(codec,), numbers=zeros)
    signs = [(-1.0) ** place * 2.0 ** (place % 40 - 20) for place in range(150)]
    made["codec-range-signs"] = lambda: own(
        "wide", [regularize(WIDE, 0, b"\0", 150)], codecs=("range",), numbers={"weight": signs}
    )
    made["codec-range-one"] = lambda: own(
        "row", [regularize(items(1, "weight", shape(1, 1)), 0, b"\0", 1)], codecs=("range",)
    )
    return made


def headers() -> dict[str, Callable[[], Draft]]:
    """Return the head, the base, metadata, packing."""
    long = b'{"text": "' + b"x" * 65_500 + b'", "n": 1e308}'
    json_ = '{"class_names":["a","\u00e9\U0001f600"],"image_size":[7,9],"deep":[[[[{"a":null}]]]],"n":[-0,1.5,true]}'
    return {
        "nothing": lambda: own("nothing"),
        "nothing-packed": lambda: own("nothing", packing=stored_block),
        "plain": lambda: own("linear"),
        "packed-fixed": lambda: own("own", packing=fixed_block),
        "packed-stored": lambda: own("own", packing=stored_block),
        "metadata": lambda: own("nothing", metadata=json_.encode()),
        "metadata-empty": lambda: own("nothing", metadata=b" {} "),
        "metadata-not-ours": lambda: own("nothing", metadata=b'{"class_names":3,"image_size":[0,1],"a":1,"a":2}'),
        "metadata-largest": lambda: own("nothing", metadata=long + b" " * (65_536 - len(long)), packing=fixed_block),
        "chain": lambda: named(CHAIN),
        "chain-arguments": lambda: named(CHAIN, arguments=[(0, [4, 3, 2]), (1, False), (2, -0.5), (3, "\u03b2")]),
        "chain-some-arguments": lambda: named(CHAIN, arguments=[(1, False)]),
        "chain-widest": lambda: named(CHAIN, arguments=[(0, [1] * 8)]),
        "image": lambda: named(IMAGE),
    }


def numbers() -> dict[str, Callable[[], Draft]]:
    """Number types, and what they hold at their edges."""
    edges = {
        "kept.bits": [0, 1, 1, 0, 0, 1],
        "kept.bytes": [0, 1, 127, 128, 255],
        "kept.table": [-32768, 32767, -1, 0, 1, 256, -256, 255],
        "kept.small": [-128, 127, 0],
        "kept.middle": [-(2**31), 2**31 - 1],
        "kept.steps": [-(2**63)],
        "kept.limits": [math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1],
        "kept.halves": [65504.0, 2.0**-24, -math.inf],
        "kept.brains": [2.0**127, -0.0, 2.0**-133],
    }
    types = {"linear.bias": 3, "plane.bias": 2, "gain": 1, "kept.halves": 0}
    nan = own("linear")
    nan.payloads = [nan.payloads[0][:-4] + b"\x01\x00\xa0\xff"]  # a NaN with a payload and a sign
    nan.tensors[-1].raw = nan.payloads[0][-len(nan.tensors[-1].raw) :]
    nan.tensors[-1].numbers = []
    return {
        "numbers-edges": lambda: own("own", numbers=edges),
        "numbers-other-floats": lambda: own("own", types=types),
        "numbers-nan": lambda: nan,
        "numbers-half-from-double": lambda: own(
            "half", types={"weight": 3, "bias": 0}, numbers={"bias": [65519.0, -1.0]}
        ),
        "numbers-negative-zero": lambda: own(
            "linear", [regularize(LINEAR, 0, b"\0", 2)], numbers={"weight": [-0.0, 3.4028234663852886e38]}
        ),
    }


def edits() -> dict[str, Callable[[], Draft]]:
    """Return each kind of edit, alone and together, with modules by name and by number."""
    image = _image()
    some = selected(image, "conv1.weight", "grouped.weight", "table.weight")
    names = [name for name, _ in image.parameters()]
    kept_first = regularize(some, 0, b"\0", 2)
    every = ((1 << len(names)) - 1).to_bytes((len(names) + 7) // 8, "little")
    settings = items(2, 0, 4, 1, 2, 3, 1, 1 + 0b1, 0)
    small = items(1, "0.weight", shape(2, 3, 3, 3))
    return {
        "regularize-own": lambda: own("linear", [regularize(LINEAR, 0, b"\0", 3)], coefficients=1),
        "regularize-all-kept": lambda: own("linear", [regularize(LINEAR, 0, b"\1", 1.0)]),
        "regularize-one": lambda: own("linear", [regularize(LINEAR, 0, b"\0", 1)]),
        "regularize-one-number": lambda: own("row", [regularize(items(1, "weight", shape(1, 1)), 0, b"\0", 1)]),
        "regularize-bias": lambda: own("linear", [regularize(items(1, "bias", shape(2)), 0, b"\0", 1)]),
        "regularize-no-axes": lambda: own("own", [regularize(items(1, "gain", shape()), 0, b"\0", 1)]),
        "regularize-nothing": lambda: own("linear", [regularize(0, 0, b"\0", 1)]),
        "regularize-some-axes": lambda: own("linear", [regularize(LINEAR, 1, 3, 0, b"\2", 3)]),
        "regularize-order-weights": lambda: own("linear", [regularize(LINEAR, 1, 0, 2, 64, 1, b"\0", 5)]),
        "regularize-tied": lambda: own("own", [regularize(items(1, "table.weight", shape(7, 4)), 0, b"\0", 9)]),
        "regularize-space": lambda: own(
            "own", [regularize(items(1, "space.weight", shape(2, 1, 3, 3, 3)), 0, b"\0", 20)]
        ),
        "regularize-registered": lambda: named(IMAGE, [regularize(some, settings, 0, 1, 0, b"\2", 9, 6, 20)]),
        "regularize-registered-all": lambda: named(IMAGE, [regularize(every, 0, b"\0", 2)], coefficients=2),
        "regularize-sequence": lambda: own("sequence", [regularize(small, 0, b"\1", 0.5)]),
        "stem": lambda: own("image", [(2, b"".join(STEM))]),
        "stem-gate": lambda: own("image", [(2, GATE)]),
        "stem-finer": lambda: own("sequence", [(2, FINER.replace(b"\x05conv1", b"\x010"))]),
        "stem-layer": lambda: own("image", [(2, LAYER)]),
        "stem-counts": lambda: own(
            "image", [(2, items(b"\2", channels(5), 1, 1, 0, b"\0", 0, 0, 3, "", 5, 2, "", 6, 192, "", 2, 1))]
        ),
        "stem-nothing-removed": lambda: own("image", [(2, items(b"\2", channels(5), 1, 1, 0, b"\0", 0, 0, 0))]),
        "stem-registered": lambda: named(IMAGE, [(2, registered_stem())]),
        "stem-in-sequence": lambda: own("sequence", [(2, items(b"\4", channels(5), 1, 1, 1, "0", b"\0", 0, 0, 0))]),
        "stem-half": lambda: own("half", [(2, items(b"\0", channels(5), 1, 1, 0, b"\0", 0, 0, 0))]),
        "prune": lambda: own("image", [(3, PRUNE)]),
        "prune-nothing": lambda: own("image", [(3, items(0, 0))]),
        "prune-registered": lambda: named(IMAGE, [(3, registered_prune())]),
        "prune-words": lambda: own(
            "words", [(3, items(3, "table", b"\7", 3, "c_fc", b"\x09", 3, 2, "c_proj", b"\x09", 2, 3, 0))]
        ),
        "prune-twice": lambda: own("image", [(3, PRUNE), (3, items(1, "norm1", b"\3", 1, 0))]),
        "ycbcr": lambda: own("image", [(4, items(1, 8192))]),
        "ycbcr-registered": lambda: named(IMAGE, [(4, items(8192, 1))]),
        "stem-prune-regularize": lambda: named(
            IMAGE,
            [(2, registered_stem()), (3, _after_stem()), regularize(_last_selected(), 0, b"\0", 6)],
            coefficients=1,
            codecs=("range",),
        ),
        "ycbcr-prune-regularize": lambda: own(
            "image",
            [(4, items(32, 32)), (3, PRUNE), regularize(items(1, "conv1.weight", shape(2, 3, 3, 3)), 0, b"\0", 7)],
        ),
        "regularize-prune-registered": lambda: named(IMAGE, [kept_first, (3, _after_regularize(kept_first))]),
        "sixteen-edits": lambda: own("image", [(3, items(0, 0))] * 16),
    }


def _after_regularize(edit: Edit) -> bytes:
    """A prune of layers beside regularised ones: the places count the modules that stand for the coefficients."""
    network = _image()
    apply(1, Items(edit[1]), network, False, [])
    norm, head = place("norm1", network), place("rms_norm", network)
    return items(2, norm, b"\3", 3, head - norm - 1, b"\4", 2, 0)


def _last_selected() -> bytes:
    network, edits = _image(), [(2, registered_stem()), (3, _after_stem())]
    for number, content in edits:
        apply(number, Items(content), network, False, [])
    return selected(network, "conv1.mix.weight", "grouped.weight")


OWN_TYPES = dict.fromkeys(("line.weight", "plane.weight", "plane.bias", "space.weight", "linear.weight"), 10)
OWN_TYPES |= dict.fromkeys(("gain", "linear.bias", "table.weight"), 10)


def quantized() -> dict[str, Callable[[], Draft]]:
    """Version 2: numbers rounded to steps, whole numbers, and plain ones between them."""
    wholes = dict.fromkeys(("kept.bits", "kept.bytes", "kept.table", "kept.small", "kept.middle", "kept.steps"), 11)
    transforms = {
        "line.weight": (3, -40, 0, 0),
        "plane.weight": (2, -24, 0, 0),
        "plane.bias": (1, 3, -2, 0),
        "space.weight": (3, -9, 0, 40),
        "linear.weight": (0, -400, 1000, 0),
        "linear.bias": (2, 7, 0, 3),
        "table.weight": (0, -17, -5, 1),
        "gain": (0, 0, 7, 0),
    }
    whole_numbers = {
        "kept.bits": [0, 1, 1, 0, 0, 1],
        "kept.bytes": [0, 1, 127, 128, 255],
        "kept.table": [-32768, 32767, -1, 0, 1, 256, -256, 255],
        "kept.small": [-128, 127, 0],
        "kept.middle": [-500_000, 548_575],
        "kept.steps": [0],
    }
    magnitudes = [sign * (2**e + part) for e in range(20) for part in (0, 2**e - 1) for sign in (1, -1)]
    wide = [regularize(WIDE, 0, b"\0", 150)]
    linear = [regularize(LINEAR, 0, b"\0", 3)]
    zeros = {"weight": [0] * 150}
    return {
        "quantized-coefficients": lambda: own("linear", linear, coefficients=10),
        "quantized-with-others": lambda: own("linear", linear, coefficients=10, types={"bias": 10}),
        "quantized-others": lambda: own("linear", linear, types={"bias": 10}),
        "quantized-cut": lambda: own("wide", wide, coefficients=10, parameters={"weight": (0, -20, 0, 41)}),
        "quantized-none-kept": lambda: own("wide", wide, coefficients=10, parameters={"weight": (0, -20, 0, 1)}),
        "quantized-largest": lambda: own(
            "wide",
            wide,
            coefficients=10,
            numbers={"weight": (magnitudes * 2)[:150]},
            parameters={"weight": (0, -100, 1 << 19, 0)},
        ),
        "quantized-zeros": lambda: own("wide", wide, coefficients=10, numbers=zeros),
        "quantized-transforms": lambda: own("own", types=OWN_TYPES, parameters=transforms),
        "quantized-integers": lambda: own("own", types=OWN_TYPES | wholes, numbers=whole_numbers),
        "quantized-wholes-alone": lambda: own("own", types=wholes, numbers=whole_numbers),
        "quantized-four-axes": lambda: own(
            "own",
            [regularize(items(1, "plane.weight", shape(3, 2, 3, 3)), 0, b"\0", 31)],
            coefficients=10,
            types={name: number for name, number in OWN_TYPES.items() if name != "plane.weight"},
        ),
        "quantized-order-weights": lambda: own(
            "linear", [regularize(LINEAR, 1, 0, 2, 3, 1, b"\0", 5)], coefficients=10, types={"bias": 10}
        ),
        "quantized-some-axes": lambda: own("linear", [regularize(LINEAR, 1, 3, 0, b"\2", 3)], coefficients=10),
        "quantized-half": lambda: own("half", types={"weight": 10, "bias": 10}),
        "quantized-empty": lambda: own("empty", types={"weight": 10, "bias": 10}),
        "quantized-registered": lambda: named(
            CHAIN,
            arguments=[(0, [4, 3, 2])],
            types=dict.fromkeys(("layer0.weight", "layer0.bias", "norm.weight", "norm.running_var"), 10)
            | {"norm.num_batches_tracked": 11},
        ),
        "quantized-prune": lambda: own("image", [(3, PRUNE)], types={"conv1.weight": 10, "steps": 11}),
    }


def cases() -> dict[str, Callable[[], Draft]]:
    """Name -> what makes the file."""
    return {**headers(), **numbers(), **ways(), **codecs(), **edits(), **quantized()}
