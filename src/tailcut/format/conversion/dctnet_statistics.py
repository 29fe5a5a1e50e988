"""Channel statistics of the networks of "Learning in the Frequency Domain", read from the authors' source code."""

import ast
import math
from pathlib import Path

from tailcut.errors import DataError

NAMES = ("train_upscaled_static_mean", "train_upscaled_static_std")
COUNT = 192
MAX_BYTES = 1 << 20


def read_statistics(path: str | Path) -> tuple[list[float], list[float]]:
    """Read mean and spread of the 192 channels from a Python file, without running it.

    Args:
        path: a file that binds `train_upscaled_static_mean` and `train_upscaled_static_std` to lists of 192 numbers
            (luma, blue and red chroma, 64 each, row by row), as the source code of DCTNet does.

    Raises:
        DataError: it is too large, no Python, or does not hold these lists.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    content = path.read_bytes()[: MAX_BYTES + 1]
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: expected the source file of DCTNet with its statistics, at most {MAX_BYTES:,} bytes")
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: expected a Python file with {' and '.join(NAMES)}; it cannot be parsed") from error
    values = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    mean, spread = (_numbers(values.get(name), name, path) for name in NAMES)
    if min(spread) <= 0:
        raise DataError(f"{path}: {NAMES[1]} must be positive")
    return mean, spread


def _numbers(node: ast.expr | None, name: str, path: Path) -> list[float]:
    try:
        found = ast.literal_eval(node) if isinstance(node, (ast.List, ast.Tuple)) else ()
        numbers = [float(value) for value in found]
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError):
        numbers = []
    if len(numbers) != COUNT or not all(map(math.isfinite, numbers)):
        raise DataError(f"{path}: expected {name}, a list of {COUNT} numbers, as the source code of DCTNet has it")
    return numbers
