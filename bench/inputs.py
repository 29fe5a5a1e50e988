"""Loading images: JPEG files to frequency channels, against RGB tensors and against the published pipeline.

All ways read the same files, one after the other, on one thread, and stop where a tensor is ready to go to the device.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jpeglib
import numpy as np
import simplejpeg
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn.functional import interpolate

from bench.machine import Machine
from bench.scale import Scale
from bench.tables import Row, Table
from bench.timing import Timing, compare, num_threads
from tailcut.data.roots import data_roots
from tailcut.inputs import BlockDCT, read_jpeg
from tailcut.inputs.loading import CENTRAL_RATIO, JpegFolder

SIZE, RGB_SIZE = 448, 224
CHANNELS = (24, 64, 192)
PILLOW, PUBLISHED = f"Pillow, RGB {RGB_SIZE}", "published, 24 channels"
# Coefficients reach +-1024; the published pipeline rounds bytes twice, and coefficients.
MAX_DIFFERENCE = 1.5
# Folders of a data root, and how many of their files are read, evenly spaced.
DATA_FOLDERS, NUM_FILES = ("flowers17", "imagenette224/val"), 32
SAMPLE_SIZES, SAMPLE_QUALITIES = {"2 photos, 480 x 720": 480, "2 photos, 1440 x 2160": 1440}, (75, 92)


def run(scale: Scale, machine: Machine) -> list[Table]:
    """Return a table for each set of images: scikit-learn's photos, and folders of the data roots."""
    sizes = SAMPLE_SIZES if scale.is_full else dict([*SAMPLE_SIZES.items()][:1])
    with tempfile.TemporaryDirectory() as scratch, num_threads(1):
        tables = []
        for number, (title, height) in enumerate(sizes.items()):
            folder = Path(scratch) / str(number)
            _write_samples(folder / "photos", height)
            tables.append(_table(title, folder, Path(scratch), scale))
        tables += [_table(name, root / name, Path(scratch), scale) for name, root in _data_folders().items()]
    return tables


def _data_folders() -> dict[str, Path]:
    roots = [root for root in data_roots() if root.is_dir()]
    found: dict[str, Path] = {}
    for name in DATA_FOLDERS:
        for root in roots:
            if (root / name).is_dir():
                found.setdefault(name, root)
    return found


def _write_samples(folder: Path, height: int) -> None:
    """Both photos 4:2:0 in two qualities, `height` pixels high and half as wide again."""
    folder.mkdir(parents=True)
    for name, pixels in zip("ab", load_sample_images().images, strict=True):
        image = Image.fromarray(pixels).resize((height * 3 // 2, height), Image.Resampling.BICUBIC)
        for quality in SAMPLE_QUALITIES:
            image.save(folder / f"{name}{quality}.jpg", quality=quality, subsampling=2)


def _table(title: str, folder: Path, scratch: Path, scale: Scale) -> Table:
    files = JpegFolder(folder, None).files
    chosen = range(0, len(files), max(1, len(files) // NUM_FILES))
    paths = [files[index] for index in chosen]
    ours, shapes = _our_ways(folder, chosen)
    transform = BlockDCT(24)
    check_agreement(JpegFolder(folder, transform)[0][0], _published(paths[0], transform, scratch, _jpeglib_planes))
    others: dict[str, Callable[[], object]] = {
        PILLOW: lambda: [_pillow_rgb(path) for path in paths],
        f"simplejpeg, RGB {RGB_SIZE}": _all(JpegFolder(folder, None, size=RGB_SIZE), chosen),
        PUBLISHED: lambda: [_published(path, transform, scratch, _jpeglib_planes) for path in paths],
        "published, our reader": lambda: [_published(path, transform, scratch, _our_planes) for path in paths],
        "one encoding, 24 channels": lambda: [_one_encoding(path, transform, scratch) for path in paths],
    }
    num_bytes = dict.fromkeys(others, 4 * 24 * (SIZE // 8) ** 2) | shapes
    num_bytes |= {PILLOW: 4 * 3 * RGB_SIZE**2, f"simplejpeg, RGB {RGB_SIZE}": 3 * RGB_SIZE**2}
    with torch.no_grad():
        timings = compare(others | ours, scale)
    mean_bytes = sum(path.stat().st_size for path in paths) / len(paths)
    columns = {
        "way": "",
        "images/s": ",.0f",
        "ms": ".2f",
        "/ Pillow": ".2f",
        "/ published": ".2f",
        "bytes to the device": ",d",
        "runs": "d",
    }
    notes = [
        f"{len(paths)} files of {mean_bytes:,.0f} bytes on average; channels of {SIZE} x {SIZE} pixels. "
        "/ Pillow, / published: images/s over theirs.",
        "Pillow: decoded, resized, float32. simplejpeg, RGB: uint8, made float on the device.",
        "published: decoded by simplejpeg and resized by torch, like ours; then luma from a 4:2:0 JPEG of quality 100, "
        "chroma from one of the image twice as large; read by jpeglib, or by our reader.",
        "one encoding: the same with chroma of the first JPEG, interpolated from half size.",
    ]
    return Table(f"Loading: {title}", columns, _rows(timings, num_bytes, len(paths)), notes)


def check_agreement(ours: Tensor, published: Tensor) -> None:
    """Raise AssertionError unless the channels differ by rounding to bytes and coefficients only.

    An image that a decoder made smaller may differ by a little more.
    """
    is_alike = ours.shape == published.shape
    difference = float((ours - published).abs().mean()) if is_alike else float("inf")
    if not difference < MAX_DIFFERENCE:
        raise AssertionError(f"the channels differ from the published pipeline's by {difference:.2f} on average")


def _rows(timings: dict[str, Timing], num_bytes: dict[str, int], num_images: int) -> list[Row]:
    seconds = {way: timing.median_s / num_images for way, timing in timings.items()}
    return [
        {
            "way": way,
            "images/s": 1 / seconds[way],
            "ms": 1e3 * seconds[way],
            "/ Pillow": seconds[PILLOW] / seconds[way],
            "/ published": seconds[PUBLISHED] / seconds[way],
            "bytes to the device": num_bytes[way],
            "runs": timing.num_repetitions,
        }
        for way, timing in timings.items()
    ]


def _our_ways(folder: Path, chosen: Sequence[int]) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """Return the function to run, and the bytes per image that go to the device."""
    datasets = {f"tailcut, {channels} channels": JpegFolder(folder, BlockDCT(channels)) for channels in CHANNELS}
    datasets["tailcut, 24 channels, approximate"] = JpegFolder(folder, BlockDCT(24), approximate=True)
    datasets["tailcut, 24 channels, float16"] = JpegFolder(folder, BlockDCT(24), dtype=torch.float16)
    for channels in CHANNELS:
        name = f"tailcut, {channels} channels, from coefficients"
        datasets[name] = JpegFolder(folder, BlockDCT(channels), source="coefficients")
    ways = {name: _all(dataset, chosen) for name, dataset in datasets.items()}
    return ways, {name: dataset.item_bytes for name, dataset in datasets.items()}


def _all(dataset: JpegFolder, chosen: Sequence[int]) -> Callable[[], object]:
    return lambda: [dataset[index] for index in chosen]


def _pillow_rgb(path: Path) -> Tensor:
    """Return the usual way: decode, resize, to float."""
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((RGB_SIZE, RGB_SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div_(255)


def _cut(path: Path) -> Tensor:
    """Return the middle of an image at SIZE, uint8 (1, 3, SIZE, SIZE)."""
    pixels = torch.from_numpy(simplejpeg.decode_jpeg(path.read_bytes())).permute(2, 0, 1)[None]
    height, width = pixels.shape[2:]
    side = max(1, round(CENTRAL_RATIO * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    part = pixels[:, :, top : top + side, left : left + side]
    return interpolate(part, (SIZE, SIZE), mode="bilinear", antialias=True)


def _encoded(image: Tensor) -> bytes:
    pixels = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
    return bytes(simplejpeg.encode_jpeg(pixels, quality=100, colorsubsampling="420"))


def _jpeglib_planes(data: bytes, scratch: Path) -> list[Tensor]:
    path = scratch / "again.jpg"
    path.write_bytes(data)
    image = jpeglib.read_dct(str(path))
    image.load()
    planes = (image.Y, image.Cb, image.Cr)
    return [torch.from_numpy(plane * image.get_component_qt(index)) for index, plane in enumerate(planes)]


def _our_planes(data: bytes, scratch: Path) -> list[Tensor]:
    return list(read_jpeg(data).planes)


Reader = Callable[[bytes, Path], list[Tensor]]


def _published(path: Path, transform: BlockDCT, scratch: Path, read: Reader) -> Tensor:
    """As the published code evaluates: luma of the image, chroma of its enlargement, each through a JPEG file."""
    image = _cut(path)
    larger = interpolate(image, scale_factor=2, mode="bilinear")
    luma = read(_encoded(image), scratch)[0]
    _, blue, red = read(_encoded(larger), scratch)
    return _selected([luma, blue, red], transform)


def _one_encoding(path: Path, transform: BlockDCT, scratch: Path) -> Tensor:
    """Return the cheaper form: chroma channels are interpolated from half the size."""
    luma, *chroma = _jpeglib_planes(_encoded(_cut(path)), scratch)
    grid = luma.shape[:2]
    larger = []
    for plane in chroma:
        maps = plane.flatten(-2).movedim(-1, 0)[None].float()
        larger.append(interpolate(maps, tuple(grid), mode="bilinear")[0].movedim(0, -1).unflatten(-1, (8, 8)))
    return _selected([luma, *larger], transform)


def _selected(planes: Sequence[Tensor], transform: BlockDCT) -> Tensor:
    parts = [
        plane.flatten(-2)[..., list(indices)].movedim(-1, 0).float()
        for plane, indices in zip(planes, transform.selection.components().values(), strict=True)
    ]
    return (torch.cat(parts) - transform.mean[:, None, None]) / transform.std[:, None, None]
