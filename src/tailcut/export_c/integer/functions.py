"""Functions of one number in integers: what passes as it is, plus a table between whose numbers lines are drawn."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c.integer.arithmetic import ONE, Ints, rounded, saturated
from tailcut.export_c.program.program import Op, Operation

TOLERANCE = 2.0**-12
"""Of a table's lines, in parts of its largest number, or of the inputs where a function changes."""

MOST_NUMBERS = 2049
"""Of a table."""

FAR = 1e6
"""As a part of the range in which a function changes: here it is what it stays."""

_Floats = npt.NDArray[np.float64]
_FORMULAS: dict[Operation, Callable[[Tensor, float, float], Tensor]] = {
    Operation.SIGMOID: lambda x, low, high: x.sigmoid(),
    Operation.TANH: lambda x, low, high: x.tanh(),
    Operation.SILU: lambda x, low, high: functional.silu(x),
    Operation.HARDSWISH: lambda x, low, high: functional.hardswish(x),
    Operation.GELU: lambda x, low, high: functional.gelu(x),
    Operation.GELU_TANH: lambda x, low, high: functional.gelu(x, approximate="tanh"),
    Operation.ELU: lambda x, low, high: torch.where(x < 0, low * torch.expm1(high * x), x),
    Operation.SOFTPLUS: lambda x, low, high: functional.softplus(x, low, high),
    Operation.MISH: lambda x, low, high: functional.mish(x),
}
FUNCTIONS = frozenset(_FORMULAS)
"""Operations that a table stands for."""

_BOUNDED = (Operation.SIGMOID, Operation.TANH)


@dataclass(frozen=True, eq=False)
class IntegerFunction:
    """A function; see `tailcut_integer_function`.

    f(x) = max(x, 0) where it is rectified, else 0, plus lines between values[n] * 2^exponent at x = (first + n) *
    2^spacing; before the first and behind the last it stays as there.
    """

    values: Ints
    exponent: int
    spacing: int
    first: int
    is_rectified: bool

    @property
    def most(self) -> int:
        """The largest magnitude of the table."""
        return int(np.abs(self.values).max())

    def of(self, rows: Ints, source: Ints, unit: Ints, row_bits: int) -> Ints:
        """Return the function of rows in units of 2^source, in units of 2^unit."""
        most = 1 << row_bits
        low, high = self.first * ONE, (self.first + len(self.values) - 1) * ONE
        place = np.clip(saturated(rows, source - self.spacing + 14, 1 << 30), low, high) - low
        at, part = place >> 14, place & (ONE - 1)
        following = self.values[np.minimum(at + 1, len(self.values) - 1)]
        made = self.values[at] + rounded((following - self.values[at]) * part, 14)
        made = saturated(made, self.exponent - unit, most)
        if self.is_rectified:
            made += np.where(rows > 0, saturated(rows, source - unit, most), 0)
        limited: Ints = np.clip(made, -most, most)
        return limited


def function_of(op: Op) -> IntegerFunction:
    """Return the table of an operation of one number, the same object for the same parameters.

    Raises:
        StructureError: lines between so many numbers do not follow the function.
    """
    return integer_function(op.kind, op.low, op.high)


@functools.cache
def integer_function(kind: Operation, low: float, high: float) -> IntegerFunction:
    """Return the table of an operation of one number with these parameters.

    Raises:
        StructureError: lines between so many numbers do not follow the function.
    """
    is_rectified = kind not in _BOUNDED

    def remainder(x: _Floats) -> _Floats:
        numbers = torch.from_numpy(x)
        made = _FORMULAS[kind](numbers, low, high)
        rest: _Floats = (made - numbers.clamp_min(0) if is_rectified else made).numpy()
        return rest

    # Beside a number of its input's size, what is 1 in the others may be any size: alpha, or 1 / beta.
    width = 1 / abs({Operation.ELU: high, Operation.SOFTPLUS: low}.get(kind, 1.0) or 1.0)
    sample = np.linspace(-64 * width, 64 * width, 1 << 16 | 1)
    numbers = remainder(sample)
    ends = remainder(np.array([-FAR * width, FAR * width]))
    largest = float(np.abs(np.concatenate([numbers, ends])).max())
    if not math.isfinite(largest):
        raise StructureError(f"a {kind.name.lower()} of {low:g} and {high:g}, whose numbers are too large")
    if largest == 0:
        return IntegerFunction(np.zeros(1, np.int64), 0, 0, 0, is_rectified)
    tolerance = TOLERANCE * (max(largest, width) if is_rectified else largest)
    begin = -sample[np.argmax(np.abs(numbers - ends[0]) > tolerance)]
    end = sample[len(sample) - 1 - np.argmax(np.abs(numbers - ends[1])[::-1] > tolerance)]

    def heights(places: _Floats) -> _Floats:
        """At both ends what is beyond: 0 is 0, and 1 is 1, however many are added."""
        found = remainder(places)
        return np.concatenate([ends[:1], found[1:-1], ends[1:]]) if len(found) > 1 else found

    for spacing in range(math.ceil(math.log2(width)) + 2, -40, -1):
        step = 2.0**spacing
        first, last = -max(0, math.ceil(begin / step)), max(0, math.ceil(end / step))
        if last - first >= MOST_NUMBERS:
            break
        places = np.arange(first, last + 1) * step
        lines = np.interp(sample, places, heights(places))
        if np.abs(lines - numbers).max() <= 2 * tolerance:
            exponent = math.ceil(math.log2(largest)) - 15
            values = np.rint(np.ldexp(heights(places), -exponent)).astype(np.int64)
            return IntegerFunction(np.clip(values, -32767, 32767), exponent, spacing, first, is_rectified)
    raise StructureError(f"a {kind.name.lower()} of {low:g} and {high:g}, which jumps")
