import base64
import re
from xml.etree.ElementTree import Element

import pytest
from tests.reports.html.pages import Page, check_page

from tailcut.reports.html.elements import POLICY, PageSection, element, figure, image_element, table, write_page

HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=alert(2)> & </style> &amp;"


def page_of(*parts: Element) -> str:
    return write_page("a page", [], [PageSection("A part", "part", "What it shows.", list(parts))])


def test_text_and_attributes_are_shown_as_they_are() -> None:
    content = write_page(
        HOSTILE, [element("p", HOSTILE)], [PageSection(HOSTILE, "part", HOSTILE, skipped={HOSTILE: HOSTILE})]
    )
    page = check_page(content)
    assert page.text.count(HOSTILE) == 8  # title twice, head, link, heading, introduction, name and reason
    assert "<img" not in content


def test_a_label_is_an_attribute_and_no_more() -> None:
    page = check_page(page_of(table(HOSTILE, ["a"], [["1"]], align="<")))
    assert HOSTILE in [box.get("aria-label") for box in page.all("div")]


def test_characters_that_no_page_may_hold_are_replaced() -> None:
    content = page_of(element("p", "a\x00b\x1bc\ud800d\ufffee", title="\x7f"))
    content.encode()
    assert "a\ufffdb\ufffdc\ufffdd\ufffde" in check_page(content).text


def test_children_stand_in_their_order() -> None:
    made = element("p", "one ", element("b", "two"), " three", " four", element("i", "five"))
    assert "<p>one <b>two</b> three four<i>five</i></p>" in page_of(made)


def test_a_table_scrolls_in_its_own_box_and_names_rows_and_columns() -> None:
    page = check_page(page_of(table("sizes", ["layer", "bytes"], [["conv", "12"], ["fc", "3"]], align="<>")))
    (box,) = [box for box in page.all("div") if box.get("class") == "scroll"]
    assert (box["role"], box["aria-label"], box["tabindex"]) == ("region", "sizes", "0")
    assert [head["scope"] for head in page.all("th")] == ["col", "col", "row", "row"]
    assert [cell["class"] for cell in page.all("td")] == ["right", "right"]


def test_a_table_needs_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="zip"):
        table("sizes", ["layer", "bytes"], [["conv"]], align="<>")


def test_images_lie_in_the_page() -> None:
    page = check_page(page_of(figure(image_element(b"\x89PNG", "png", "a digit", (3, 4)), "a caption")))
    (shown,) = page.all("img")
    assert base64.b64decode(shown["src"].removeprefix("data:image/png;base64,")) == b"\x89PNG"
    assert (shown["alt"], shown["width"], shown["height"]) == ("a digit", "3", "4")


def test_parts_of_drawings_get_names_of_their_own() -> None:
    def svg() -> Element:
        clip, used = element("clipPath", id="a"), element("g", clip_path="url(#a)")
        return element("svg", clip, used, element("use", href="#a"), aria_label="a drawing")

    page = check_page(page_of(svg(), svg()))
    assert [clip["id"] for clip in page.all("clippath")] == ["drawing0-a", "drawing1-a"]
    assert [use["href"] for use in page.all("use")] == ["#drawing0-a", "#drawing1-a"]


def test_the_page_forbids_scripts_and_requests_and_fits_phones() -> None:
    metadata = check_page(page_of()).all("meta")
    assert {"http-equiv": "Content-Security-Policy", "content": POLICY} in metadata
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metadata
    assert POLICY.startswith("default-src 'none'")


def test_the_style_knows_light_and_dark() -> None:
    style = re.search(r"<style>(.*?)</style>", page_of(), re.DOTALL)
    assert style is not None
    light, dark = (
        set(re.findall(r"(--[\w-]+):", part)) for part in style[1].split("@media (prefers-color-scheme: dark)")
    )
    assert dark <= light
    assert set(re.findall(r"var\((--[\w-]+)\)", style[1])) <= light


def test_one_reason_is_told_once() -> None:
    page = check_page(
        write_page("a", [], [PageSection("A", "a", "b", skipped={"x": "same", "y": "same", "z": "other"})])
    )
    assert "x, y: same" in page.text
    assert page.text.count("same") == 1


def test_sections_are_linked() -> None:
    page = check_page(page_of())
    assert {"href": "#part"} in page.all("a")
    assert page.all("section") == [{"id": "part", "aria-labelledby": "part-title"}]


@pytest.mark.parametrize("content", ["<p><b></p></b>", "<p>", "<p a='1' a='2'></p>"])
def test_the_reader_of_these_tests_is_strict(content: str) -> None:
    with pytest.raises(AssertionError):
        Page(f"<!DOCTYPE html>{content}")
