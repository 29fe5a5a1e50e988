"""Makes the example pages of docs/browser.md, and the image of them: `python -m tools.docs.browser_pages`.

The pages need nothing. Image and seconds need Chromium, and the folder `carvana` of a data root in TAILCUT_DATA; its
photo is not shown.
"""

import base64
import io
import statistics
import sys
import tempfile
from pathlib import Path

from PIL import Image

import tailcut
from tailcut.data import open_dataset
from tailcut.errors import DataNotFoundError
from tailcut.export_html import export_html
from tailcut.format.zoo import resolve
from tools.chromium import Tab, chromium, find_browser

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "pages"
IMAGE = ROOT / "docs" / "images" / "browser.png"
UNET, LENET = "unet-759-float16", "lenet5-776"
# Of a phone, in CSS pixels.
WIDTH, HEIGHT, MARGIN = 400, 760, 12
NUM_RUNS = 15
# Seven, in hundredths of the drawing area.
SEVEN = [[(25, 22), (75, 20), (58, 50), (45, 85)]]


def write_pages(folder: Path) -> list[Path]:
    """Write the page of each example."""
    written = []
    for name in (UNET, LENET):
        path = resolve(f"zoo:{name}")
        page = folder / f"{name}.html"
        print(export_html(tailcut.load(path), page, title=f"zoo:{name}", file_bytes=path.stat().st_size))
        written.append(page)
    return written


def shot(tab: Tab, height: int = HEIGHT) -> Image.Image:
    """Return what the page shows of its first pixels."""
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    content = tab.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
    return Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")


def photo(folder: Path) -> Path:
    """Return a photo of a car that the networks were not trained on, as a PNG of 320 x 480 pixels."""
    image = open_dataset("carvana", "val").batch([3])[0][0]
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).resize((480, 320)).save(folder / "photo.png")
    return folder / "photo.png"


def show(tab: Tab, page: Path, scheme: str) -> None:
    """Open a page in light or dark, as wide as a phone."""
    tab.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.open(page)


def main() -> None:
    """Write pages, measure, draw the image."""
    PAGES.mkdir(exist_ok=True)
    unet, lenet = write_pages(PAGES)
    if find_browser() is None:
        sys.exit("no Chromium: image and seconds are left as they are")
    with tempfile.TemporaryDirectory() as scratch, chromium(Path(scratch)) as tab:
        show(tab, lenet, "light")
        tab.draw(SEVEN)
        images = [shot(tab, tab.evaluate("document.querySelector('footer').offsetTop"))]
        try:
            image = photo(Path(scratch))
        except DataNotFoundError as error:
            sys.exit(f"image and seconds are left as they are: {error}")
        show(tab, unet, "dark")
        tab.choose(image)
        tab.evaluate("document.getElementById('view-mask').click()")
        images.append(shot(tab, tab.evaluate("document.querySelector('footer').offsetTop")))
        seconds = []
        for _ in range(NUM_RUNS):
            tab.choose(image)
            seconds.append(float(tab.evaluate("tailcut.last.seconds")))
        version = tab.evaluate("navigator.userAgent")
    print(f"{UNET} on 320 x 480 pixels: {statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f}")
    print(version)
    sheet = Image.new("RGB", (2 * WIDTH + 3 * MARGIN, max(one.height for one in images) + 2 * MARGIN), "white")
    for number, one in enumerate(images):
        sheet.paste(one, (MARGIN + number * (WIDTH + MARGIN), MARGIN))
    sheet.quantize(64, dither=Image.Dither.NONE).save(IMAGE, optimize=True)
    print(f"{IMAGE.name}  {IMAGE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
