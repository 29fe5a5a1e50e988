"""Checks of the arguments that networks are built with."""

from tailcut.errors import ArgumentError

MAX_CHANNELS = 1 << 16  # keeps the product of any two, times a kernel, far below 2**63


def check_channels(model: str, **counts: int) -> None:
    """Raise `ArgumentError` unless each count is an integer from 1 to 65,536."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_CHANNELS:
            raise ArgumentError(f"{model}: {name} must be an integer from 1 to {MAX_CHANNELS:,}, got {count!r}")
