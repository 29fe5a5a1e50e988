"""Invalid files of the corpus: edits that truncate tensors, remove channels or change colours."""

from collections.abc import Iterator
from dataclasses import replace

from conformance.valid import (
    GATE,
    IMAGE,
    LINEAR,
    OWN_WEIGHTS,
    Named,
    named,
    own,
    truncated_linear,
)
from conformance.writer import Draft, items, shape

MAX = 2**63 - 1
_COUNTS = items(b"\0", 3)


def _edit(*parts: int | str | bytes | float, draft: Draft | None = None) -> Draft:
    return replace(draft or truncated_linear(), edits=[(1, items(*parts))])


def regularize() -> Iterator[Named]:
    yield "regularize-many", "regularize-tensors", _edit(16_385)
    yield "regularize-twice", "regularize-names", _edit(2, LINEAR[1:], LINEAR[1:], 0, _COUNTS)
    yield "regularize-many-settings", "regularize-settings", _edit(LINEAR, 2)
    yield "regularize-axes-set", "regularize-axes-set", _edit(LINEAR, 1, 65_537, 0, _COUNTS)
    yield "regularize-many-weights", "regularize-weights", _edit(LINEAR, 1, 0, 17, *([1] * 17), _COUNTS)
    yield "regularize-few-weights", "regularize-weights-too-few", _edit(LINEAR, 1, 0, 1, 1, _COUNTS)
    yield "regularize-weight-0", "regularize-weight", _edit(LINEAR, 1, 0, 2, 1, 0, _COUNTS)
    yield "regularize-weight-65", "regularize-weight", _edit(LINEAR, 1, 0, 2, 65, 1, _COUNTS)
    yield "regularize-weight-unused", "regularize-weight", _edit(LINEAR, 1, 0, 3, 1, 1, 65, _COUNTS)
    yield "regularize-axis-2", "regularize-axes", _edit(LINEAR, 1, 1 + 0b100, 0, _COUNTS)
    yield "regularize-axis-15", "regularize-axes", _edit(LINEAR, 1, 1 + (1 << 15), 0, _COUNTS)
    two = own("own", [(1, items(OWN_WEIGHTS, 0, b"\0", 2))])
    yield (
        "regularize-setting",
        "regularize-setting",
        _edit(OWN_WEIGHTS, 2, 0, 0, 1, 0, 0, 1, 2, _COUNTS, draft=two),
    )


def regularize_counts() -> Iterator[Named]:
    """The ratio or the counts of what is kept."""
    for name, ratio in (
        ("0", 0.0),
        ("negative", -0.5),
        ("above-1", 1.0000000000000002),
        ("nan", float("nan")),
        ("inf", float("inf")),
    ):
        yield f"regularize-ratio-{name}", "regularize-ratio", _edit(LINEAR, 0, b"\1", ratio)
    for way in (5, 255):
        yield f"regularize-way-{way}", "regularize-way", _edit(LINEAR, 0, bytes([way]), 3)
    yield "regularize-width-64", "regularize-differences-width", _edit(LINEAR, 0, b"\3", 3, 0, b"\x40", bytes(8))
    yield (
        "regularize-difference-bits",
        "regularize-differences-bits",
        _edit(LINEAR, 0, b"\3", 3, 0, b"\2", b"\4"),
    )
    yield "regularize-empty", "regularize-empty", _edit(1, "weight", shape(2, 0), 0, _COUNTS)
    for name, listed in (
        ("0", items(b"\0", 0)),
        ("7", items(b"\2", 7)),
        ("largest", items(b"\2", MAX)),
        ("below", items(b"\3", 1, 2, b"\1", b"\1")),
        ("above", items(b"\3", 5, 0, b"\2", b"\2")),
    ):
        yield f"regularize-count-{name}", "regularize-count", _edit(LINEAR, 0, listed)


def regularize_fits() -> Iterator[Named]:
    """Edits that do not fit their network."""
    image = named(IMAGE, [(1, items(b"\1\0\0", 0, b"\0", 3))])
    assert len(image.kept) == 1
    yield "regularize-selection", "regularize-selection", _edit(b"\1\0\x80", 0, _COUNTS, draft=image)
    for name, listed in (
        ("name", items(1, "other", shape(2, 3))),
        ("shape", items(1, "weight", shape(3, 2))),
        ("again", LINEAR),
    ):
        wrong = _edit(listed, 0, _COUNTS)
        yield (
            f"fit-regularize-{name}",
            "regularize-fit",
            replace(wrong, edits=wrong.edits * (2 if name == "again" else 1)),
        )
    again = (1, items(b"\1\0\0", 0, b"\2", 9))  # more than the first one left, which does not matter
    yield "fit-regularize-again-registered", "regularize-fit", replace(image, edits=[*image.edits, again])
    yield (
        "fit-regularize-integers",
        "regularize-fit",
        _edit(1, "kept.steps", shape(), 0, b"\0", 1, draft=own("own")),
    )


def prune() -> Iterator[Named]:
    image = own("image")

    def edit(*parts: int | str | bytes) -> Draft:
        return replace(image, edits=[(3, items(*parts))])

    yield "prune-many", "prune-layers", edit(16_385)
    yield "prune-many-tensors", "prune-tensors", edit(0, 16_385)
    for kind in (0, 10, 255):
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
    for name, parts in {
        "as-linear": items(1, "c_fc", b"\2", 3, 2, 0),
        "not-transposed": items(1, "table", b"\x09", 3, 2, 0),
        "transposed-grows": items(1, "c_fc", b"\x09", 4, 7, 0),
        "transposed-zero": items(1, "c_fc", b"\x09", 0, 6, 0),
    }.items():
        yield f"fit-prune-{name}", "prune-fit", replace(own("words"), edits=[(3, items(parts))])
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
