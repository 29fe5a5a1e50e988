"""Data sets over folders of JPEG files, whose items are network inputs made in `DataLoader` workers."""

import logging
import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from tailcut.arguments import check_seed
from tailcut.errors import ArgumentError, DataError, MissingExtraError, first_line
from tailcut.files import by_name, check_is_regular, visible_folders
from tailcut.inputs.jpeg.augmentation import (
    FLIPPED_COLUMNS,
    FLIPPED_ROWS,
    TRANSPOSED,
    flip_horizontal,
)
from tailcut.inputs.jpeg.decoding import Decode, decode_png, decode_with_pillow, simplejpeg_decoder
from tailcut.inputs.jpeg.parts import UNIT, resized_part
from tailcut.inputs.jpeg.reader import read_jpeg
from tailcut.inputs.transform.block_dct import BlockDCT, check_block_dct
from tailcut.inputs.transform.compiled import CompiledTransform, is_installed
from tailcut.jpeg.limits import check_max_pixels
from tailcut.jpeg.markers import PNG_SIGNATURE, read_outline
from tailcut.transform.block import BLOCK_SIZE
from tailcut.transform.resizing import Region, random_region, resized

logger = logging.getLogger(__name__)

Source = Literal["pixels", "coefficients"]
Decoder = Literal["simplejpeg", "pillow"]
OnError = Literal["raise", "skip"]

SUFFIXES = (".jpg", ".jpeg")
# The published evaluation resizes the short side to 512 and cuts 448 out of its middle.
CENTRAL_RATIO = 448 / 512
# Decoders make an image smaller by these in no more time; by numbers between them in more.
DECODER_DIVISORS = (1, 2, 4, 8)


class JpegFolder(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """JPEG files, one folder per class, as normalised frequency channels or as RGB images.

    From "pixels" a file is decoded, turned upright, a part of it is resized to `size` (bilinear with antialiasing) and
    transformed. Where a file is at least twice as large as needed, the decoder makes it smaller by 2, 4 or 8 at once.
    The part is the middle, of the form of `size` and 7/8 of what fits (the published evaluation: 448 of 512). Of what
    the decoder made smaller it begins and ends within pixels. A PNG file that is named as a JPEG (ImageNet has one) is
    read too.

    Channels are made by compiled loops (`CompiledTransform`) if numba is installed (extra `jpeg`) and `size` has
    multiples of 8, by `transform` itself otherwise: the same numbers but for rounding, in more time.

    From "coefficients" nothing is decoded: the middle is cut out at a block, as much as 1, 2, 4 ... times `size` (the
    largest that fits), and halved as often; an image smaller than `size` is doubled. So between half of an image and
    all of it is shown along its shorter side.

    To train, `augment` takes random parts instead, and flips every second one: from pixels parts of 8 % to 100 % of
    the area with an aspect of 3/4 to 4/3, of whole pixels (if none of ten fits, the middle); from coefficients parts of
    `size`. Random numbers are
    torch's: they follow `torch.manual_seed`, or the generator of the `DataLoader` in its workers.

    Args:
        root: a folder with a folder of files (.jpg, .jpeg) for each class.
        transform: makes the channels; it is used on the CPU. None gives RGB images.
        size: (height, width) of the images that are transformed, or one number for both; multiples of 16 for
            coefficients.
        source: "pixels" or "coefficients".
        decoder: "simplejpeg" (extra `jpeg`), or "pillow", which needs no extra and is somewhat slower.
        approximate: decode with simplejpeg's fastest inverse DCT and upsampling: about 5 % less time, and a grey
            level or two of difference.
        augment: take random parts and flip.
        dtype: type of the channels.
        on_error: what becomes of files that cannot be read: "raise" ends in an error; "skip" leaves them out of
            their batches, which are then smaller, and notes them in `skipped`. A single item still ends in an error.
        max_pixels: the most pixels of an image; see `read_jpeg`.

    Attributes:
        files: the paths, in order: folder by folder, by name.
        labels: the class of each.
        class_names: the folders' names, sorted.
        skipped: by the positions of the files that were left out: why. Batches of `loader` bring them here from its
            workers; another `DataLoader` keeps them there.

    Raises:
        ArgumentError: an argument is none of these.
        DataError: there are no class folders, or one without files.
        MissingExtraError: simplejpeg, or numba for coefficients, is not installed.
    """

    def __init__(
        self,
        root: str | Path,
        transform: BlockDCT | None,
        *,
        size: int | tuple[int, int] = 448,
        source: Source = "pixels",
        decoder: Decoder = "simplejpeg",
        approximate: bool = False,
        augment: bool = False,
        dtype: torch.dtype = torch.float32,
        on_error: OnError = "raise",
        max_pixels: int | None = None,
    ) -> None:
        choices = ((source, "source", Source), (decoder, "decoder", Decoder), (on_error, "on_error", OnError))
        for value, name, known in choices:
            if value not in get_args(known):
                raise ArgumentError(f"{name} must be {' or '.join(map(repr, get_args(known)))}, got {value!r}")
        self.size = _sides(size, UNIT if source == "coefficients" else 1)
        if transform is not None:
            check_block_dct(transform)
        if source == "coefficients" and transform is None:
            raise ArgumentError("coefficients need a transform; images come from source='pixels'")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ArgumentError(f"dtype must be a floating-point torch.dtype, got {dtype!r}")
        check_max_pixels(max_pixels)
        self.on_error, self.max_pixels = on_error, max_pixels
        self.skipped: dict[int, str] = {}
        self.files, self.labels, self.class_names = _files_of(Path(root))
        self.transform, self.source, self.augment, self.dtype = transform, source, augment, dtype
        is_whole = all(side % BLOCK_SIZE == 0 for side in self.size)
        self._compiled = CompiledTransform(transform) if transform is not None and is_whole and is_installed() else None
        self._decode: Decode = decode_with_pillow
        if source == "coefficients" and not is_installed():
            raise MissingExtraError("reading the coefficients of JPEG files", "numba", "jpeg")
        if source == "pixels" and decoder == "simplejpeg":
            self._decode = simplejpeg_decoder(approximate)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image and its class.

        Returns:
            Channels (n, ceil(height / 8), ceil(width / 8)) of `dtype`, or without a transform uint8
            (3, height, width).

        Raises:
            IndexError: there is no such file.
            DataError: the file is damaged, or is no JPEG of a kind that can be read; the message names it.
        """
        path = self.files[index]
        try:
            data = path.read_bytes()
            if self.source == "coefficients" and data.startswith(PNG_SIGNATURE):
                raise DataError(
                    f"it is a PNG file named {path.suffix}, which stores no coefficients: read it with "
                    'source="pixels", or save it as a JPEG file'
                )
            item = self._from_coefficients(data) if self.source == "coefficients" else self._from_pixels(data)
        except OSError as error:
            raise DataError(f"cannot read the image {path}: {error.strerror or error}") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        return item, self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return the items of a batch for a `DataLoader`, without skipped ones.

        Raises:
            IndexError: there is no such file.
            DataError: a file cannot be read, and none is to be left out.
        """
        items = []
        for index in indices:
            try:
                items.append(self[index])
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self.skipped[index] = first_line(error)
        return items

    @property
    def item_shape(self) -> tuple[int, int, int]:
        """Return the shape of an item that represents an image."""
        if self.transform is None:
            return (3, *self.size)
        height, width = (math.ceil(side / BLOCK_SIZE) for side in self.size)
        return (self.transform.num_channels, height, width)

    @property
    def item_bytes(self) -> int:
        """Bytes per image that go to the device."""
        return math.prod(self.item_shape) * (1 if self.transform is None else self.dtype.itemsize)

    @torch.no_grad()
    def _from_pixels(self, data: bytes) -> Tensor:
        whole = decode_png(data, self.max_pixels) if data.startswith(PNG_SIGNATURE) else None
        stored, orientation = read_outline(data, max_pixels=self.max_pixels) if whole is None else (whole.shape[:2], 1)
        height, width = reversed(stored) if orientation in TRANSPOSED else stored
        region = (
            random_region(height, width, _four_numbers) if self.augment else _central_region(height, width, self.size)
        )
        # The smallest decoded image whose region is still as large as wanted.
        spare = min(side / wanted for side, wanted in zip(region[2:], self.size, strict=True))
        divisor = max(number for number in DECODER_DIVISORS if number <= max(spare, 1)) if whole is None else 1
        decoded = self._decode(data, stored, divisor) if whole is None else whole
        pixels = turned_upright(torch.from_numpy(decoded).permute(2, 0, 1), orientation)
        if self.augment:
            part = _whole_part(pixels, _scaled(region, pixels.shape[1] / height, pixels.shape[2] / width), self.size)
        else:
            part = _exact_part(pixels, region, divisor, _lead(height, width, divisor, orientation), self.size)
        image = part.flip(-1) if self.augment and _is_heads() else part
        if self.transform is None:
            return image.contiguous()
        channels = self.transform(image) if self._compiled is None else self._compiled.from_pixels(image)
        return channels.to(self.dtype)

    @torch.no_grad()
    def _from_coefficients(self, data: bytes) -> Tensor:
        image = resized_part(read_jpeg(data, max_pixels=self.max_pixels), self.size, random=self.augment)
        if self.augment and _is_heads():
            image = flip_horizontal(image)
        if self._compiled is None:
            raise ArgumentError("coefficients need a transform")
        return self._compiled.from_coefficients(image).to(self.dtype)


def make_loader(
    dataset: JpegFolder,
    batch_size: int,
    *,
    shuffle: bool = False,
    num_workers: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of a folder: (batch, n, blocks_h, blocks_w) and int64 classes (batch,).

    Of a folder that leaves out what cannot be read, batches are smaller by that, and none is empty; at the end of each
    pass a warning is logged that counts what was left out so far.

    Args:
        dataset: the folder.
        batch_size: images in a batch.
        shuffle: another order in each epoch.
        num_workers: processes that read; 0 reads in this one. They live until the loader is dropped.
        drop_last: leave out an incomplete last batch.
        pin_memory: put batches where a GPU copies them from faster.
        seed: of the order and of `augment` in workers; torch's global generator when None.
    """
    generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
    return _Loader(
        dataset,
        batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        drop_last=drop_last,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        generator=generator,
        collate_fn=_Collate(dataset),
    )


class _Collate:
    """Collate function that stacks items and adds the list of skipped files for the training process."""

    def __init__(self, dataset: JpegFolder) -> None:
        self._dataset = dataset

    def __call__(self, items: list[tuple[Tensor, int]]) -> Any:
        return default_collate(items) if items else None, dict(self._dataset.skipped)


class _Loader(DataLoader[tuple[Tensor, int]]):
    """A `DataLoader` of a `JpegFolder`, which passes on what was left out, and no empty batches."""

    def __iter__(self) -> Any:
        folder: Any = self.dataset
        for batch, skipped in super().__iter__():
            folder.skipped.update(skipped)
            if batch is not None:
                yield batch
        if folder.skipped:
            first = next(iter(folder.skipped.values()))
            logger.warning(
                "left out %s of %s images that cannot be read: %s ...", len(folder.skipped), len(folder), first
            )


def turned_upright(pixels: Tensor, orientation: int) -> Tensor:
    """Return an image (..., height, width) with its EXIF orientation, 1 to 8, applied."""
    turned = pixels.transpose(-2, -1) if orientation in TRANSPOSED else pixels
    axes = [axis for axis, orientations in ((-1, FLIPPED_COLUMNS), (-2, FLIPPED_ROWS)) if orientation in orientations]
    return turned.flip(axes) if axes else turned


def _central_region(height: int, width: int, size: tuple[int, int]) -> Region:
    """Return the centre crop of an image: CENTRAL_RATIO of the largest crop with the aspect of `size`."""
    scale = CENTRAL_RATIO * min(height / size[0], width / size[1])
    rows, columns = (max(1, round(scale * side)) for side in size)
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _whole_part(pixels: Tensor, region: Region, size: tuple[int, int]) -> Tensor:
    """Return a part of an image (3, height, width) of bytes at another size."""
    top, left, rows, columns = region
    return resized(pixels[None, :, top : top + rows, left : left + columns], *size)[0]


def _exact_part(
    pixels: Tensor, region: Region, divisor: int, lead: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """Return a part of an image at another size, as `_whole_part`.

    Args:
        pixels: (3, height, width), bytes, made smaller by the decoder.
        region: in the file's pixels.
        divisor: how much smaller the image is.
        lead: where the file's first row and column lie in it.
        size: of the result.
    """
    top, left = (start / divisor + first for start, first in zip(region[:2], lead, strict=True))
    rows, columns = (side / divisor for side in region[2:])
    if all(number.is_integer() for number in (top, left, rows, columns)):
        return _whole_part(pixels, (int(top), int(left), int(rows), int(columns)), size)
    # Torch cuts at whole pixels only, half a pixel of the result beside the part.
    image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    box = (left, top, left + columns, top + rows)
    return torch.from_numpy(np.array(image.resize(size[::-1], Image.Resampling.BILINEAR, box))).permute(2, 0, 1)


def _lead(height: int, width: int, divisor: int, orientation: int) -> tuple[float, float]:
    """Return where an upright image's first row and column lie in the smaller one.

    Its last pixels stand for fewer of the file's where the divisor does not divide these; a flip brings them to the
    front.
    """
    return (
        -height % divisor / divisor if orientation in FLIPPED_ROWS else 0.0,
        -width % divisor / divisor if orientation in FLIPPED_COLUMNS else 0.0,
    )


def _scaled(region: Region, vertical: float, horizontal: float) -> Region:
    """Return the region in an image that was decoded at reduced size; at least one pixel."""
    top, left, height, width = region
    first_row, first_column = int(top * vertical), int(left * horizontal)
    rows, columns = max(1, int(height * vertical)), max(1, int(width * horizontal))
    return first_row, first_column, rows, columns


def _four_numbers() -> list[float]:
    found: list[float] = torch.rand(4, dtype=torch.float64, device="cpu").tolist()
    return found


def _random_integer(stop: int) -> int:
    return int(torch.randint(stop, (), device="cpu"))


def _is_heads() -> bool:
    return bool(_random_integer(2))


def _sides(size: Any, unit: int) -> tuple[int, int]:
    """Return (height, width) of one number for both or two; `ArgumentError` unless they are multiples of `unit`."""
    try:
        sides = [operator.index(side) for side in (size if isinstance(size, Sequence) else (size, size))]
    except TypeError:
        sides = []
    if len(sides) != 2 or any(side < unit or side % unit for side in sides):
        raise ArgumentError(f"size must be an integer or (height, width), positive multiples of {unit}, got {size!r}")
    return sides[0], sides[1]


def _files_of(root: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    try:
        folders = visible_folders(root)
    except (OSError, ValueError) as error:  # of ValueError: a name with a zero byte
        raise DataError(f"cannot read the folder {root}: {getattr(error, 'strerror', None) or error}") from error
    files: list[Path] = []
    labels: list[int] = []
    others: list[Path] = []
    for label, folder in enumerate(folders):
        there = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=by_name)
        own = [path for path in there if path.suffix.lower() in SUFFIXES]
        others += [path for path in there if path.suffix.lower() not in SUFFIXES and path.is_file()]
        for path in own:
            check_is_regular(path)
        if not own:
            raise DataError(f"{folder} holds no JPEG files ({', '.join(SUFFIXES)})")
        files += own
        labels += [label] * len(own)
    if not files:
        raise DataError(f"{root} holds no folders; there must be one for each class")
    if others:
        logger.warning(
            "left out %s of %s files in %s, which are not called .jpg or .jpeg: %s%s",
            f"{len(others):,}",
            f"{len(others) + len(files):,}",
            root,
            others[0].relative_to(root),
            ", ..." if len(others) > 1 else "",
        )
    return files, labels, tuple(folder.name for folder in folders)
