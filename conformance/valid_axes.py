"""The valid files of codec 4: steps that differ along axes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from conformance.level_writer import Levels, in_levels
from conformance.valid import ALL, CHAIN, OWN_TYPES, PRUNE, named, own, regularize
from conformance.writer import Draft, items, shape

Along = dict[int, list[int]]
KERNEL: Along = {0: [3, 0, -2], 1: [0, 5], 2: [-1, 0, 1], 3: [2, 0, -4]}
SPACE: Along = {0: [0, 1], 1: [7], 2: [-3, 0, 3], 3: [0, 0, 2], 4: [1, -1, 0]}
PLANE = regularize(items(1, "plane.weight", shape(3, 2, 3, 3)), 0, b"\0", 31)

linear = partial(own, "linear", types={"weight": 10}, quantized_codec=4)


def along(
    shifts: Along, numbers: Sequence[int] | None = None, parameters: Sequence[int] = (0, -32, 0, 0)
) -> Callable[[], Draft]:
    """A linear layer, whose weight has these shifts, parameters and coded numbers."""
    given = {} if numbers is None else {"weight": list(numbers)}
    return lambda: linear(numbers=given, parameters={"weight": parameters}, shifts={"weight": shifts})


def alone() -> dict[str, Callable[[], Draft]]:
    """One tensor with shifts."""
    large = 2**20 - 1
    return {
        "columns": along({1: [0, 4, -7]}),
        "rows": along({0: [-3, 8]}),
        "rows-and-columns": along({0: [-3, 8], 1: [0, 4, -7]}),
        "none": along({}),
        "zeros": along({0: [0, 0], 1: [0, 0, 0]}),
        "cut-with-offset": along({0: [2, -2], 1: [1, 0, 30]}, [5, -6], (0, -20, 9, 3)),
        "none-kept": along({1: [1, -1, 6]}, [], (0, -20, 9, 1)),
        "logarithm": along({0: [1, 0], 1: [0, -8, -16]}, parameters=(1, -24, 3, 0)),
        "transform": along({0: [-12, 4], 1: [0, 3, 0]}, parameters=(2, -24, 0, 0)),
        "transform-cut": along({1: [0, 3, -9]}, [40, -7, 3], (2, -24, 0, 4)),
        "furthest": along({0: [-100, 50], 1: [60, 110, -80]}, [1, -1, 2, 0, 1, 3], (0, -40, 0, 0)),
        # -400 + 800 and 400 - 800
        "finest-to-coarsest": along({0: [0, 400]}, [1, 2, 3, 1, 2, -3], (0, -400, 0, 0)),
        "coarsest-to-finest": along({1: [0, -400, 0]}, [1, 2, 3, 1, 2, -3], (0, 400, 0, 0)),
        # Sums of what is far beyond the range of a step.
        "cancelled": along({0: [large, large - 7], 1: [-large, 3 - large, -large]}),
        "empty": lambda: own(
            "empty",
            types={"weight": 10, "bias": 10},
            quantized_codec=4,
            shifts={"weight": {0: [4, 200, -150], 1: []}},
        ),
        "one-axis": lambda: own("linear", types={"bias": 10}, quantized_codec=4),
        "half": lambda: own("half", types={"weight": 10}, quantized_codec=4, shifts={"weight": {0: [0, 9]}}),
        "registered": lambda: named(
            CHAIN,
            arguments=[(0, [4, 3, 2])],
            types={"layer0.weight": 10, "layer0.bias": 10, "layer1.weight": 10, "norm.num_batches_tracked": 11},
            quantized_codec=4,
            shifts={"layer0.weight": {1: [0, 3, -3, 9]}, "layer1.weight": {0: [1, -1], 1: [0, 5, 0]}},
        ),
        "prune": lambda: own(
            "image",
            [(3, PRUNE)],
            types={"conv1.weight": 10, "head.weight": 10, "steps": 11},
            quantized_codec=4,
            shifts={"conv1.weight": {1: [0, 3, -3]}},
        ),
    }


def together() -> dict[str, Callable[[], Draft]]:
    """Several tensors of a key, and other numbers beside them."""
    shifts: Mapping[str, Along] = {
        "line.weight": {0: [1, 2, 0], 2: [-5, 0, 5]},
        "plane.weight": KERNEL,
        "space.weight": SPACE,
        "linear.weight": {1: [0, 1, 2, 3, 4, -60]},
    }
    several = partial(own, "own", types=OWN_TYPES, quantized_codec=4, shifts=shifts)
    transforms = {
        "line.weight": (3, -40, 0, 0),
        "plane.weight": (3, -24, 0, 0),
        "plane.bias": (1, 3, -2, 0),
        "space.weight": (3, -9, 0, 40),
        "linear.weight": (2, -100, 0, 0),
        "table.weight": (0, -17, -5, 1),
    }
    kernel = partial(own, "own", types={"plane.weight": 10}, quantized_codec=4, shifts={"plane.weight": KERNEL})
    return {
        "kernel": lambda: kernel(parameters={"plane.weight": (3, -30, 0, 0)}),
        "kernel-cut": lambda: kernel(
            numbers={"plane.weight": [*range(-20, 20)]}, parameters={"plane.weight": (3, -30, 0, 41)}
        ),
        "five-axes": lambda: own("own", types={"space.weight": 10}, quantized_codec=4, shifts={"space.weight": SPACE}),
        "differences": several,
        "differences-transforms": lambda: several(parameters=transforms),
        "with-integers": lambda: several(
            types=OWN_TYPES | {"kept.table": 11, "kept.steps": 11},
            numbers={"kept.table": [-32768, 32767, -1, 0, 1, 256, -256, 255], "kept.steps": [0]},
        ),
        "coefficients": lambda: own(
            "own",
            [PLANE],
            coefficients=10,
            types={name: number for name, number in OWN_TYPES.items() if name != "plane.weight"},
            quantized_codec=4,
            shifts={"line.weight": {1: [0, 6]}, "linear.weight": {0: [5, 4, 3, 2, 1]}},
        ),
        "coefficients-alone": lambda: own("linear", [ALL], coefficients=10, quantized_codec=4),
        "plain-coefficients": lambda: own(
            "own", [PLANE], types={"table.weight": 10}, quantized_codec=4, shifts={"table.weight": {1: [0, 6, 1, -30]}}
        ),
    }


def levels() -> dict[str, Callable[[], Levels]]:
    """Name -> what makes a file with levels."""
    matrix = {"weight": {1: [0, 2, -6, 3]}}
    types = {"linear.weight": 10, "table.weight": 10, "linear.bias": 10, "kept.table": 11}
    shifts = {"linear.weight": {0: [0, 1, 2, 3, -9]}, "table.weight": {0: [4] * 7, 1: [0, -8, 0, 8]}}
    several = partial(in_levels, "own", [PLANE], [60, 200], types=types, quantized_codec=4, shifts=shifts)
    chain = [(0, [4, 3, 2])]
    first = regularize(b"\4", 0, b"\1", 1.0)  # layer1.weight
    return {
        "levels-axes": lambda: several(coefficients=10),
        "levels-axes-others": lambda: several(
            coefficients=10,
            anew={2: {"linear.weight": [7] * 30}, 3: {"kept.table": [5] * 8}},
            anew_shifts={
                2: {"linear.weight": {1: [0, 9, 0, -9, 0, 1]}},
                3: {"linear.weight": {}, "table.weight": {0: [1, 2, 3, 4, 5, 6, 7], 1: [0, 1, 0, 1]}},
            },
            cuts={3: {"plane.weight": 2}},
        ),
        "levels-axes-plain-coefficients": lambda: several(
            coefficients=1, codecs=("range",), anew={2: {}, 3: {"table.weight": [-1] * 28}}
        ),
        "levels-axes-coefficients-alone": lambda: in_levels(
            "linear", [ALL], [100, 150], coefficients=10, quantized_codec=4
        ),
        "levels-axes-registered": lambda: in_levels(
            CHAIN,
            [first],
            [64, 128],
            arguments=chain,
            coefficients=10,
            types={"layer0.weight": 10, "norm.weight": 10},
            quantized_codec=4,
            shifts={"layer0.weight": matrix["weight"]},
            anew={3: {}},
            anew_shifts={3: {"layer0.weight": {0: [1, 0, -1]}}},
        ),
        "levels-axes-shifts-below": lambda: shifts_below(10),
        "levels-axes-shifts-below-alone": lambda: shifts_below(0),
    }


def shifts_below(coefficients: int) -> Levels:
    """Return a file whose lowest level has another tensor with too large shifts, and whose next one has a sound one."""
    return in_levels(
        "own",
        [PLANE],
        [100],
        coefficients=coefficients,
        types={"table.weight": 10},
        quantized_codec=4,
        shifts={"table.weight": {0: [0, 900, 0, 2**20 - 1, -(2**20) + 1, 5, 6], 1: [2**20 - 1] * 4}},
        anew={2: {}},
        anew_shifts={2: {"table.weight": {1: [0, 300, 400, 1]}}},
        parameters={"table.weight": (0, -400, 0, 0)},
        anew_parameters={2: {"table.weight": (0, -400, 0, 0)}},
    )


def cases() -> dict[str, Callable[[], Draft]]:
    """Name -> what makes the file, of those without levels."""
    return {f"axes-{name}": case for name, case in {**alone(), **together()}.items()}
