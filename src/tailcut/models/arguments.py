"""Checks of the constructor arguments of networks."""

from tailcut.errors import ArgumentError

MAX_CHANNELS = 1 << 16  # keeps the product of any two, times a kernel, far below 2**63


def check_channels(model: str, *, at_least: int = 1, **counts: int) -> None:
    """Raise `ArgumentError` unless each count is an integer from `at_least` to 65,536."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or not at_least <= count <= MAX_CHANNELS:
            raise ArgumentError(
                f"{model}: {name} must be an integer from {at_least} to {MAX_CHANNELS:,}, got {count!r}"
            )


def check_dropout(model: str, **shares: float) -> None:
    """Raise `ArgumentError` unless each share is a number from 0 up to 1, not included."""
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise ArgumentError(f"{model}: {name} must be a number from 0 up to 1, not included, got {share!r}")
