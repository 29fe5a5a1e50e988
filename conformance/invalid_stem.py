"""Invalid files of the corpus: edits that replace the stem."""

from collections.abc import Iterator
from dataclasses import replace

from conformance.valid import (
    GATE,
    IMAGE,
    Named,
    channels,
    named,
    own,
    registered_stem,
)
from conformance.writer import Draft, items, shape

_START, _NONE = items(b"\0", channels(0), 8, 8), items(0, 0, 0)
_BEFORE = items(_START, 0, b"\0")


def _edit(*parts: int | str | bytes | float) -> Draft:
    return replace(own("image", [(2, GATE)]), edits=[(2, items(*parts))])


def stem() -> Iterator[Named]:
    yield "stem-flags-8", "stem-flags", _edit(b"\x08", channels(0), 8, 8, 0, b"\0", _NONE)
    yield "stem-no-channels", "stem-channels", _edit(b"\0", bytes(24), 8, 8, 0, b"\0", _NONE)
    yield "stem-map-height-0", "stem-map-zero", _edit(b"\0", channels(0), 0, 8, 0, b"\0", _NONE)
    yield "stem-map-width-0", "stem-map-zero", _edit(b"\0", channels(0), 8, 0, 0, b"\0", _NONE)
    yield "stem-map-1025", "stem-map", _edit(b"\0", channels(0), 8, 1025, 0, b"\0", _NONE)
    yield "stem-many-removed", "stem-items", _edit(_START, 4097)
    yield "stem-many-resized", "stem-items", _edit(_START, 0, b"\0", 4097)
    yield "stem-many-projections", "stem-items", _edit(_START, 0, b"\0", 0, 4097)
    yield "stem-many-settings", "stem-items", _edit(_START, 0, b"\0", 0, 0, 4097)
    yield "stem-removed-twice", "stem-removed-twice", _edit(_START, 2, "conv1", "conv1", b"\0", _NONE)
    yield "stem-entry-3", "stem-entry", _edit(_START, 1, "conv1", b"\3", _NONE)


def stem_entries() -> Iterator[Named]:
    """What the first module of the stem became."""
    for name, number in (("0", 0.0), ("negative", -1.0), ("infinite", float("inf")), ("nan", float("nan"))):
        yield f"stem-temperature-{name}", "stem-temperature", _edit(_START, 1, "conv1", b"\1", number, _NONE)
    for name, layer in (
        ("channels", (0, 1, 1, 0, 1)),
        ("kernel", (1, 0, 1, 0, 1)),
        ("stride", (1, 1, 0, 0, 1)),
        ("shuffle", (1, 1, 1, 0, 0)),
    ):
        yield f"stem-layer-{name}-0", "stem-layer-zero", _edit(_START, 1, "conv1", b"\2", *layer, _NONE)
    for name, layer in (
        ("channels", (65_537, 1, 1, 0, 1)),
        ("kernel", (1, 65, 1, 0, 1)),
        ("stride", (1, 1, 65, 0, 1)),
        ("padding", (1, 1, 1, 65, 1)),
        ("shuffle", (1, 1, 1, 0, 65)),
        ("shuffled", (16_385, 1, 1, 0, 2)),
    ):
        yield f"stem-layer-{name}-large", "stem-layer-number", _edit(_START, 1, "conv1", b"\2", *layer, _NONE)
    yield "stem-entry-of-nothing", "stem-entry-of-nothing", _edit(_START, 0, b"\1", 1.0, _NONE)
    yield "stem-inside-of-nothing", "stem-entry-of-nothing", _edit(b"\4", channels(0), 8, 8, 0, b"\0", _NONE)


def stem_changes() -> Iterator[Named]:
    """Changed layers, shortcuts and settings."""
    yield "stem-resized-0", "stem-resized-zero", _edit(_BEFORE, 1, "norm1", 0, 4, 0, 0, 0)
    yield "stem-resized-large", "stem-resized-number", _edit(_BEFORE, 1, "norm1", 4, 65_537, 0, 0, 0)
    yield "stem-resized-groups-large", "stem-resized-number", _edit(_BEFORE, 1, "norm1", 4, 4, 65_537, 0, 0)
    yield "stem-resized-twice", "stem-resized-twice", _edit(_BEFORE, 2, *("norm1", 4, 4, 0) * 2, 0, 0)
    yield "stem-projection-0", "stem-projection-zero", _edit(_BEFORE, 0, 1, "block", 0, 4, 0, 0)
    yield "stem-projection-large", "stem-projection-number", _edit(_BEFORE, 0, 1, "block", 0, 65_537, 4, 0)
    yield "stem-projection-attribute", "stem-projection-attribute", _edit(_BEFORE, 0, 1, "block", 2, 4, 4, 0)
    yield "stem-projection-twice", "stem-projection-twice", _edit(_BEFORE, 0, 2, *("block", 0, 4, 4) * 2, 0)
    yield "stem-setting-attribute", "stem-setting-attribute", _edit(_BEFORE, 0, 0, 1, "conv1", 7, 1)
    yield "stem-setting-large", "stem-setting-value", _edit(_BEFORE, 0, 0, 1, "conv1", 0, 65_537)
    yield "stem-setting-twice", "stem-setting-twice", _edit(_BEFORE, 0, 0, 2, "conv1", 0, 1, "conv1", 0, 2)
    registered = named(IMAGE, [(2, registered_stem())])
    yield "stem-module-large", "stem-module", replace(registered, edits=[(2, items(_START, 1, 1000, b"\0", _NONE))])


def stem_fits() -> Iterator[Named]:
    """Edits that do not fit their network."""
    image = own("image", [(2, GATE)])
    for name, parts in {
        "removed": items(_START, 1, "nothing", b"\0", _NONE),
        "removed-network": items(_START, 1, "", b"\0", _NONE),
        "resized": items(_BEFORE, 1, "nothing", 4, 4, 1, 0, 0),
        "within": items(_START, 1, "block", b"\0", 1, "block.conv", 4, 4, 1, 0, 0),
        "removed-within": items(_START, 2, "block.conv", "block", b"\0", _NONE),
        "groups": items(_BEFORE, 1, "depthwise", 6, 6, 4, 0, 0),
        "no-groups": items(_BEFORE, 1, "conv1", 4, 4, 0, 0, 0),
        "groups-of-norm": items(_BEFORE, 1, "norm1", 4, 4, 1, 0, 0),
        "norm-groups": items(_BEFORE, 1, "group_norm", 5, 5, 0, 0, 0),
        "transposed": items(_BEFORE, 1, "up", 6, 4, 1, 0, 0),
        "linear": items(_BEFORE, 1, "head", 4, 5, 0, 0, 0),
        "one-slope": items(_BEFORE, 1, "one_slope", 4, 4, 0, 0, 0),
        "projection": items(_BEFORE, 0, 1, "block", 1, 4, 4, 0),
        "no-projection": items(_BEFORE, 0, 1, "conv1", 0, 4, 4, 0),
        "stride": items(_BEFORE, 0, 0, 1, "up", 0, 2),
        "stride-0": items(_BEFORE, 0, 0, 1, "conv1", 0, 0),
        "pixels": items(_BEFORE, 0, 0, 1, "block", 1, 8),
        "pixels-0": items(_BEFORE, 0, 0, 1, "", 1, 0),
        "switch": items(_BEFORE, 0, 0, 1, "block", 3, 1),
        "switch-of-number": items(_BEFORE, 0, 0, 1, "", 3, 1),
    }.items():
        yield f"fit-stem-{name}", "stem-fit", replace(image, edits=[(2, parts)])
    yield "fit-stem-twice", "stem-fit", replace(image, edits=[(2, items(_START, 0, b"\0", _NONE))] * 2)
    yield (
        "fit-stem-after-ycbcr",
        "stem-fit",
        replace(image, edits=[(4, items(1, 1)), (2, items(_START, 0, b"\0", _NONE))]),
    )
    kept = (1, items(1, "conv1.weight", shape(4, 3, 3, 3), 0, b"\0", 3))
    yield "fit-stem-after-regularize", "stem-fit", replace(image, edits=[kept, (2, items(_START, 0, b"\0", _NONE))])
    yield "fit-stem-attribute", "stem-fit", replace(own("taken"), edits=[(2, items(_START, 0, b"\0", _NONE))])
