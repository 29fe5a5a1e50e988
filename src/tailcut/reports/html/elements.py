"""Elements of an HTML page as a tree; text is escaped when the page is written."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from xml.etree.ElementTree import Element, tostring

# What no page may hold: control characters but tab and line feed, and halves of surrogate pairs.
_NO_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# No external resource is loaded and no script runs, even if a name or a recipe holds HTML.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

Child = Element | str


@dataclass
class PageSection:
    """A part of a report's page.

    Attributes:
        title: its heading.
        anchor: its id in the page.
        introduction: what there is to see, in a sentence or two.
        body: the elements below.
        skipped: by name of a network, why it is not in this part.
    """

    title: str
    anchor: str
    introduction: str
    body: list[Element] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def element(tag: str, *children: Child, **attributes: str) -> Element:
    """Return an element with these children, in order; any text is escaped.

    Args:
        tag: `p`, `table`, ...
        children: elements and text.
        attributes: `class_` gives `class`, `aria_label` gives `aria-label`.
    """
    made = Element(tag, {name.rstrip("_").replace("_", "-"): clean(value) for name, value in attributes.items()})
    for child in children:
        append(made, child)
    return made


def append(parent: Element, child: Child) -> None:
    """Add an element or text behind the children that `parent` has."""
    if isinstance(child, Element):
        parent.append(child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + clean(child)
    else:
        parent.text = (parent.text or "") + clean(child)


def clean(text: str) -> str:
    """`text` with a replacement character for each that a page must not hold."""
    return _NO_CHARACTERS.sub("\ufffd", text)


def table(label: str, header: Sequence[str], rows: Sequence[Sequence[Child]], *, align: str) -> Element:
    """Return a table that scrolls horizontally if it is wider than the page.

    Args:
        label: what the table shows, for those who do not see it.
        header: one title per column.
        rows: the cells; the first of each row names it.
        align: one character per column, `<` left or `>` right.
    """
    sides = ["right" if side == ">" else "left" for side in align]
    head = element(
        "tr", *(element("th", title, scope="col", class_=side) for title, side in zip(header, sides, strict=True))
    )
    body = element("tbody")
    for row in rows:
        first, *rest = zip(row, sides, strict=True)
        cells = [element("td", cell, class_=side) for cell, side in rest]
        body.append(element("tr", element("th", first[0], scope="row", class_=first[1]), *cells))
    whole = element("table", element("thead", head), body)
    return element("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


def figure(image: Element, *caption: Child) -> Element:
    """Return an image with its caption."""
    return element("figure", image, element("figcaption", *caption))


def image_element(content: bytes, kind: str, description: str, size: tuple[int, int]) -> Element:
    """Return an image embedded in the page.

    Args:
        content: of the file.
        kind: `png` or `jpeg`.
        description: what it shows, for those who do not see it.
        size: width and height in pixels.
    """
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return element("img", src=source, alt=description, width=str(size[0]), height=str(size[1]))


def write_page(title: str, head: Sequence[Element], sections: Sequence[PageSection]) -> str:
    """Return the whole page as HTML.

    Args:
        title: of the page.
        head: what stands before the first section.
        sections: in their order.
    """
    links = [element("li", element("a", section.title, href=f"#{section.anchor}")) for section in sections]
    navigation = element("nav", element("ul", *links), aria_label="Sections")
    main = element("main", *(_section(section) for section in sections))
    style = resources.files("tailcut.reports.html").joinpath("page.css").read_text(encoding="utf-8")
    metadata: list[Mapping[str, str]] = [
        {"charset": "utf-8"},
        {"http-equiv": "Content-Security-Policy", "content": POLICY},
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
        {"name": "color-scheme", "content": "light dark"},
    ]
    page = element(
        "html",
        element("head", *(Element("meta", dict(entry)) for entry in metadata), element("title", title)),
        element("body", element("header", element("h1", title), *head), navigation, main),
        lang="en",
    )
    page[0].append(element("style", style))
    _part_identifiers(page)
    return f"<!DOCTYPE html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _section(section: PageSection) -> Element:
    heading = element("h2", section.title, id=f"{section.anchor}-title")
    made = element("section", heading, id=section.anchor, aria_labelledby=f"{section.anchor}-title")
    made.append(element("p", section.introduction))
    made.extend(section.body)
    for reason in dict.fromkeys(section.skipped.values()):
        names = ", ".join(name for name, own in section.skipped.items() if own == reason)
        made.append(element("p", element("strong", names), f": {reason}", class_="left-out"))
    return made


def _part_identifiers(page: Element) -> None:
    """Make the ids of a drawing unique: drawings use the same ones."""
    for number, drawing in enumerate(page.iter("svg")):
        for part in drawing.iter():
            for name, value in part.attrib.items():
                if name == "id":
                    part.set(name, f"drawing{number}-{value}")
                elif name == "href" and value.startswith("#"):
                    part.set(name, f"#drawing{number}-{value[1:]}")
                elif "url(#" in value:
                    part.set(name, value.replace("url(#", f"url(#drawing{number}-"))
