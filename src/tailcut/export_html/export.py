"""`export_html`: a network as one HTML page that runs it in any browser, from the disk and offline."""

import base64
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tailcut.errors import ArgumentError
from tailcut.export_html.memory_image import BASE, memory_image
from tailcut.export_html.network import Kind, PageNetwork, page_network
from tailcut.files import write_atomically
from tailcut.printing import Report, sizes

SCRIPTS = ("runner.js", "pixels.js", "drawing.js", "page.js")
RUNNERS = {"simd": "tailcut-simd.wasm", "plain": "tailcut.wasm"}
TEXTS = {
    "classes": "Choose an image, and see which class it is in.",
    "mask": "Choose a photo, and see its mask.",
    "images": "See images that it makes of random numbers.",
}
DRAWN_SHAPE = (1, 28, 28)  # of MNIST
DRAWING_TEXT = "Draw a digit or choose an image, and see which class it is in."
_FOLDER = Path(__file__).parent
_PLACE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class HtmlExportReport(Report):
    """The page that `export_html` wrote.

    Attributes:
        out: where it is.
        kind: what it shows: `classes`, `mask` or `images`.
        input_shapes: of the images that it runs on, (channels, height, width) each.
        page_bytes: of the whole file.
        network_bytes: of the network in it: numbers and program.
        runner_bytes: of the WebAssembly in it.
        file_bytes: of the network's own file, which the page tells; None if it was not given.
        arena_bytes: memory for one call, of the largest program; what is prepared aside.
    """

    out: str
    kind: Kind
    input_shapes: tuple[tuple[int, ...], ...]
    page_bytes: int
    network_bytes: int
    runner_bytes: int
    file_bytes: int | None
    arena_bytes: int

    def __str__(self) -> str:
        """Return the report as two lines."""
        shapes = " or ".join(map(sizes, self.input_shapes))
        return (
            f"{self.out}: {self.page_bytes:,} bytes, shows {self.kind}, input {shapes}\n"
            f"network {self.network_bytes:,} bytes, WebAssembly {self.runner_bytes:,} bytes, "
            f"memory {self.arena_bytes:,} bytes"
        )


def export_html(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    title: str = "",
    file_bytes: int | None = None,
) -> HtmlExportReport:
    """Write `model` as one HTML page that runs it in the browser. The model is not changed.

    The page loads nothing and sends nothing: images stay on the device. Networks that give classes, masks (1 or 2
    channels as large as the image) and generators of the package can be shown.

    Args:
        model: a network of a registered family.
        path: the page; one that exists is replaced.
        image_size: height and width that images are resized to, see `network.page_network`.
        title: what the page calls the network; its class if empty.
        file_bytes: size of the network's file, to be told.

    Returns:
        What the page holds, byte by byte.

    Raises:
        ArgumentError: the network is of no registered family, or gives none of these.
        StructureError: a layer has no form in C; the message names it.
    """
    if not isinstance(title, str):
        raise ArgumentError(f"title must be a text, got {type(title).__name__}")
    network = page_network(model, image_size)
    image = memory_image(network.programs)
    runners = {name: (_FOLDER / "wasm" / wasm).read_bytes() for name, wasm in RUNNERS.items()}
    title = title or type(model).__name__
    content = _page(network, title, file_bytes, image.content, image.models, runners)
    write_atomically(path, content)
    return HtmlExportReport(
        str(path),
        network.kind,
        tuple(program.input_shape for program in network.programs),
        len(content.encode()),
        len(image.content),
        sum(map(len, runners.values())),
        file_bytes,
        max(4 * program.arena_floats for program in network.programs),
    )


def _page(
    network: PageNetwork,
    title: str,
    file_bytes: int | None,
    image: bytes,
    models: tuple[int, ...],
    runners: dict[str, bytes],
) -> str:
    programs = [
        {
            "model": model,
            "input": program.input_shape,
            "output": program.output_shapes[0],
            "arena": program.arena_floats,
            "prepared": program.prepared_floats,
        }
        for program, model in zip(network.programs, models, strict=True)
    ]
    data = {
        "kind": network.kind,
        "classes": network.class_names,
        "draws": _draws(network),
        "shorter": network.shorter_side,
        "base": BASE,
        "programs": programs,
        "image": _base64(image),
        "runners": {name: _base64(content) for name, content in runners.items()},
    }
    parts = {
        "title": html.escape(title),
        "summary": html.escape(_summary(network, file_bytes)),
        "style": _read("page.css"),
        # A file may hold class names; no "<" of theirs may end the element.
        "network": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "script": "\n".join(map(_read, SCRIPTS)),
    }
    return _PLACE.sub(lambda found: parts[found[1]], _read("page.html"))


def _summary(network: PageNetwork, file_bytes: int | None) -> str:
    stored, dense_bytes = "", 4 * network.num_parameters
    if file_bytes:
        stored = f" in a file of {file_bytes:,} bytes"
        if dense_bytes >= 2 * file_bytes:
            stored += f", {dense_bytes // file_bytes:,} times smaller than they are as floats"
    text = DRAWING_TEXT if _draws(network) else TEXTS[network.kind]
    return f"A neural network of {network.num_parameters:,} weights{stored}. {text}"


def _draws(network: PageNetwork) -> bool:
    return network.kind == "classes" and network.programs[0].input_shape == DRAWN_SHAPE


def _read(name: str) -> str:
    return (_FOLDER / "page" / name).read_text(encoding="utf-8").strip()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
