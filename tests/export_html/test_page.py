"""Pages in a browser: the same answers as `tailcut predict`, for those who see, hear, touch or type."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.export_html.conftest import Pages
from tools.chromium import Tab
from torch.nn.functional import interpolate

import tailcut
from tailcut.data import open_dataset, read_image
from tailcut.evaluation.metrics.class_metrics import foreground
from tailcut.export_html import export_html
from tailcut.structure import set_image_size
from tailcut.tasks.prediction.predict import predict
from tailcut.tasks.prediction.reading import image_size_of, read_as_trained

UNET, LENET = "unet-759-float16", "lenet5-776"
ROUNDING = 1e-5


def input_of(tab: Tab) -> np.ndarray:
    numbers: list[float] = tab.evaluate("Array.from(tailcut.last.input)")
    shape: list[int] = tab.evaluate("tailcut.last.program.input")
    return np.asarray(numbers, dtype=np.float32).reshape(shape)


def mask_of(tab: Tab, height: int, width: int) -> np.ndarray:
    text = tab.evaluate(f"tailcut.mask({height}, {width}).join('')")
    mask: np.ndarray = np.frombuffer(text.encode(), np.uint8).reshape(height, width) == ord("1")
    return mask


def classes_of(tab: Tab) -> list[float]:
    found = tab.evaluate("Array.from(tailcut.last.probabilities)")
    assert isinstance(found, list)
    return found


def digit(folder: Path, index: int = 6) -> tuple[Path, int]:
    """A handwritten digit of scikit-learn as a PNG, light on dark, and its class."""
    image, label = open_dataset("digits", "test")[index]
    path = folder / "digit.png"
    Image.fromarray((image[0].numpy() * 255).round().astype(np.uint8)).save(path)
    return path, int(label)


@pytest.mark.slow
def test_the_mask_of_a_photo_is_that_of_python(carvana_root: Path, pages: Pages, tab: Tab, tmp_path: Path) -> None:
    photo = sorted((carvana_root / "carvana" / "val" / "images").iterdir())[3]
    model = tailcut.load(f"zoo:{UNET}")
    tab.open(pages(UNET))
    tab.choose(photo)
    assert "Foreground: " in tab.text("status")

    # The photo as it is: resized by the page, its mask enlarged again.
    image = read_image(photo, channels=3, size=(320, 480))
    assert np.abs(input_of(tab) - image[0].numpy()).max() < 1.01 / 255  # another JPEG decoder rounds otherwise
    with torch.no_grad():
        logits = tailcut.to_dense(model).eval()(image)
    wanted = foreground(interpolate(logits, size=(640, 959), mode="bilinear"))[0].numpy()
    assert 0.1 < wanted.mean() < 0.9
    assert (mask_of(tab, 640, 959) != wanted).mean() < 1e-3

    # A photo in the size of the page, without loss: that of `predict` but for rounding.
    small = tmp_path / "small.png"
    Image.open(photo).resize((480, 320)).save(small)
    tab.choose(small)
    np.testing.assert_array_equal(input_of(tab), read_image(small, channels=3)[0].numpy())
    predict(model, [small], tmp_path / "masks")
    wanted = np.asarray(Image.open(tmp_path / "masks" / "small.png"))
    assert (mask_of(tab, 320, 480) != wanted).sum() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [(70, 50), (33, 71), (300, 28), (20, 20)])
def test_the_middle_of_a_photo_goes_in_where_the_network_learned_middles(
    size: tuple[int, int], tab: Tab, tmp_path: Path
) -> None:
    model = tailcut.load(f"zoo:{LENET}")
    set_image_size(model, (28, 28), shorter_side=35)
    export_html(model, tmp_path / "page.html")
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    tab.open(tmp_path / "page.html")
    tab.choose(tmp_path / "photo.png")
    wanted = read_as_trained(tmp_path / "photo.png", image_size_of(model, "the test"))[0].numpy()
    assert wanted.shape == (1, 28, 28)
    np.testing.assert_allclose(input_of(tab), wanted, atol=0.5 / 255)  # grey is whole in the browser


@pytest.mark.slow
def test_an_upright_photo_takes_the_upright_program(pages: Pages, tab: Tab, tmp_path: Path) -> None:
    """Also one that is upright by its EXIF data only."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it to the right
    for name in ("turned.png", "turned.jpg"):
        Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / name, exif=exif)
    tab.open(pages(UNET))
    for name, close in {"upright.png": 1e-5, "turned.png": 1e-5, "turned.jpg": 1.01 / 255}.items():
        tab.choose(tmp_path / name)
        wanted = read_image(tmp_path / name, channels=3, size=(480, 320))[0].numpy()
        np.testing.assert_allclose(input_of(tab), wanted, atol=close)
    # What is prepared for one program is not taken for another one.
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "wide.png")
    masks = []
    for name in ("upright.png", "wide.png", "upright.png"):
        tab.choose(tmp_path / name)
        masks.append(mask_of(tab, *((60, 90) if name == "wide.png" else (90, 60))))
    assert masks[1].shape == (60, 90)
    np.testing.assert_array_equal(masks[0], masks[2])


def test_classes_are_those_of_predict(pages: Pages, tab: Tab, tmp_path: Path) -> None:
    path, label = digit(tmp_path)
    report = predict(tailcut.load(f"zoo:{LENET}"), [path])
    tab.open(pages(LENET))
    tab.choose(path)
    best = report.predictions[0]["best"]
    assert report.predictions[0]["class_number"] == label
    found = classes_of(tab)
    assert len(found) == 10
    for one in best:
        assert abs(found[one["class_number"]] - one["probability"]) < ROUNDING
    assert tab.text("status").startswith(f"{label}: {100 * best[0]['probability']:.1f} %, in ")
    rows = tab.evaluate("[...document.querySelectorAll('#classes tbody tr')].map((row) => row.innerText)")
    assert [row.split()[0] for row in rows[:3]] == [str(one["class_number"]) for one in best]


def test_dark_digits_on_light_paper(pages: Pages, tab: Tab, tmp_path: Path) -> None:
    path, label = digit(tmp_path)
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    tab.open(pages(LENET))
    tab.choose(path)
    tab.evaluate("document.getElementById('invert').click()")
    tab.wait_for(f"document.getElementById('status').textContent.startsWith('{label}: ')")
    wanted = predict(tailcut.load(f"zoo:{LENET}"), [path], invert=True).predictions[0]
    assert abs(classes_of(tab)[label] - wanted["probability"]) < ROUNDING


@pytest.mark.parametrize("size", [(28, 28), (300, 217), (9, 31), (1, 1)], ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "LA"])
def test_images_of_any_kind_are_read_as_in_python(
    mode: str, size: tuple[int, int], pages: Pages, tab: Tab, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (*size, 4), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "image.png")
    wanted = read_image(tmp_path / "image.png", channels=1, size=(28, 28))[0].numpy()
    tab.open(pages(LENET))
    tab.choose(tmp_path / "image.png")
    # Where it is transparent, white shines through with another rounding.
    close = 2.01 / 255 if mode in ("RGBA", "LA") else 1e-5
    np.testing.assert_allclose(input_of(tab), wanted, atol=close)


def drop(tab: Tab, files: dict[str, str]) -> None:
    """Drop files of text on the page."""
    tab.evaluate(
        f"(() => {{ const files = Object.entries({json.dumps(files)}), dataTransfer = new DataTransfer();"
        "for (const [name, text] of files) dataTransfer.items.add(new File([text], name));"
        "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true })); })()"
    )
    tab.wait_for("!document.getElementById('error').hidden")


def test_bad_files_are_one_clear_error(pages: Pages, tab: Tab, tmp_path: Path) -> None:
    path, label = digit(tmp_path)
    tab.open(pages(LENET))
    tab.choose(path)
    assert tab.evaluate("document.getElementById('error').hidden")
    drop(tab, {"notes.txt": "These are notes."})
    assert tab.text("error").startswith("notes.txt is not an image that this browser can read, or it is damaged.")
    assert tab.evaluate("document.getElementById('result').hidden")
    drop(tab, {"one.txt": "1", "two.txt": "2"})
    assert "2 files were dropped" in tab.text("error")
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:60])
    tab.choose(tmp_path / "cut.png")
    assert tab.text("error").startswith("cut.png is not an image")
    Image.new("L", (4097, 4096)).save(tmp_path / "large.png")
    tab.choose(tmp_path / "large.png")
    assert tab.text("error") == "large.png has 4097 x 4096 pixels; this page takes at most 16,777,216 in all."
    tab.choose(path)  # and it goes on
    assert tab.text("status").startswith(f"{label}: ")
    assert tab.evaluate("document.getElementById('error').hidden")


@pytest.mark.parametrize(
    ("label", "strokes"),
    [
        (1, [[(50, 15), (50, 85)]]),
        (7, [[(25, 20), (75, 20), (45, 85)]]),
        (4, [[(35, 15), (25, 50), (75, 50)], [(65, 15), (65, 85)]]),
        (0, [[(50, 15), (30, 30), (28, 60), (45, 85), (65, 75), (72, 45), (60, 20), (50, 15)]]),
    ],
)
def test_a_drawn_digit_is_read(label: int, strokes: list[list[tuple[int, int]]], pages: Pages, tab: Tab) -> None:
    tab.open(pages(LENET))
    tab.draw(strokes)
    assert tab.text("status").startswith(f"{label}: ")
    ink = input_of(tab)[0]
    rows, columns = np.nonzero(ink > 0.1)
    assert max(np.ptp(rows), np.ptp(columns)) in (18, 19)  # as MNIST: 20 pixels long
    centre = [(ink * (places + 0.5)).sum() / ink.sum() for places in np.mgrid[:28, :28]]
    assert np.abs(np.array(centre) - 14).max() <= 0.51 + 1  # in the middle, by whole pixels, or as far as it fits
    tab.evaluate("document.getElementById('clear').click()")
    assert tab.text("status") == "Draw a digit, or choose an image."
    assert tab.evaluate("document.getElementById('result').hidden")


def test_all_works_by_keyboard(pages: Pages, tab: Tab) -> None:
    tab.open(pages(LENET))
    reached = []
    for _ in range(4):
        tab.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id"))
    assert reached == ["file", "invert", "pad", "clear"]
    tab.evaluate("document.getElementById('pad').focus()")
    for _ in range(9):
        tab.press("ArrowUp")
    tab.press(" ")
    for _ in range(18):
        tab.press("ArrowDown")
    assert tab.text("status").startswith("1: ")
    assert tab.text("pen") == "Pen down at column 14, row 23 of 28."


def test_a_screen_reader_is_told_names_and_results(pages: Pages, tab: Tab) -> None:
    tab.open(pages(LENET))
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    told = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node}
    assert ("heading", f"zoo:{LENET}") in told
    assert ("button", "Clear") in told
    assert ("application", "Drawing area") in told
    assert ("checkbox", "Dark on light: invert it") in told
    assert any(role == "button" and name.startswith("Choose an image") for role, name in told)
    assert any(role == "status" for role, _ in told)
    unnamed = {role for role, name in told if not name} & {"button", "checkbox", "radio", "image", "link", "textbox"}
    assert unnamed == set()


def test_light_and_dark(pages: Pages, tab: Tab) -> None:
    tab.open(pages(LENET))
    luminances = {}
    for scheme in ("light", "dark"):
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        style = "(({ color, backgroundColor }) => [color, backgroundColor])(getComputedStyle(document.body))"
        text, back = (luminance(one) for one in tab.evaluate(style))
        assert (max(text, back) + 0.05) / (min(text, back) + 0.05) >= 7  # WCAG 2, enhanced contrast
        luminances[scheme] = back
    assert luminances["dark"] < 0.1 < 0.9 < luminances["light"]


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG 2 defines it."""
    numbers = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in numbers]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_fits_a_phone(pages: Pages, tab: Tab, tmp_path: Path) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=2, mobile=True)
    tab.open(pages(LENET))
    tab.choose(digit(tmp_path)[0])
    assert tab.evaluate("document.documentElement.scrollWidth") <= 320
    assert tab.evaluate("document.getElementById('pad').getBoundingClientRect().width") <= 320


def test_a_generator_makes_other_images_each_time(pages: Pages, tab: Tab) -> None:
    tab.open(pages("gan-64383"))
    assert tab.text("status").startswith("16 images in ")
    first = tab.evaluate("document.getElementById('view').toDataURL()")
    tab.evaluate("document.getElementById('make').click()")
    tab.wait_for(f"document.getElementById('view').toDataURL() !== {json.dumps(first)}")


def test_without_vector_instructions(pages: Pages, tab: Tab, tmp_path: Path) -> None:
    """In a browser that does not know them the other build runs."""
    page = pages(LENET).read_text(encoding="utf-8")
    old = "WebAssembly.validate(simd)"
    assert page.count(old) == 1
    (tmp_path / "plain.html").write_text(page.replace(old, "false"), encoding="utf-8")
    path, label = digit(tmp_path)
    for file, simd in ((pages(LENET), True), (tmp_path / "plain.html", False)):
        tab.open(file)
        tab.choose(path)
        assert tab.evaluate("tailcut.last.simd") is simd
        assert tab.text("status").startswith(f"{label}: ")
