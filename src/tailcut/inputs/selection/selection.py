"""Selection of frequency channels: the frequencies of luma and chroma that a network reads."""

import json
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tailcut.arguments import check_seed, is_integer
from tailcut.errors import ArgumentError, DataError
from tailcut.files import write_atomically
from tailcut.inputs.selection.patterns import (
    COMPONENTS,
    LEARNED,
    NUM_CHANNELS,
    NUM_FREQUENCIES,
    PUBLISHED,
    Indices,
    split_channels,
    square_indices,
    triangle_indices,
)
from tailcut.transform.block import BLOCK_SIZE, zigzag_order

# A selection of all 192 channels takes less than a kilobyte of JSON.
MAX_FILE_BYTES = 1 << 16


@dataclass(frozen=True)
class Selection:
    """The kept frequencies of each colour component, as row-major indices 8 v + u, 0 to 63.

    Indices may be given in any order and are kept sorted. The channels of a tensor follow this order: luma, then blue
    chroma, then red chroma, each with rising index. Selections are values: equal ones are equal and hash alike.

    Attributes:
        luma: frequencies of Y.
        chroma_blue: frequencies of Cb.
        chroma_red: frequencies of Cr.

    Raises:
        ArgumentError: an index is no integer of 0 to 63 or comes twice, or nothing is selected.

    >>> Selection.of(6).indices
    (0, 1, 8, 9, 64, 128)
    """

    luma: Indices
    chroma_blue: Indices = ()
    chroma_red: Indices = ()

    def __post_init__(self) -> None:
        for name in COMPONENTS:
            given = getattr(self, name)
            object.__setattr__(self, name, _checked(given, NUM_FREQUENCIES, f"the frequencies of {name}"))
        if self.num_channels == 0:
            raise ArgumentError("a selection keeps at least one frequency, got none")

    @classmethod
    def of(cls, channels: "int | Sequence[int] | Selection") -> "Selection":
        """Return the selection that `channels` stands for.

        Args:
            channels: 6, 24, 32, 48 or 64, the paper's static selections (12 too: the paper gives no table for its
                DCT-12S; ours is `square(12)`); 192, all; a list of channel numbers of 0 to 191, where channel
                64 c + i is frequency i of Y, Cb or Cr (c = 0, 1, 2); or a selection, which is returned as it is. An
                integer of NumPy, or a tensor or array without axes, is a count too.

        Raises:
            ArgumentError: another number, or no such list.
        """
        if isinstance(channels, Selection):
            return channels
        count = _as_count(channels)
        if count is not None:
            if count == 12:
                return square(12)
            if count not in PUBLISHED:
                raise ArgumentError(
                    f"there is no published selection of {count} channels, only of 6, 12, 24, 32, 48, 64 and 192; "
                    "for others give a list of channel numbers, or in Python tailcut.inputs.square(n) or triangle(n)"
                )
            luma, chroma = PUBLISHED[count]
            return cls(luma, chroma, chroma)
        numbers = _checked(channels, NUM_CHANNELS, "channels")
        parts: list[list[int]] = [[] for _ in COMPONENTS]
        for number in numbers:
            parts[number // NUM_FREQUENCIES].append(number % NUM_FREQUENCIES)
        return cls(*map(tuple, parts))

    @classmethod
    def learned(cls) -> "Selection":
        """Return the 14 + 5 + 5 channels that the paper's gate chose on ImageNet (DCT-24D)."""
        luma, chroma = LEARNED
        return cls(luma, chroma, chroma)

    @classmethod
    def top(cls, importance: Tensor | Sequence[float], num_channels: int) -> "Selection":
        """Return the most important channels, for example by the probabilities of a gate.

        Args:
            importance: 192 numbers, one per channel; of equal ones the first come first.
            num_channels: how many to keep, 1 to 192.

        Raises:
            ArgumentError: not 192 finite numbers, or a count out of range.
        """
        values = torch.as_tensor(importance).detach().to("cpu", torch.float64)
        if tuple(values.shape) != (NUM_CHANNELS,) or not bool(values.isfinite().all()):
            raise ArgumentError(
                f"expected the importance of {NUM_CHANNELS} channels, all finite, got shape {tuple(values.shape)}"
            )
        _check_count(num_channels)
        return cls.of(values.argsort(descending=True, stable=True)[:num_channels].tolist())

    @classmethod
    def by_energy(cls, energy: Tensor | Sequence[float], num_channels: int) -> "Selection":
        """Return the channels with most energy, as `frequency_energy` measures it.

        Raises:
            ArgumentError: not 192 finite, non-negative numbers, or a count out of range.
        """
        values = torch.as_tensor(energy)
        if bool((values < 0).any()):
            raise ArgumentError("an energy is never negative; for other measures use Selection.top")
        return cls.top(values, num_channels)

    @classmethod
    def random(cls, num_channels: int, *, seed: int) -> "Selection":
        """Channels drawn at random from all 192, the same for the same seed.

        Raises:
            ArgumentError: not 1 to 192 channels.
        """
        _check_count(num_channels)
        generator = torch.Generator(device="cpu").manual_seed(check_seed(seed))
        return cls.of(torch.randperm(NUM_CHANNELS, generator=generator, device="cpu")[:num_channels].tolist())

    @property
    def num_channels(self) -> int:
        """Number of kept channels over all components."""
        return len(self.luma) + len(self.chroma_blue) + len(self.chroma_red)

    @property
    def indices(self) -> Indices:
        """The channel numbers, 0 to 191, rising: 64 c + i is frequency i of component c (Y, Cb, Cr)."""
        parts = enumerate(self.components().values())
        return tuple(place * NUM_FREQUENCIES + index for place, part in parts for index in part)

    def components(self) -> dict[str, Indices]:
        """Return the frequencies of each component by its name, in the order Y, Cb, Cr."""
        return {name: getattr(self, name) for name in COMPONENTS}

    def to_json(self) -> str:
        """Return a JSON object with the three lists of row-major indices by name."""
        return json.dumps({name: list(part) for name, part in self.components().items()})

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "the selection") -> Self:
        """Read what `to_json` wrote.

        Args:
            text: the JSON.
            source: what to call it in an error.

        Raises:
            DataError: this is no such JSON; the message says what was expected.
        """
        if len(text) > MAX_FILE_BYTES:
            raise DataError(f"{source} has more than {MAX_FILE_BYTES} bytes: it is no selection of channels")
        try:
            parts = json.loads(text, object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source} is not valid JSON: {error}") from error
        if not isinstance(parts, dict) or set(parts) != set(COMPONENTS):
            raise DataError(f"{source} must be one JSON object with the lists {', '.join(COMPONENTS)}")
        for name, part in parts.items():
            if not isinstance(part, list):
                raise DataError(f"{source}: {name} must be a list of integers of 0 to {NUM_FREQUENCIES - 1}")
        try:
            return cls(**parts)
        except ArgumentError as error:
            raise DataError(f"{source}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the selection as a JSON file, whole or not at all.

        Raises:
            ArgumentError: the folder of `path` does not exist.
        """
        write_atomically(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            DataError: the file cannot be read or holds no selection.
        """
        try:
            with Path(path).open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # of ValueError: a name with a zero byte
            raise DataError(f"cannot read the selection {path}: {getattr(error, 'strerror', None) or error}") from error
        return cls.from_json(content, source=str(path))

    def __str__(self) -> str:
        """Three 8 x 8 grids, each with the row-major and the zigzag numbers of the kept frequencies."""
        counts = ", ".join(f"{name} {len(part)}" for name, part in self.components().items())
        lines = [f"{self.num_channels} channels: {counts}"]
        zigzag = zigzag_order().argsort().tolist()
        for name, part in self.components().items():
            lines += ["", f"{name + ', row-major':<{3 * BLOCK_SIZE}}      {name}, zigzag"]
            for start in range(0, NUM_FREQUENCIES, BLOCK_SIZE):
                row = range(start, start + BLOCK_SIZE)
                left = "".join(f"{index if index in part else '.':>3}" for index in row)
                right = "".join(f"{zigzag[index] if index in part else '.':>3}" for index in row)
                lines.append(f"{left}     {right}")
        return "\n".join(lines)


def square(channels: int | tuple[int, int, int]) -> Selection:
    """Frequencies close to upper-left squares (the paper's S patterns).

    A square that is not full lacks its highest frequencies (by L1 norm, ties from below). The published tables for 48
    and 64 leave out others of the lower right; `Selection.of` gives those.

    Args:
        channels: the total, of which a sixth goes to each chroma component as in the paper, or the counts
            (luma, chroma_blue, chroma_red).

    Raises:
        ArgumentError: no such number of channels.

    >>> square((16, 4, 4)) == square(24) == Selection.of(24)
    True
    """
    return Selection(*map(square_indices, split_channels(channels)))


def triangle(channels: int | tuple[int, int, int]) -> Selection:
    """Frequencies close to upper-left triangles (the paper's T patterns): the first in L1 order; see `square`.

    >>> triangle((3, 1, 1)).luma
    (0, 1, 8)
    """
    return Selection(*map(triangle_indices, split_channels(channels)))


def _checked(indices: object, limit: int, what: str) -> Indices:
    """Return the indices sorted; raise ArgumentError unless they are distinct integers of 0 to `limit` - 1."""
    given = indices.tolist() if isinstance(indices, (Tensor, np.ndarray)) else indices
    if not isinstance(given, Iterable):
        raise ArgumentError(f"{what} must be integers of 0 to {limit - 1} in a list, got {reprlib.repr(given)}")
    items = list(given)
    values = [int(item) for item in items if is_integer(item)]
    if len(values) < len(items) or not all(0 <= value < limit for value in values):
        raise ArgumentError(f"{what} must be integers of 0 to {limit - 1}, got {reprlib.repr(given)}")
    if len(set(values)) < len(values):
        raise ArgumentError(f"{what} must be different, got {reprlib.repr(given)}")
    return tuple(sorted(values))


def _as_count(channels: Any) -> int | None:
    """Return an integer of Python or NumPy, or of a tensor or array without axes, as an int; None for anything else."""
    if isinstance(channels, (Tensor, np.ndarray)) and channels.ndim == 0:
        channels = channels.item()
    return int(channels) if is_integer(channels) else None


def _check_count(num_channels: int) -> None:
    if not is_integer(num_channels) or not 1 <= num_channels <= NUM_CHANNELS:
        raise ArgumentError(f"expected 1 to {NUM_CHANNELS} channels to keep, got {num_channels!r}")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; a duplicate key is an error."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key comes twice")
    return values
