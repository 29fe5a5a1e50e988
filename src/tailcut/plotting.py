"""Matplotlib figures written as PNG files, without a display."""

import io
from pathlib import Path
from typing import Any

from tailcut.errors import MissingExtraError
from tailcut.files import write_atomically


def new_figure(what: str, size: tuple[float, float]) -> Any:
    """Return an empty `matplotlib.figure.Figure`.

    Args:
        what: what shall be drawn, for the error.
        size: width and height in inches, at 110 pixels each.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(what, "matplotlib", "plots") from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Any, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all. Its texts are shown as they are (changes the figure)."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name may hold dollar signs
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(path, content.getvalue())
