"""`Scores`: the importance of each channel by layer, and its JSON file."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tailcut.channels.scoring.formulas import Formula, MapParts
from tailcut.errors import ArgumentError, DataError
from tailcut.files import write_atomically
from tailcut.printing import Report, table

FORMAT = "tailcut channel scores"
VERSION = 1
MAX_FILE_BYTES = 1 << 28
MAX_INTEGER = 1 << 53  # larger ones are not exact as float64
IMPORTANCE = "importance"


class Scores(dict[str, Tensor]):
    """The importance of each output channel of each scored layer: layer name -> float64 (channels,).

    A dict, in the order of the model's modules; the higher, the more important.

    Attributes:
        method: how they were found: `spectral`, `l1`, ...
        settings: the settings of the method, as plain values.
        num_images: over how many images they are means (of all processes together); 0 if they are of weights only.
        parts: for the method `spectral`, layer name -> the means of the parts of its score; else empty.
        skipped: layers that were not scored, and why.
        fallback: scored layers that nobody named, linear ones over tokens: for `prune` they count only for channels
            that go together with no other scored layer.
    """

    def __init__(
        self,
        importance: Mapping[str, Tensor],
        *,
        method: str,
        settings: Mapping[str, Any] | None = None,
        num_images: int = 0,
        parts: Mapping[str, MapParts] | None = None,
        skipped: Mapping[str, str] | None = None,
        fallback: Iterable[str] = (),
    ) -> None:
        super().__init__(importance)
        self.method = method
        self.settings = dict(settings or {})
        self.num_images = num_images
        self.parts = dict(parts or {})
        self.skipped = dict(skipped or {})
        self.fallback = frozenset(fallback)

    def combined(self, formula: Formula) -> "Scores":
        """Return the scores of the same images for another spatial weight or other components, without a new pass.

        Args:
            formula: its variant, block size and sigma must be those of these scores.

        Raises:
            ArgumentError: these are no spectral scores, or the maps would have to be transformed anew.
        """
        settings = formula_settings(formula)
        fixed = ("variant", "block_size", "gaussian_sigma")
        if not self.parts or any(self.settings[key] != settings[key] for key in fixed):
            own = ", ".join(f"{key} {self.settings.get(key)}" for key in fixed)
            wanted = ", ".join(f"{key} {settings[key]}" for key in fixed)
            raise ArgumentError(f"scores by {self.method} with {own} do not tell those with {wanted}: score anew")
        importance = {name: formula.combine(*parts) for name, parts in self.parts.items()}
        return Scores(
            importance,
            method=self.method,
            settings=self.settings | settings,
            num_images=self.num_images,
            parts=self.parts,
            skipped=self.skipped,
            fallback=self.fallback,
        )

    def save(self, path: str | Path) -> None:
        """Write them as JSON, whole or not at all. Numbers come back exactly.

        Raises:
            ArgumentError: the folder of `path` does not exist.
        """
        layers = {}
        for name, importance in self.items():
            parts = self.parts[name]._asdict() if name in self.parts else {}
            columns = {IMPORTANCE: importance, **parts}
            layers[name] = {key: values.tolist() for key, values in columns.items()}
        content = {
            "format": FORMAT,
            "version": VERSION,
            "method": self.method,
            "settings": self.settings,
            "num_images": self.num_images,
            "layers": layers,
            "skipped": self.skipped,
            "fallback": [name for name in self if name in self.fallback],
        }
        write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        """Read what `save` wrote.

        Raises:
            DataError: the file cannot be read, is no JSON of scores, or is damaged; the message says where.
        """
        try:
            return _from_plain(_read_json(Path(path)))
        except _DamagedError as error:
            raise DataError(f"{path} is no file of channel scores, or it is damaged: {error}") from error

    def summary(self) -> list["ScoredLayer"]:
        """Return a short line per scored layer."""
        return [
            ScoredLayer(name, len(values), float(values.min()), float(values.median()), float(values.max()))
            for name, values in self.items()
        ]

    def __str__(self) -> str:
        return layer_table(self.summary(), self.skipped)

    def __repr__(self) -> str:
        return f"Scores(method={self.method!r}, {len(self)} layers, num_images={self.num_images})"


@dataclass
class ScoredLayer(Report):
    """The scores of one layer in short.

    Attributes:
        name: of the layer.
        num_channels: how many output channels it has.
        lowest: the smallest score.
        median: the middle one (the lower of two).
        highest: the largest.
    """

    name: str
    num_channels: int
    lowest: float
    median: float
    highest: float


def layer_table(layers: Sequence[ScoredLayer], skipped: Mapping[str, str]) -> str:
    """Return a table with a row per layer, and below it the layers that were not scored."""
    rows = [
        (layer.name, layer.num_channels, f"{layer.lowest:.4g}", f"{layer.median:.4g}", f"{layer.highest:.4g}")
        for layer in layers
    ]
    text = table(("layer", "channels", "lowest", "median", "highest"), rows, align="<>>>>")
    return f"{text}\n\n{table(('not scored', 'why'), list(skipped.items()))}" if skipped else text


def formula_settings(formula: Formula) -> dict[str, Any]:
    """Return a formula as plain values, for `Scores.settings`."""
    return asdict(formula) | {"components": list(formula.components)}


class _DamagedError(Exception):
    """A file of scores cannot be read; the message says why."""


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _DamagedError(f"it has more than {MAX_FILE_BYTES:,} bytes")
        content = path.read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"cannot read the scores {path}: {why} (make them with tailcut score)") from error
    try:
        return json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _DamagedError(str(error)) from error


def _refuse(constant: str) -> float:
    raise _DamagedError(f"{constant} is no score")


def _from_plain(content: Any) -> Scores:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _DamagedError(f'it does not say "format": "{FORMAT}"')
    if content.get("version") != VERSION:
        raise _DamagedError(f"it is of version {content.get('version')!r}, this Tailcut reads version {VERSION}")
    method, settings = _of_type(content, "method", str), _of_type(content, "settings", dict)
    layers, skipped = _of_type(content, "layers", dict), _of_type(content, "skipped", dict)
    num_images = _of_type(content, "num_images", int)
    if num_images < 0 or not all(isinstance(reason, str) for reason in skipped.values()):
        raise _DamagedError("num_images is negative, or a reason in skipped is no text")
    fallback = content.get("fallback", [])  # older files have none
    if not isinstance(fallback, list) or not all(isinstance(name, str) and name in layers for name in fallback):
        raise _DamagedError("fallback must be a list of names of its layers")
    importance, parts = {}, {}
    for name, columns in layers.items():
        importance[name], own = _layer(name, columns)
        if own is not None:
            parts[name] = own
    return Scores(
        importance,
        method=method,
        settings=settings,
        num_images=num_images,
        parts=parts,
        skipped=skipped,
        fallback=fallback,
    )


def _layer(name: str, columns: Any) -> tuple[Tensor, MapParts | None]:
    if not isinstance(columns, dict) or set(columns) not in ({IMPORTANCE}, {IMPORTANCE, *MapParts._fields}):
        raise _DamagedError(
            f"layer {name} must have the list {IMPORTANCE}, with or without {', '.join(MapParts._fields)}"
        )
    vectors = {key: _vector(name, key, values) for key, values in columns.items()}
    if len({len(vector) for vector in vectors.values()}) > 1:
        raise _DamagedError(f"the lists of layer {name} differ in length")
    importance = vectors.pop(IMPORTANCE)
    return importance, MapParts(**vectors) if vectors else None


def _vector(name: str, key: str, values: Any) -> Tensor:
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
        raise _DamagedError(f"{key} of layer {name} must be a list of finite numbers")
    return torch.tensor([float(value) for value in values], dtype=torch.float64, device="cpu")


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) is int and abs(value) <= MAX_INTEGER


def _of_type(content: dict[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _DamagedError(f"{key} must be of type {kind.__name__}, found {type(value).__name__}")
    return value
