"""Common parts of the loops that numba compiles. Import it only where numba is installed.

Values of one strip of positions stay in the first-level cache. Innermost loops run over the last axis of arrays by
a plain counter and take four rows at once, which the compiler turns into whole vectors.
"""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from tailcut import compiling

Array = np.ndarray[Any, Any]
Loop = TypeVar("Loop", bound=Callable[..., None])

_numba: Any = importlib.import_module("numba")
_intrinsic: Any = importlib.import_module("numba.extending").intrinsic


def compile_loop(loop: Loop) -> Loop:
    """Compile at the first call; sums may be reordered, but NaN and infinity are kept."""
    return compiling.compile_loop(loop, fastmath={"contract", "reassoc"})


@_intrinsic  # type: ignore[untyped-decorator]
def wide_vectors(context: Any) -> Any:
    """Let a loop use the widest vectors that the processor has: by itself the compiler stops at half of them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite checks the names of attributes against a list of its own, which lacks this one.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return _numba.types.void(), generate


@compile_loop
def copy_row(source: Array, row: int, start: int, into: Array, at: int, n: int) -> None:
    """Copy n numbers of a row from `start` on to `into` from `at` on; zeros if the row is -1."""
    if row < 0:
        into[at : at + n] = 0
    else:
        for p in range(n):
            into[at + p] = source[row, start + p]
