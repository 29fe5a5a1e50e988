"""Numbers that the states of codec 5 allow, for tests."""

import numpy as np

from tailcut.format.quantized import Layout, loops


def allowed(coded: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the multiples that are coded so in a trellis."""
    trellis, found = [layout.row, 0, 0], []
    for number in coded.tolist():
        found.append(loops.multiple(number, trellis))
        assert loops.coded_number(found[-1], trellis) == number
        loops.follow(abs(number), trellis)
    return np.array(found, np.int64)
