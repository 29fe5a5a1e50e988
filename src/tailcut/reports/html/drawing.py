"""Matplotlib drawings as page elements: lines and text take the page's colours, light or dark."""

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element, fromstring

from tailcut.plotting import import_matplotlib, new_figure
from tailcut.reports.html.elements import clean, element

DRAWN = "the page of a report"  # for the error without matplotlib
NUM_SERIES = 8
LINE_STYLES = ("solid", "dashed", "dotted")  # matplotlib and CSS call them so
WIDTH, HEIGHT = 3.7, 2.4  # inches
# Placeholders for the page's colours; no drawing uses them otherwise.
INK = "#010203"
_SERIES = tuple(f"#0a0b{number:02x}" for number in range(NUM_SERIES))
_PAGE_COLORS = {INK: "currentColor"} | {color: f"var(--series-{number})" for number, color in enumerate(_SERIES)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tailcut",  # the same drawing gives the same page
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def series_color(number: int) -> str:
    """Return the matplotlib colour of a series; after `NUM_SERIES` they repeat."""
    return _SERIES[number % NUM_SERIES]


def series_style(number: int) -> str:
    """Return the line style of a series, for matplotlib and CSS: another one where the colours repeat."""
    return LINE_STYLES[number // NUM_SERIES % len(LINE_STYLES)]


def drawing(description: str, draw: Callable[[Any], None], *, width: float = WIDTH, height: float = HEIGHT) -> Element:
    """Draw with matplotlib on an empty figure.

    Args:
        description: what it shows, for those who do not see it.
        draw: gets a `matplotlib.figure.Figure`.
        width: in inches; the page scales it.
        height: likewise.

    Returns:
        An `svg` element.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    content = io.BytesIO()
    with import_matplotlib(DRAWN).rc_context(_STYLE):
        figure = new_figure(DRAWN, (width, height))
        draw(figure)
        figure.savefig(content, format="svg", transparent=True)
    return _as_element(content.getvalue().decode(), description)


def label_values(panel: Any) -> None:
    """Label the values of a panel, logarithmic or not, with plain numbers; few decades get labels in between."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    low, high = panel.get_ylim()
    has_few_decades = panel.get_yscale() == "log" and high < 20 * low
    panel.yaxis.set_major_formatter(FuncFormatter(plain_numbers))
    panel.yaxis.set_minor_formatter(FuncFormatter(plain_numbers) if has_few_decades else NullFormatter())


def plain_numbers(value: float, _: object = None) -> str:
    """Return a tick label as plain text: 0.001, 20,000; smaller and larger numbers as 1e-06."""
    return f"{value:,.0f}" if 1 <= abs(value) < 1e6 and value == round(value) else f"{value:g}"


def _as_element(text: str, description: str) -> Element:
    """Return matplotlib's SVG as an element, without the parts of a stand-alone file."""
    text = re.sub("|".join(_PAGE_COLORS), lambda found: _PAGE_COLORS[found[0]], text)
    root = fromstring(text)  # noqa: S314, it was written here
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    for part in root.iter():
        part.tag = part.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in part.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        if "style" in attributes:  # the page names the fonts
            attributes["style"] = re.sub(r" ?font-family: [^;]*;", "", attributes["style"])
        part.attrib.clear()
        part.attrib.update(attributes)
        part.text, part.tail = _not_blank(part.text), _not_blank(part.tail)
    for part in list(root):
        if part.tag == "metadata":
            root.remove(part)
    for definitions in root.iter("defs"):  # its style would hold for the whole page, which has one of its own
        for part in [part for part in definitions if part.tag == "style"]:
            definitions.remove(part)
    kept = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": clean(description)}
    root.attrib.clear()
    root.attrib.update(kept)
    root.insert(0, element("title", description))
    return root


def _not_blank(text: str | None) -> str | None:
    return text if text is not None and text.strip() else None
