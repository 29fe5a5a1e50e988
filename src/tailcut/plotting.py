"""Matplotlib figures written as PNG files, without a display."""

import io
from pathlib import Path
from typing import Any

from tailcut.errors import MissingExtraError
from tailcut.files import check_output_path, write_atomically


def import_matplotlib(what: str) -> Any:
    """Import `matplotlib` with the parts that draw without a display.

    Args:
        what: what shall be drawn, for the error.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtraError(what, "matplotlib", "plots") from error
    return matplotlib


def new_figure(what: str, size: tuple[float, float]) -> Any:
    """Return an empty `matplotlib.figure.Figure`.

    Args:
        what: what shall be drawn, for the error.
        size: width and height in inches, at 110 pixels each.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = import_matplotlib(what)
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained", facecolor="white")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    return figure


def check_figure_path(path: str | Path, what: str) -> None:
    """Raise an error if `what` cannot be drawn there as a PNG; for what would notice only after hours of work.

    Raises:
        ArgumentError, OSError: as `check_output_path`.
        MissingExtraError: matplotlib is not installed.
    """
    check_output_path(path, ".png")
    import_matplotlib(what)


def write_figure(figure: Any, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Its texts are shown as they are (changes the figure): a name may hold dollar signs. The powers of ten at logarithmic
    axes, which matplotlib itself writes as formulas, stay.
    """
    from matplotlib.text import Text

    logarithmic = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis) if axis.get_scale() == "log"]
    formulas = {text for axis in logarithmic for text in axis.findobj(Text) if text is not axis.label}
    for text in set(figure.findobj(Text)) - formulas:
        text.set_parse_math(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(path, content.getvalue())
