"""Pieces of Markdown that the generated parts of the pages are made of."""

from tailcut.printing import markdown_table as markdown_table


def percent(value: float) -> str:
    """0.9752 as `97.52 %`."""
    return f"{100 * value:.2f} %"


def counted(number: int, what: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
