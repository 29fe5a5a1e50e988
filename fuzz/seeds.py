"""The first contents of the corpora that no other folder holds: JPEG files and payloads, made by formula.

`python -m fuzz.seeds` writes them; what fuzzing finds later lies beside them.
"""

import io
import random
from typing import Any

import numpy as np
from PIL import Image

from fuzz import checkpoints, quantized
from fuzz.targets import CORPORA
from tailcut.format import codecs


def image(height: int, width: int) -> Image.Image:
    """Colours that change along both axes, with an edge."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 100 * np.sin(x / 3 + y / 7), 255 * (x > y), 9 * x + 5 * y]
    return Image.fromarray(np.stack([np.clip(plane, 0, 255).astype(np.uint8) for plane in planes], axis=2))


def jpegs() -> dict[str, bytes]:
    """Baseline and progressive files of every sampling, with restarts and with EXIF data, of a block or few."""
    made = {}
    coloured: list[tuple[str, tuple[int, int], dict[str, Any]]] = [
        ("baseline-444", (8, 8), {"subsampling": 0}),
        ("baseline-422", (9, 17), {"subsampling": 1, "quality": 30}),
        ("baseline-420", (24, 31), {"subsampling": 2, "quality": 95}),
        ("optimized-420", (16, 16), {"subsampling": 2, "optimize": True}),
        ("restarts-420", (33, 40), {"subsampling": 2, "restart_marker_blocks": 1}),
        ("progressive-444", (16, 24), {"subsampling": 0, "progressive": True}),
        ("progressive-420", (40, 33), {"subsampling": 2, "progressive": True, "quality": 90}),
        ("progressive-restarts", (32, 32), {"subsampling": 2, "progressive": True, "restart_marker_rows": 1}),
        (
            "turned",
            (10, 16),
            {"subsampling": 0, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        ),
    ]
    for name, size, options in coloured:
        buffer = io.BytesIO()
        image(*size).save(buffer, "JPEG", **options)
        made[name] = buffer.getvalue()
    for name, progressive in (("grey", False), ("grey-progressive", True)):
        buffer = io.BytesIO()
        image(20, 11).convert("L").save(buffer, "JPEG", progressive=progressive)
        made[name] = buffer.getvalue()
    return made


def payloads() -> dict[str, bytes]:
    """Return the number of the codec, the size of an item, how many there are, and a payload."""
    rng = random.Random(1)
    made = {}
    contents = {"zeros": bytes(64), "noise": rng.randbytes(64), "ramp": bytes(range(0, 192, 3)), "empty": b""}
    for (place, codec), (size, item_bytes), (name, content) in (
        (codec, size, content)
        for codec in enumerate(codecs.CODECS.values())
        for size in enumerate((1, 2, 4, 8))
        for content in contents.items()
    ):
        payload = codec.encode(content, item_bytes)
        if payload is not None:
            count = (len(content) // item_bytes).to_bytes(2, "little")
            made[f"{codec.name}-{item_bytes}-{name}"] = bytes((place, size)) + count + payload
    return made


def main() -> None:
    for folder, contents in (
        ("jpeg", jpegs()),
        ("codecs", payloads()),
        ("quantized", dict(quantized.seeds())),
        ("checkpoints", dict(checkpoints.seeds())),
    ):
        (CORPORA / folder).mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (CORPORA / folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
