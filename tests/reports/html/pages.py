"""Reads a page strictly: every element closed, every link within the page resolved, nothing from elsewhere."""

import re
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "img", "br", "hr", "link", "input"}
LINKS = {"href", "src", "srcset", "action", "data", "poster", "xlink:href"}


class Page(HTMLParser):
    """What a page holds; an error if it is not well-formed.

    Attributes:
        elements: tag and attributes of each element, in order.
        text: all text outside `style`.
    """

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.declarations: list[str] = []
        self._open: list[str] = []
        self.feed(content)
        self.close()
        assert self._open == []
        assert self.declarations == ["DOCTYPE html"]

    def handle_decl(self, decl: str) -> None:
        self.declarations.append(decl)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of {tag} stands twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all elements of that kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(content: str) -> Page:
    """Read a page and check what holds for every one of ours."""
    page = Page(content)
    values = [(tag, name, value) for tag, attributes in page.elements for name, value in attributes.items()]
    identifiers = [value for _, name, value in values if name == "id"]
    assert len(set(identifiers)) == len(identifiers)
    wanted = {value[1:] for _, name, value in values if name in LINKS and value.startswith("#")}
    wanted |= {found for _, _, value in values for found in re.findall(r"url\(#([^)]+)\)", value)}
    wanted |= {found for _, name, value in values if name == "aria-labelledby" for found in value.split()}
    assert wanted - set(identifiers) == set()
    elsewhere = [value for _, name, value in values if name in LINKS and not value.startswith(("#", "data:image/"))]
    assert elsewhere == []
    assert not re.search(r"@import|url\((?!#)", content)
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "form"} == set()
    assert [name for _, name, _ in values if name.startswith("on")] == []
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) >= 1
    assert len(page.all("h1")) == 1
    assert all(image.get("alt") for image in page.all("img"))
    assert all(drawing.get("aria-label") for drawing in page.all("svg"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    return page
