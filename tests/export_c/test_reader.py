"""The reader in C, beside Python's: same verdict, same numbers, on sound, broken and damaged files."""

import hashlib
import json
import math
import random
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance.networks import FOLDER
from conformance.torch_networks import Chain, Image, build
from tests.export_c.compiling import C_FOLDER, SANITIZED, compile_c
from tests.export_c.oracle import (
    Numbers,
    damage,
    is_described,
    metadata_of,
    read_alone,
    read_into,
    refusal,
    with_checksum,
)
from tests.export_c.reader import Answer, ReadTensor, Request, read_all
from tests.format.networks import OwnNet, registered
from torch import nn

import tailcut
from conformance import reference
from tailcut.export_c import describe, reader_sources
from tailcut.format.container.contents import Contents, Stream, decode, encode
from tailcut.structure import Writer
from tailcut.transform.order import l1_order_index
from tailcut.weights import truncated_tensors

VALID: dict[str, Any] = json.loads((FOLDER / "valid.json").read_text(encoding="utf-8"))
INVALID: dict[str, Any] = json.loads((FOLDER / "invalid.json").read_text(encoding="utf-8"))
IN_LEVELS = {name: entry for name, entry in VALID.items() if "levels" in entry}
ALONG_AXES = {name: entry for name, entry in VALID.items() if name.removeprefix("levels-").startswith("axes")}
DEPENDENT = {name: entry for name, entry in VALID.items() if name.removeprefix("levels-").startswith("dependent")}
GOLDEN = sorted((Path(__file__).parents[1] / "format" / "golden").rglob("*.tailcut"))
ZOO = sorted((Path(tailcut.__file__).parent / "format" / "zoo").glob("*.tailcut"))
OWN_CLASSES: dict[str, Callable[[], nn.Module]] = {
    "own-class": OwnNet,
    "own-zeros": lambda: nn.Sequential(*(nn.Linear(12, 12) for _ in range(6))),
}
# Read in C before the edits that a header ends within; in Python after the header.
OTHER_ERRORS = {"edits-fewer": "UnsupportedVersionError"}
WIDE = 1 << 23


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader with sanitizers for addresses and undefined behaviour, which end it at the first finding."""
    into = tmp_path_factory.mktemp("reader") / "reader_batch"
    return compile_c(into, [*reader_sources(), C_FOLDER / "reader_batch.c"], *SANITIZED, "-O1")


@pytest.fixture(autouse=True, scope="module")
def registered_networks() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(registered("conformance-chain", Chain))
        stack.enter_context(registered("conformance-image", Image))
        yield


def content_of(name: str, kind: str = "valid") -> bytes:
    return (FOLDER / kind / f"{name}.tailcut").read_bytes()


def check_numbers(answer: Answer, wanted: Numbers, what: object = "") -> None:
    """Bit by bit; to 1e-6 of each where numbers are computed from rounded ones."""
    for (name, shape, axes, weights, numbers), found in zip(wanted.kept, answer.kept, strict=True):
        assert (found.name, found.shape, found.axes, found.weights) == (name, shape, axes, weights), what
        _check_same(found, numbers, what)
    for (name, shape, is_parameter, numbers), found in zip(wanted.others, answer.others, strict=True):
        assert (found.name, found.shape, found.is_parameter) == (name, shape, is_parameter), what
        _check_same(found, numbers, what)
    assert metadata_of(answer.metadata) == wanted.contents.metadata
    assert answer.num_edits == len(wanted.contents.edits)
    assert (answer.level, answer.num_levels) == (len(wanted.contents.levels), len(wanted.contents.parts) + 1)


def _check_same(found: ReadTensor, numbers: torch.Tensor, what: object) -> None:
    numbers = numbers.reshape(-1)
    assert found.type == numbers.dtype
    # A transform's terms that cancel leave their rounding in float64, another one in each program.
    largest = max(numbers.double().nan_to_num(0, 0, 0).abs().tolist(), default=0)
    atol = max(1e-15 * largest, 1e-30)
    if found.is_quantized:
        torch.testing.assert_close(found.numbers, numbers, rtol=1e-6, atol=atol)
    else:
        raw = [values.contiguous().view(torch.uint8) for values in (found.numbers, numbers)]
        assert torch.equal(*raw), what
    torch.testing.assert_close(found.values, numbers.float(), rtol=1e-6, atol=atol, equal_nan=True)


def test_valid_files_alone(program: Path) -> None:
    names = [name for name, entry in VALID.items() if not entry["base"]]
    requests = [Request(content_of(name), arena=WIDE) for name in names]
    for name, request, answer in zip(names, requests, read_all(program, requests), strict=True):
        assert answer.error == "", name
        check_numbers(answer, read_alone(request.content), name)


def test_invalid_files_alone(program: Path) -> None:
    wanted = {name: entry.get("alone", entry["error"]) or "" for name, entry in INVALID.items() if entry["own"]}
    requests = [
        Request(content_of(name, "invalid"), max_parameters=INVALID[name].get("max_parameters", 1 << 30), arena=WIDE)
        for name in wanted
    ]
    for name, answer in zip(wanted, read_all(program, requests), strict=True):
        if answer.error != "bad argument":  # of a registered network, which is not to be read without
            assert answer.error == OTHER_ERRORS.get(name, wanted[name]), name


def test_valid_files_with_their_networks(program: Path) -> None:
    own = {name: build(entry["own"]) if entry["own"] else None for name, entry in VALID.items()}
    described = [describe(FOLDER / "valid" / f"{name}.tailcut", into=own[name]) for name in VALID]
    requests = [Request(content_of(name), network, arena=WIDE) for name, network in zip(VALID, described, strict=True)]
    for name, answer in zip(VALID, read_all(program, requests), strict=True):
        assert answer.error == "", name
        check_numbers(answer, read_into(content_of(name), own[name]), name)


def test_invalid_files_with_their_networks(program: Path) -> None:
    """Described as they are before any edit, so that an edit which changes layers is that of another network."""
    requests, names = [], []
    for name, entry in INVALID.items():
        like = "nothing" if entry["own"] else next(n for n, e in VALID.items() if e["base"] == "conformance-chain")
        network = describe(FOLDER / "valid" / f"{like}.tailcut", into=build(entry["own"]) if entry["own"] else None)
        requests.append(Request(content_of(name, "invalid"), network, entry.get("max_parameters", 1 << 30), WIDE))
        names.append(name)
    for name, answer in zip(names, read_all(program, requests), strict=True):
        assert answer.error not in ("", "arena too small"), name


def test_levels_of_files(program: Path) -> None:
    """Each level of each sound file: asked for in the whole file, in one cut at its end, and in one cut soon after."""
    requests: list[Request] = []
    wanted = []
    for name, entry in IN_LEVELS.items():
        content, own = content_of(name), build(entry["own"]) if entry["own"] else None
        network = describe(FOLDER / "valid" / f"{name}.tailcut", into=own)
        ends = decode(content).level_ends
        for level, end in enumerate(ends, start=1):
            error, found = refusal(read_into, content, own, 1 << 30, level)
            for part, asked in ((content, level), (content[:end], 0), (content[: end + 3], level)):
                requests.append(Request(part, network, arena=WIDE, level=asked))
                wanted.append((name, error, found))
        requests.append(Request(content, network, arena=WIDE, level=entry["levels"] + 1))
        wanted.append((name, "bad argument", None))
    assert len(requests) > 300
    for (name, error, found), answer in zip(wanted, read_all(program, requests), strict=True):
        assert answer.error == error, name
        if found is not None:
            check_numbers(answer, found, name)
    assert {answer.error for answer in read_all(program, [Request(content_of("plain"), level=2)])} == {"bad argument"}


def test_every_cut_and_every_flipped_bit_of_a_file_with_levels(program: Path) -> None:
    """The checksums as they were, so that none of them is a sound file; cuts at the end of a level are."""
    for name in ("levels-three", "levels-quantized-others", "levels-others-range"):
        content = content_of(name)
        ends = decode(content).level_ends
        requests = [Request(content[:length]) for length in range(len(content))]
        for length, answer in enumerate(read_all(program, requests)):
            assert (answer.error == "") == (length in ends), length
            assert answer.error in ("", "TruncatedFileError") if length else answer.error == "NotTailcutFileError"
        flipped = [
            content[:n] + bytes([content[n] ^ 1 << bit]) + content[n + 1 :]
            for n in range(4, len(content))
            for bit in range(8)
        ]
        assert not [
            request
            for request, answer in zip(flipped, read_all(program, [*map(Request, flipped)]), strict=True)
            if not answer.error
        ]


@pytest.mark.parametrize("path", [*GOLDEN, *ZOO], ids=lambda path: path.stem)
def test_golden_and_zoo_files(program: Path, path: Path) -> None:
    make = OWN_CLASSES.get(path.stem)
    into = None if make is None else make()
    content = path.read_bytes()
    network = describe(path, into=into)
    large = 1 << 28 if len(content) > 40_000 else WIDE
    (answer,) = read_all(program, [Request(content, network, arena=large)])
    assert answer.error == ""
    check_numbers(answer, read_into(content, into))
    # The arena is as large as it says, and not a byte larger.
    tight = [Request(content, network, arena=answer.peak + extra) for extra in (0, -8)]
    first, second = read_all(program, tight)
    assert (first.error, second.error) == ("", "arena too small")


@pytest.mark.parametrize(("entries", "least"), [(ALONG_AXES, 40), (DEPENDENT, 25)], ids=["along axes", "dependent"])
def test_steps_along_axes_and_dependent_numbers(program: Path, entries: dict[str, Any], least: int) -> None:
    """Codecs 4 and 5: the numbers that the corpus tells, of the whole files and of each of their levels."""
    wanted = [
        (Request(content_of(name), arena=WIDE, level=level), VALID[found])
        for name, entry in entries.items()
        if not entry["base"]
        for level, found in enumerate([name, *entry.get("below", ())])
    ]
    assert len(wanted) > least
    for (request, entry), answer in zip(wanted, read_all(program, [request for request, _ in wanted]), strict=True):
        assert answer.error == "", request.content.hex()
        for told, tensor in zip([*entry["coefficients"], *entry["tensors"]], answer.kept + answer.others, strict=True):
            numbers = torch.frombuffer(bytearray.fromhex(told["numbers"] or "00" * 8), dtype=tensor.type)
            assert (tensor.name, [*tensor.shape]) == (told["name"], told["shape"])
            _check_same(tensor, numbers if told["numbers"] else numbers[:0], told["name"])


@pytest.mark.parametrize("entries", [ALONG_AXES, DEPENDENT], ids=["along axes", "dependent"])
def test_damaged_files_of_codecs_4_and_5(program: Path, entries: dict[str, Any]) -> None:
    """The verdict of the reference reader, and its numbers."""
    draw = random.Random(41)
    names = [name for name, entry in entries.items() if not entry["base"]]
    contents = [_damaged_payload(content_of(draw.choice(names)), draw) for _ in range(1_000)]
    taken = 0
    answers = read_all(program, [Request(content, arena=1 << 18) for content in contents])
    for content, answer in zip(contents, answers, strict=True):
        try:
            found = reference.read(content)
        except reference.RefusedError:
            assert answer.error not in ("", "arena too small"), content.hex()
            continue
        assert answer.error == "", content.hex()
        every: list[reference.Kept | reference.Other] = [*found.kept, *found.others]
        for told, tensor in zip(every, answer.kept + answer.others, strict=True):
            numbers = torch.tensor(told.numbers, dtype=torch.float64).float()
            torch.testing.assert_close(tensor.values, numbers, rtol=1e-6, atol=1e-30, equal_nan=True)
        taken += 1
    assert 50 < taken < 900


def _damaged_payload(content: bytes, draw: random.Random) -> bytes:
    """The file with bits of its end flipped, where the payloads are, and with the checksums that it then has."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        made[draw.randrange(max(13, len(made) - draw.choice((8, 40, 400))), len(made))] ^= 1 << draw.randrange(8)
    return with_checksum(bytes(made))


def test_every_smaller_arena_is_reported(program: Path) -> None:
    for name in (
        "quantized-coefficients",
        "packed-fixed",
        "levels-quantized-many",
        "levels-half-mixed",
        "axes-columns",
    ):
        content = content_of(name)
        (whole,) = read_all(program, [Request(content, arena=WIDE)])
        requests = [Request(content, arena=size) for size in range(0, whole.peak + 64, 8)]
        errors = [answer.error for answer in read_all(program, requests)]
        small = errors.index("")
        assert set(errors[:small]) == {"arena too small"}
        assert set(errors[small:]) == {""}
        assert small * 8 >= whole.peak - 8


def test_damaged_files_by_themselves(program: Path) -> None:
    draw = random.Random(37)
    names = [name for name, entry in VALID.items() if not entry["base"]]
    pool = [content_of(name) for name in VALID]
    contents = [damage(content_of(draw.choice(names)), pool, draw) for _ in range(16_000)]
    requests = [Request(content, arena=1 << 18, level=draw.choice((0, 0, 1, 2))) for content in contents]
    taken = _compare(program, requests, lambda _: None)
    assert 400 < taken < 8000


def test_damaged_files_of_known_networks(program: Path) -> None:
    draw = random.Random(73)
    own = {name: build(entry["own"]) if entry["own"] else None for name, entry in VALID.items()}
    described = {name: describe(FOLDER / "valid" / f"{name}.tailcut", into=own[name]) for name in VALID}
    networks = {id(described[name]): own[name] for name in VALID}
    pool = [content_of(name) for name in VALID]
    names = [draw.choice([*VALID]) for _ in range(4_000)]
    requests = [
        Request(damage(content_of(name), pool, draw), described[name], arena=1 << 18, level=draw.choice((0, 0, 1, 2)))
        for name in sorted(names)
    ]
    taken = _compare(program, requests, lambda request: networks[id(request.network)])
    assert 100 < taken < 2000


def _compare(program: Path, requests: list[Request], own_of: Callable[[Request], nn.Module | None]) -> int:
    """Same verdict, same numbers; how many files were taken."""
    taken = 0
    for request, answer in zip(requests, read_all(program, requests), strict=True):
        own = own_of(request)
        level = request.level or None
        if request.network is None:
            error, wanted = refusal(read_alone, request.content, 1 << 30, level)
        else:
            error, wanted = refusal(read_into, request.content, own, 1 << 30, level)
        if error == "ArgumentError":  # now of an own class, for which Python has no network; or of fewer levels
            continue
        if wanted is not None and request.network is not None:
            error = "" if is_described(wanted.contents, request.network, own) else "another network"
        assert bool(error) == bool(answer.error), (error, answer.error, request.content.hex())
        if wanted is not None and not error:
            check_numbers(answer, wanted, request.content.hex())
            taken += 1
    return taken


def test_the_order_of_coefficients(program: Path) -> None:
    checked = 0
    for name, entry in VALID.items():
        if entry["base"]:
            continue
        (answer,) = read_all(program, [Request(content_of(name), arena=WIDE)])
        for tensor in answer.kept:
            wanted = l1_order_index(tensor.shape, len(tensor.numbers), axes=tensor.axes, weights=tensor.weights)
            assert tensor.order == [tuple(index) for index in wanted.tolist()], (name, tensor.name)
            checked += len(tensor.order)
    assert checked > 500


def test_it_compiles_for_size_and_for_speed(tmp_path: Path) -> None:
    for number, options in enumerate((["-Os"], ["-O3", "-funsigned-char"], ["-O2", "-fshort-enums"])):
        program = compile_c(tmp_path / f"reader{number}", [*reader_sources(), C_FOLDER / "reader_batch.c"], *options)
        (answer,) = read_all(program, [Request(content_of("plain"))])
        assert answer.error == ""


def test_the_fuzz_entry_point(tmp_path: Path) -> None:
    """libFuzzer's function, here over the corpus; docs/c-reader.md says how to fuzz with it."""
    sources = [*reader_sources(), C_FOLDER / "fuzz_reader.c"]
    program = compile_c(tmp_path / "fuzz_reader", sources, "-DFUZZ_MAIN", *SANITIZED)
    files = [str(path) for path in sorted(FOLDER.glob("*valid/*.tailcut"))]
    done = subprocess.run([str(program), *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(files)} files" in done.stdout


def test_what_is_left_out_is_refused_by_its_name(tmp_path: Path) -> None:
    parts = ("OWN_CLASSES", "DEFLATE", "RANGE", "QUANTIZED", "ALONG_AXES", "DEPENDENT", "METADATA", "LEVELS")
    options = ["-DREAD_LEVELS=0", *(f"-DTAILCUT_READ_{part}=0" for part in parts)]
    sources = [*reader_sources(), C_FOLDER / "reader_batch.c"]
    small = compile_c(tmp_path / "small", sources, "-Os", *options)
    torch.manual_seed(0)
    model = tailcut.create_model("lenet5", bias=False)
    tailcut.regularize(model, num_kept=20)
    path = tmp_path / "lenet5.tailcut"
    tailcut.save(model, path, dtype="quantized", step=0.1)
    network = describe(path)
    (answer,) = read_all(small, [Request(path.read_bytes(), network)])
    assert answer.error == "UnsupportedVersionError"
    (answer,) = read_all(small, [Request(content_of("plain"))])
    assert answer.error == "UnsupportedVersionError"
    tailcut.save(model, path, dtype="float32")
    contents = replace(decode(path.read_bytes()), coefficients=None)
    raw = Stream(0, 0, torch.cat([t.coefficients().detach() for t in truncated_tensors(model)]).numpy().tobytes())
    content = encode(replace(contents, coefficients=raw))
    (answer,) = read_all(small, [Request(content, network)])
    assert answer.error == ""
    check_numbers(answer, read_into(content, None))
    levels = describe(FOLDER / "valid" / "levels-registered.tailcut")
    (answer,) = read_all(small, [Request(content_of("levels-registered"), levels)])
    assert answer.error == "UnsupportedVersionError"


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["-DREAD_LEVELS=0", "-DTAILCUT_READ_LEVELS=0"], IN_LEVELS),
        (["-DTAILCUT_READ_ALONG_AXES=0"], ALONG_AXES | DEPENDENT),
        (["-DTAILCUT_READ_DEPENDENT=0"], DEPENDENT),
    ],
    ids=["levels", "along axes", "dependent"],
)
def test_a_reader_without_a_part_reads_all_else(tmp_path: Path, options: list[str], refused: dict[str, Any]) -> None:
    sources = [*reader_sources(), C_FOLDER / "reader_batch.c"]
    program = compile_c(tmp_path / "plain", sources, *options, *SANITIZED)
    names = [name for name, entry in VALID.items() if not entry["base"]]
    requests = [Request(content_of(name), arena=WIDE) for name in names]
    for name, request, answer in zip(names, requests, read_all(program, requests), strict=True):
        assert answer.error == ("UnsupportedVersionError" if name in refused else ""), name
        if not answer.error:
            check_numbers(answer, read_alone(request.content), name)


def test_counts_by_ratio_are_those_of_float64(program: Path) -> None:
    """Whole numbers in C; ratios at and beside those where the count changes, and small and large ones."""
    draw, requests, wanted = random.Random(5), [], []
    for _ in range(500):
        size = draw.choice((1, 2, 3, 7, 100, 1000, 4097, draw.randrange(1, 3000)))
        ratio = draw.choice((draw.random(), (draw.randrange(size) + 0.5) / size, 2.0 ** -draw.randrange(60), 5e-324))
        ratio = min(1.0, max(5e-324, math.nextafter(ratio, draw.choice((0.0, ratio, 1.0)))))
        requests.append(Request(file_by_ratio(size, ratio), arena=1 << 16))
        wanted.append(min(size, max(1, math.floor(ratio * size + 0.5))))
    for request, count, answer in zip(requests, wanted, read_all(program, requests), strict=True):
        assert answer.error == "", request.content.hex()
        assert [tensor.numbers.numel() for tensor in answer.kept] == [count]


def file_by_ratio(size: int, ratio: float) -> bytes:
    """A file of one tensor `w` of this size, kept by this ratio; all coefficients are 0."""
    edit = Writer()
    edit.uint(1)
    edit.text("w")
    edit.shape((size,))
    edit.raw(b"\0\1" + struct.pack("<d", ratio))
    digest = hashlib.blake2b(f"w {size} 0 1\n".encode(), digest_size=4).digest()
    packer = zlib.compressobj(wbits=-15)
    payload = packer.compress(bytes(2 * min(size, max(1, math.floor(ratio * size + 0.5))))) + packer.flush()
    return encode(Contents(None, digest, {}, ((1, edit.getvalue()),), coefficients=Stream(1, 1, payload)))
