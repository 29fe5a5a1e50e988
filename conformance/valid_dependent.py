"""The valid files of codec 5: numbers that depend on those before them."""

from collections.abc import Callable, Sequence
from functools import partial

from conformance.level_writer import Levels, in_levels
from conformance.reference.quantized import STATES
from conformance.valid import ALL, CHAIN, OWN_TYPES, named, own, regularize
from conformance.writer import Draft, items, shape


def allowed(coded: Sequence[int]) -> list[int]:
    """Return the multiples of a row that are coded so."""
    found, state = [], 0
    for number in coded:
        odd = state % 2
        found.append(2 * number - odd * ((number > 0) - (number < 0)))
        state = STATES[state][number % 2]
    return found


PLANE = regularize(items(1, "plane.weight", shape(3, 2, 3, 3)), 0, b"\0", 31)
# (transform, step, offset, count); a transform from 4 on says that the numbers depend on one another.
PLAIN, COEFFICIENTS = (4, -32, 0, 0), (4, -20, 0, 0)
EVERY = [0, 1, -1, 2, -2, 3, -3, 4, 5, -6, 7, -8, 9, 30, -31, 1000, -1001, 0, 0, 1, 0, 0, 2]

linear = partial(own, "linear", types={"weight": 10}, quantized_codec=5)
wide = partial(
    named, CHAIN, arguments=[(0, [300, 3, 2])], types={"layer0.weight": 10, "layer1.weight": 10}, quantized_codec=5
)


def weight(numbers: Sequence[int], parameters: Sequence[int] = PLAIN) -> Callable[[], Draft]:
    """A linear layer, whose weight has these numbers; those that the states do not allow become others."""
    return lambda: linear(numbers={"weight": list(numbers)}, parameters={"weight": parameters})


def alone() -> dict[str, Callable[[], Draft]]:
    """One such tensor."""
    large = 2**20 - 1
    return {
        "weight": weight([3, -2, 1, 5, 0, 4]),
        "zeros": weight([0] * 6),
        "cut": weight([7, -1, 2], (4, -20, 0, 4)),
        "none-kept": weight([], (4, -20, 0, 1)),
        "offset": weight([1, 2, -3, 4, -5, 6], (4, -24, 3, 0)),
        "logarithm": weight([1, 0, -4, -3, 2, 1], (5, -24, 0, 0)),
        "transform": weight([40, -7, 3, 0, 2, 9], (6, -24, 0, 0)),
        "largest": weight([2 * large, -2 * large, 2 * large - 1, 1 - 2 * large, large, 0], (4, -100, 0, 0)),
        "shifts": lambda: linear(
            numbers={"weight": [3, -2, 1, 5, 0, 4]},
            parameters={"weight": PLAIN},
            shifts={"weight": {0: [-3, 8], 1: [0, 4, -7]}},
        ),
        "nothing-depends": lambda: own("linear", types={"weight": 10, "bias": 10}, quantized_codec=5),
        "bias": lambda: own("linear", types={"bias": 10}, parameters={"bias": PLAIN}, quantized_codec=5),
        "empty": lambda: own(
            "empty", types={"weight": 10, "bias": 10}, parameters={"weight": PLAIN}, quantized_codec=5
        ),
        # Rows that are longer than what depends on one another.
        "long-rows": lambda: wide(
            parameters={"layer0.weight": PLAIN, "layer1.weight": (0, -30, 0, 0)},
            numbers={"layer0.weight": (EVERY * 40)[:900]},
        ),
    }


def together() -> dict[str, Callable[[], Draft]]:
    """Several tensors, of which some depend on themselves."""
    every = dict.fromkeys(("line.weight", "plane.weight", "space.weight"), (7, -40, 0, 0))
    every |= dict.fromkeys(("linear.weight", "table.weight", "plane.bias"), (4, -17, 0, 0))
    several = partial(own, "own", types=OWN_TYPES, quantized_codec=5)
    rest = {name: number for name, number in OWN_TYPES.items() if name != "plane.weight"}
    return {
        "several": lambda: several(parameters=every),
        "some": lambda: several(parameters={"plane.weight": (7, -24, 0, 0), "table.weight": (4, -17, 0, 9)}),
        "coefficients": lambda: own(
            "own",
            [PLANE],
            coefficients=10,
            types=rest,
            quantized_codec=5,
            numbers={"plane.weight": (EVERY + EVERY)[:31]},
            parameters={"plane.weight": COEFFICIENTS, "linear.weight": PLAIN},
            shifts={"linear.weight": {0: [5, 4, 3, 2, 1]}},
        ),
        "coefficients-cut": lambda: own(
            "own",
            [PLANE],
            coefficients=10,
            quantized_codec=5,
            numbers={"plane.weight": EVERY},
            parameters={"plane.weight": (4, -20, 0, len(EVERY) + 1)},
        ),
        "coefficients-alone": lambda: own("linear", [ALL], coefficients=10, quantized_codec=5),
    }


def levels() -> dict[str, Callable[[], Levels]]:
    """Name -> what makes a file with levels: the states go on from the numbers of the levels below."""
    types = {"linear.weight": 10, "table.weight": 10, "linear.bias": 10, "kept.table": 11}
    several = partial(
        in_levels,
        "own",
        [PLANE],
        [60, 200],
        types=types,
        quantized_codec=5,
        coefficients=10,
        numbers={"plane.weight": allowed((EVERY + EVERY)[:31]), "linear.weight": allowed([1, -2, 3, 0, 5, -4]) * 5},
        parameters={"plane.weight": COEFFICIENTS, "linear.weight": PLAIN},
    )
    return {
        "levels-dependent": several,
        "levels-dependent-cut": lambda: several(cuts={3: {"plane.weight": 2}}),
        "levels-dependent-anew": lambda: several(anew={2: {"linear.weight": allowed([4, 1, 0, 0, -7, 2]) * 5}}),
    }


def cases() -> dict[str, Callable[[], Draft]]:
    """Name -> what makes the draft of a file."""
    return {f"dependent-{name}": case for name, case in {**alone(), **together()}.items()}
