"""What is fuzzed: for each target how a content is tried, what it may answer, how it is mutated, and its bounds.

A finding is an error that is none of ours, a wrong answer, more memory or more processor time than the bound.
"""

import json
import math
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from conformance.networks import DESCRIPTIONS, own_class, registered
from conformance.reference import RefusedError, decoder
from conformance.reference.items import Items
from conformance.torch_networks import REGISTERED, build
from torch import nn

import tailcut
from fuzz import checkpoints, mutators, quantized
from tailcut.errors import ArgumentError, CorruptFileError, DataError, FormatError, RecipeError
from tailcut.format import codecs
from tailcut.structure import registry
from tailcut.weights import truncated_tensors

ROOT = Path(__file__).parents[1]
CORPORA = Path(__file__).parent / "corpora"
RULES = json.loads((ROOT / "conformance" / "rules.json").read_text(encoding="utf-8"))
_FILES = ("tests/format/golden/[lo]*.tailcut", "tests/format/golden/edits/*.tailcut", "conformance/valid/*.tailcut")
MAX_NUMBERS = mutators.MAX_NUMBERS
MAX_PIXELS = 1 << 22
MAX_ITEMS = 1 << 10
MB = 1 << 20
_LOADED = 8 * 4 * MAX_NUMBERS + 200 * MB  # eight times the dense weights of the largest network, and 200 MB


class FindingError(Exception):
    """A content that is answered wrongly, too slowly or with too much memory."""


@dataclass(frozen=True)
class Target:
    """What is tried.

    Attributes:
        name: also of its corpus.
        run: tries a content; any exception is a finding.
        mutate: see `mutators`.
        corpus: the folder below `CORPORA` with the contents that fuzzing found to reach new code.
        known: further folders or files with sound contents.
        seconds: the most processor time of one content.
        num_bytes: the most memory that one content takes.
    """

    name: str
    run: Callable[[bytes], None]
    mutate: mutators.Mutator
    corpus: str
    known: tuple[str, ...]
    seconds: float
    num_bytes: int

    def seeds(self) -> list[Path]:
        """Return the contents in the repository, in a fixed order."""
        found = [path for pattern in self.known for path in sorted(ROOT.glob(pattern))]
        return [*found, *sorted((CORPORA / self.corpus).glob("*"))]

    def try_content(self, content: bytes) -> None:
        """Run, and watch time and memory.

        Raises:
            FindingError: a bound is passed, or the answer is wrong.
            Exception: whatever else the content made the code raise.
        """
        with watched(self.seconds, self.num_bytes):
            self.run(content)


@contextmanager
def watched(seconds: float, num_bytes: int) -> Iterator[None]:
    """Raise `FindingError` if the block takes more processor time or memory than this.

    Memory is the growth of the peak of the process above where it stood before the block: a peak below an earlier one
    does not show, so the first content that passes the bound is found, which is the one that counts.
    """
    before, start = resident_bytes(), time.process_time()
    yield
    taken, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if taken > seconds:
        raise FindingError(f"it took {taken:.1f} s of processor time, at most {seconds} s are allowed")
    if peak - before > num_bytes and peak > _peaks.get("last", 0):
        _peaks["last"] = peak
        raise FindingError(f"it took {(peak - before) / MB:.0f} MB, at most {num_bytes / MB:.0f} MB are allowed")


_peaks: dict[str, int] = {}


def resident_bytes() -> int:
    """What the process holds now; 0 where the system does not tell (so that the peak itself is bounded)."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0


# ---- files ----

_FILE = Path(tempfile.gettempdir()) / f"tailcut-fuzz-{os.getpid()}.tailcut"


@contextmanager
def as_file(content: bytes) -> Iterator[Path]:
    path = _FILE.with_name(f"tailcut-fuzz-{os.getpid()}.tailcut")
    path.write_bytes(content)
    try:
        yield path
    finally:
        path.unlink()


def own_class_of(content: bytes) -> str:
    """Return the own class of the corpus whose tensors have most in common with those that the file lists."""
    try:
        is_in_levels = content[4:5] == mutators.LEVELS
        body = mutators.blocks_of(content)[1][0] if is_in_levels else content[9:]
        header = decoder.read_header(Items(decoder.read_frame(Items(body[4:]))), content[4])
    except (RefusedError, FormatError):
        return "linear"
    listed = {other.name for other in header.others}
    return max(_NAMES, key=lambda name: (len(_NAMES[name] & listed), -len(_NAMES[name])))


_NAMES = {name: {tensor for tensor, _ in own_class(name).state()} for name in DESCRIPTIONS}


@contextmanager
def corpus_networks() -> Iterator[None]:
    """The networks of the conformance corpus are registered within the block."""
    for name, network in REGISTERED.items():
        tailcut.register_model(name, example_shape=(1, 3))(network)
    try:
        yield
    finally:
        for name in REGISTERED:
            del registry._families[name]


def run_inspect(content: bytes) -> None:
    """It is a report or one of our errors; what `inspect` refuses, `load` refuses too."""
    with as_file(content) as path, corpus_networks():
        try:
            report = tailcut.inspect(path, max_parameters=MAX_NUMBERS)
        except FormatError as error:
            _check_error(error)
            return
        if not str(report) or report.file_bytes != len(content):
            raise FindingError("the report is empty or tells another size")
        report.to_json()


def run_load(content: bytes) -> None:
    """It is a network, which is the one that `inspect` tells of, or one of our errors."""
    into: nn.Module | None = None
    with as_file(content) as path, corpus_networks():
        try:
            try:
                model = tailcut.load(path, max_parameters=MAX_NUMBERS, allow_non_finite=True)
            except ArgumentError as error:
                if "into=" not in str(error):
                    raise
                into = build(own_class_of(content))
                before = {name: tensor.clone() for name, tensor in into.state_dict().items()}
                model = tailcut.load(path, into=into, max_parameters=MAX_NUMBERS, allow_non_finite=True)
        except FormatError as error:
            _check_error(error)
            if into is not None:
                _check_untouched(into, before)
            return
        report = tailcut.inspect(path, max_parameters=MAX_NUMBERS)
    num_parameters = sum(tensor.numel() for tensor in tailcut.to_dense(model).parameters())
    if report.num_parameters != num_parameters:
        raise FindingError(f"inspect tells {report.num_parameters} parameters, the network has {num_parameters}")


def _check_error(error: FormatError) -> None:
    """One line of a bearable length, without what commands terminals."""
    text = str(error)
    if not text or len(text) > 10_000 or any(ord(letter) < 32 and letter != "\n" for letter in text):
        raise FindingError(f"an error of {len(text)} letters, or with control characters: {text[:300]!r}") from error


def _check_untouched(into: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = into.state_dict()
    if list(after) != list(before) or not all(torch.equal(after[name], before[name]) for name in before):
        raise FindingError("the network given as into= was changed, though the file was refused")


def run_agreement(content: bytes) -> None:
    """The library and the reference reader read the same numbers, or refuse with the same error."""
    name = own_class_of(content)
    try:
        wanted: decoder.Content | str = decoder.read(content, registered(), own_class(name), max_parameters=MAX_NUMBERS)
    except RefusedError as error:
        if error.rule == "base-name":  # a network that is not the corpus's
            return
        wanted = RULES[error.rule]["error"]
    into = None
    with as_file(content) as path, corpus_networks():
        try:
            try:
                model = tailcut.load(path, max_parameters=MAX_NUMBERS, allow_non_finite=True)
            except ArgumentError:
                into = build(name)
                model = tailcut.load(path, into=into, max_parameters=MAX_NUMBERS, allow_non_finite=True)
        except FormatError as error:
            if isinstance(wanted, str) and type(error).__name__ == wanted:
                return
            raise FindingError(f"the library refuses with {error!r}, the reference reader: {wanted}") from error
    if isinstance(wanted, str):
        raise FindingError(f"the library accepts what the reference reader refuses with {wanted}")
    kept = {entry.name: entry.coefficients() for entry in truncated_tensors(model)}
    tensors = kept | {other.name: model.state_dict()[other.name] for other in wanted.others}
    every: list[decoder.Kept | decoder.Other] = [*wanted.kept, *wanted.others]
    for entry in every:
        found = tensors[entry.name].detach().double().flatten().tolist()
        if len(found) != len(entry.numbers) or not all(map(_same, found, entry.numbers)):
            raise FindingError(f"{entry.name}: {found[:9]}, the reference reader has {entry.numbers[:9]}")


def _same(one: float, other: float) -> bool:
    """Return whether they agree, up to the rounding of another type."""
    return math.isclose(one, other, rel_tol=1e-2, abs_tol=1e-7) or (math.isnan(one) and math.isnan(other))


# ---- codecs ----


def run_codecs(content: bytes) -> None:
    """A payload gives as many bytes as were asked for, or `CorruptFileError`; all codecs give back what they took."""
    if len(content) < 4:
        return
    codec = codecs.CODECS[content[0] % len(codecs.CODECS)]
    item_bytes = (1, 2, 4, 8)[content[1] % 4]
    num_bytes = int.from_bytes(content[2:4], "little") % MAX_ITEMS * item_bytes
    payload = content[4:]
    try:
        found = codec.decode(payload, num_bytes, item_bytes)
    except CorruptFileError as error:
        _check_error(error)
    else:
        if len(found) != num_bytes:
            raise FindingError(f"{codec.name} gave {len(found)} bytes, {num_bytes} were asked for")
        written = codec.encode(found, item_bytes)
        if codec.number != 1 and written != payload:
            raise FindingError(f"{codec.name} has two payloads for one content")
    sound = payload[: len(payload) - len(payload) % item_bytes][:256]
    written = codec.encode(sound, item_bytes)
    if written is not None and codec.decode(written, len(sound), item_bytes) != sound:
        raise FindingError(f"{codec.name} does not give back what it took")


# ---- JPEG ----


def run_read_jpeg(content: bytes) -> None:
    """Coefficients that are finite whole multiples of the tables, or `DataError`."""
    from tailcut.inputs import read_jpeg
    from tailcut.jpeg.markers import read_markers

    try:
        if math.prod(read_markers(content).size) > MAX_PIXELS:
            return  # an image may be large: what it costs is bounded elsewhere
        image = read_jpeg(content)
    except DataError as error:
        if not str(error):
            raise FindingError("an error without a text") from error
        return
    for plane in (image.luma, image.chroma_blue, image.chroma_red):
        if plane is not None and not bool(torch.isfinite(plane).all()):
            raise FindingError("a coefficient is not finite")


# ---- recipes ----


def run_recipes(content: bytes) -> None:
    """A recipe that, written, reads as itself; or `RecipeError`."""
    from tailcut.training.recipe.toml_files import parse_recipe, to_toml

    try:
        recipe = parse_recipe(content.decode("utf-8", "replace"), source="fuzz.toml")
    except RecipeError as error:
        if not str(error):
            raise FindingError("an error without a text") from error
        return
    if parse_recipe(to_toml(recipe), source="again.toml") != recipe:
        raise FindingError("the recipe reads differently once written")


TARGETS = {
    target.name: target
    for target in (
        Target("inspect", run_inspect, mutators.tailcut_file, "tailcut", _FILES, 5, _LOADED),
        Target("load", run_load, mutators.tailcut_file, "tailcut", _FILES, 10, _LOADED),
        Target("agreement", run_agreement, mutators.tailcut_file, "tailcut", _FILES[2:], 10, _LOADED),
        Target("read_jpeg", run_read_jpeg, mutators.jpeg, "jpeg", (), 10, 64 * MB + 24 * MAX_PIXELS),
        Target("codecs", run_codecs, mutators.blindly, "codecs", (), 5, 64 * MB),
        Target("quantized", quantized.run, quantized.mutate, "quantized", (), 5, 64 * MB),
        Target("checkpoints", checkpoints.run, checkpoints.mutate, "checkpoints", (), 5, 256 * MB),
        Target("recipes", run_recipes, mutators.toml, "recipes", ("recipes/**/*.toml",), 5, 64 * MB),
    )
}
