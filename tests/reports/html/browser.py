"""A headless Chromium that looks at a page, where this machine has one."""

import json
import re
import subprocess
from html import escape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tools import chromium

# Chromium's windows are not narrower; narrow pages stand in a frame of their width.
LEAST_WIDTH = 500
LIGHT, DARK = 1, 0
MEASURE = """
<script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const box = (part) => part.getBoundingClientRect();
  const facts = {
    width: root.clientWidth, scroll_width: root.scrollWidth, height: root.scrollHeight,
    text_color: getComputedStyle(page.body).color,
    drawings: [...page.querySelectorAll("svg, img")].map((part) => [box(part).width, box(part).height]),
    broken: [...page.images].filter((part) => part.naturalWidth === 0).length,
    least_font: Math.min(...[...page.querySelectorAll("p, td, th, li, figcaption")].map(
      (part) => parseFloat(getComputedStyle(part).fontSize))),
  };
  document.title = JSON.stringify(facts);
});
</script>
"""


def find_browser() -> str:
    """The program of CHROME_BIN, or Chromium or Chrome on the path; skips the test without one."""
    found = chromium.find_browser()
    if found is None:
        pytest.skip("needs Chromium: install it, or set CHROME_BIN to its program")
    return found


def look_at(
    page: Path, folder: Path, *, width: int, scheme: int, height: int = 2400
) -> tuple[dict[str, Any], Image.Image]:
    """What a browser of that width measures of a page, and what it shows of its first `height` pixels.

    Args:
        page: the file.
        folder: for files in between.
        width: in CSS pixels.
        scheme: `LIGHT` or `DARK`, what the reader prefers.
        height: in CSS pixels.
    """
    frame = f'<iframe srcdoc="{escape(page.read_text(encoding="utf-8"))}" '
    frame += f'style="border: 0; width: {width}px; height: {height}px"></iframe>'
    holder, image = folder / "holder.html", folder / "image.png"
    holder.write_text(f'<!DOCTYPE html><html><body style="margin: 0">{frame}{MEASURE}</body></html>', encoding="utf-8")
    words = [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    words += [f"--blink-settings=preferredColorScheme={scheme}", f"--user-data-dir={folder / 'profile'}"]
    words += [f"--window-size={max(width, LEAST_WIDTH)},{height}", f"--screenshot={image}", "--dump-dom"]
    done = subprocess.run([*words, holder.as_uri()], capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout, re.DOTALL)
    assert found is not None, done.stderr
    return json.loads(found[1]), Image.open(image).convert("RGB").crop((0, 0, width, height))
