"""The valid files with levels: whole ones, and each of them cut at the end of each lower level."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from conformance import valid_axes, valid_dependent
from conformance.level_writer import Levels, in_levels
from conformance.networks import own_class
from conformance.reference.decoder import apply
from conformance.reference.items import Items
from conformance.valid import (
    ALL,
    CHAIN,
    IMAGE,
    LINEAR,
    OWN_WEIGHTS,
    PRUNE,
    WIDE,
    Edit,
    registered_stem,
    regularize,
    selected,
)
from conformance.writer import fixed_block, items, shape

CHAIN_WEIGHTS = regularize(b"\x05", 0, b"\2", 9, 6)  # layer0.weight and layer1.weight; biases lie between


def chain_arguments() -> list[tuple[int, list[int]]]:
    return [(0, [4, 3, 2])]


def whole() -> dict[str, Callable[[], Levels]]:
    """Name -> what makes the file with all its levels."""
    three: Edit = regularize(OWN_WEIGHTS, 0, b"\2", 18, 31, 20)
    wide: Edit = regularize(WIDE, 0, b"\0", 150)
    rounded = {"linear.bias": 10, "plane.bias": 10, "gain": 10, "kept.table": 11, "kept.steps": 11}
    other_bias = {2: {"bias": [7, -7]}}
    plain = partial(in_levels, "linear", [ALL])
    quantized = partial(in_levels, "wide", [wide], coefficients=10)
    chain = partial(in_levels, CHAIN, [CHAIN_WEIGHTS], arguments=chain_arguments())
    return {
        "levels-two": lambda: plain([128]),
        "levels-three": lambda: plain([64, 200], metadata=b'{"a":1}'),
        "levels-eight": lambda: in_levels("wide", [wide], [160] * 7, coefficients=1),
        "levels-nothing-new": lambda: plain([255, 255]),
        "levels-smallest-part": lambda: in_levels("wide", [wide], [1, 255], coefficients=1),
        "levels-half-raw": lambda: in_levels("own", [three], [100, 150], coefficients=1),
        "levels-half-deflate": lambda: in_levels("own", [three], [100, 150], coefficients=1, codecs=("fixed",)),
        "levels-half-range": lambda: in_levels("own", [three], [100, 150], coefficients=1, codecs=("range",)),
        "levels-half-mixed": lambda: in_levels(
            "own", [three], [100, 150], coefficients=1, codecs=("stored", "range", "raw"), other_codecs=("range", "raw")
        ),
        "levels-double-range": lambda: plain([100, 150], coefficients=3, codecs=("raw", "raw", "range")),
        "levels-brain-range": lambda: plain([100, 150], coefficients=2, codecs=("range",)),
        "levels-others": lambda: plain([100, 150], anew={2: {"bias": [3.5, -1.0]}, 3: {"bias": [-0.0, 9.0]}}),
        "levels-others-once": lambda: plain([100, 150], anew={3: {"bias": [-0.0, 9.0]}}),
        "levels-others-same": lambda: plain([100, 150], anew={2: {}}),
        "levels-others-range": lambda: plain([100], anew={2: {"bias": [-0.0, 9.0]}}, other_codecs=("range",)),
        "levels-others-rounded": lambda: plain([100, 150], types={"bias": 10}, anew={2: {"bias": [7, 0]}, 3: {}}),
        "levels-others-of-many-types": lambda: in_levels(
            "own", [three], [100, 150], types=rounded, anew={2: {"gain": [3]}, 3: {"kept.table": [1] * 8}}
        ),
        "levels-packed": lambda: _packed(plain([128])),
        "levels-registered": lambda: chain([128]),
        "levels-registered-others": lambda: chain([64, 128], anew={2: {"norm.bias": [1.5, 2.5]}, 3: {}}),
        "levels-quantized": lambda: quantized([64, 128]),
        "levels-quantized-eight": lambda: quantized([160] * 7),
        "levels-quantized-short": lambda: quantized([64, 128], cuts={2: {"weight": 12}, 3: {"weight": 5}}),
        "levels-quantized-none-kept": lambda: quantized(
            [64, 128], parameters={"weight": (0, -20, -3, 1)}, cuts={2: {"weight": 1}}
        ),
        "levels-quantized-nothing-new": lambda: in_levels("linear", [ALL], [255, 255], coefficients=10),
        "levels-quantized-others": lambda: in_levels(
            "linear", [ALL], [100, 150], coefficients=10, types={"bias": 10}, anew={**other_bias, 3: {}}
        ),
        "levels-quantized-plain-others": lambda: in_levels(
            "linear", [ALL], [100, 150], coefficients=10, anew={2: {"bias": [1.5, 0.25]}}
        ),
        "levels-quantized-many": lambda: in_levels(
            "own",
            [three],
            [60, 200],
            coefficients=10,
            types=rounded,
            anew={2: {"kept.table": [5] * 8, "gain": [-9]}, 3: {"kept.steps": [4]}},
            parameters={"plane.weight": (0, -9, 2, 0), "line.weight": (0, 3, -1, 2), "gain": (1, -8, 3, 0)},
            cuts={2: {"linear.weight": 2}, 3: {"plane.weight": 1, "line.weight": 3}},
        ),
        "levels-quantized-registered": lambda: chain(
            [64, 128],
            coefficients=10,
            types={"layer0.bias": 10, "norm.weight": 10, "norm.running_var": 10, "norm.num_batches_tracked": 11},
            anew={3: {"norm.weight": [4, 4], "norm.num_batches_tracked": [77]}},
        ),
        "levels-infinite-below": lambda: infinite_below(10),
        "levels-infinite-below-alone": lambda: infinite_below(0),
        "levels-order-weights": lambda: in_levels(
            "linear", [regularize(LINEAR, 1, 0, 2, 3, 1, b"\0", 5)], [100, 150], coefficients=10
        ),
        "levels-some-axes": lambda: in_levels("linear", [regularize(LINEAR, 1, 3, 0, b"\2", 5)], [100, 150]),
        "levels-two-edits": lambda: in_levels(
            "image",
            [(3, PRUNE), regularize(items(1, "conv1.weight", shape(2, 3, 3, 3)), 0, b"\0", 17)],
            [90, 180],
            coefficients=1,
        ),
        "levels-stem": lambda: in_levels(IMAGE, _stem(), [90, 180], coefficients=1, codecs=("range",)),
    }


def infinite_below(coefficients: int) -> Levels:
    """Return a file whose lowest level has another tensor that is infinite, and whose next one has a sound one."""
    return in_levels(
        "linear",
        [ALL],
        [100],
        coefficients=coefficients,
        types={"bias": 10},
        anew={2: {}},
        parameters={"bias": (1, 80, 100, 0)},
        anew_parameters={2: {"bias": (0, -32, 0, 0)}},
    )


def _packed(made: Levels) -> Levels:
    return replace(made, lowest=replace(made.lowest, packing=fixed_block))


def _stem() -> list[Edit]:
    network, stem = own_class("image"), registered_stem()
    apply(2, Items(stem), network, False, [])
    return [(2, stem), regularize(selected(network, "grouped.weight", "table.weight"), 0, b"\2", 20, 7)]


def cases() -> dict[str, Callable[[], Levels]]:
    """Name -> what makes the file, cut ones before what they were cut from."""
    made: dict[str, Callable[[], Levels]] = {}
    for name, case in {**whole(), **valid_axes.levels(), **valid_dependent.levels()}.items():
        for there in beginnings(name, len(case().parts)):
            made[beginning(name, there)] = partial(_cut, case, there)
        made[name] = case
    return made


def _cut(case: Callable[[], Levels], there: int) -> Levels:
    return replace(case(), there=there)


def beginnings(name: str, num_parts: int) -> range:
    """Return the levels at which the file can be cut: all but those whose network is refused."""
    is_refused = "infinite-below" in name or "shifts-below" in name
    return range(1, 1 if is_refused else num_parts + 1)


def beginning(name: str, there: int) -> str:
    """Return the name of the file that is the first levels of another."""
    return f"{name}-cut-{there}"
