"""Fuzzing: the stored contents are answered rightly, some mutants of them too, and what is wrong is found."""

import contextlib
import io
import random
import time
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conformance.reference import RefusedError
from conformance.reference import quantized as reference
from fuzz.targets import CORPORA, TARGETS, FindingError, Target
from torch import nn

import tailcut
from fuzz import __main__ as runner
from fuzz import checkpoints, engine, mutators, quantized, seeds, targets
from tailcut.errors import FormatError
from tailcut.format.container.streams import padded
from tailcut.format.conversion.checkpoints import load_plain
from tailcut.format.quantized import Layout, coder, loops, values

MUTANTS = {"inspect": 60, "load": 60, "recipes": 60} | dict.fromkeys(("agreement", "read_jpeg", "codecs"), 120)
MUTANTS |= {"quantized": 200, "checkpoints": 200}


@pytest.mark.parametrize("name", TARGETS)
def test_stored_contents(name: str) -> None:
    for path in TARGETS[name].seeds():
        TARGETS[name].run(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_mutants(name: str) -> None:
    target, rng = TARGETS[name], random.Random(7)
    contents = [path.read_bytes() for path in target.seeds()]
    for _ in range(MUTANTS[name]):
        target.run(target.mutate(rng.choice(contents), rng))


def test_the_corpora_are_small_and_the_seeds_what_the_script_writes() -> None:
    assert sum(path.stat().st_size for path in CORPORA.rglob("*") if path.is_file()) < 1 << 19
    for name, content in seeds.payloads().items():
        if not name.startswith("deflate"):  # whose payloads are those of the zlib at hand
            assert (CORPORA / "codecs" / name).read_bytes() == content
    for name, content in quantized.seeds():
        assert (CORPORA / "quantized" / name).read_bytes() == content
    assert {path.name for path in (CORPORA / "jpeg").iterdir()} >= set(seeds.jpegs())
    assert {path.name for path in (CORPORA / "checkpoints").iterdir()} >= dict(checkpoints.seeds()).keys()


def test_mutants_of_payloads_get_into_the_levels() -> None:
    rng = random.Random(3)
    contents = [content for name, content in quantized.seeds() if name.startswith("levels-")]
    made = [quantized.mutate(rng.choice(contents), rng) for _ in range(300)]
    levels = [quantized.parse(content) for content in made]
    accepted = [len(each) for each in levels if quantized._reference(each) is not None]
    assert {2, 3, 4} <= set(accepted)
    assert len(accepted) > 90


def test_mutants_of_payloads_have_other_shifts_and_codecs() -> None:
    rng, found, codecs = random.Random(4), Counter[str](), Counter[int]()
    contents = [content for name, content in quantized.seeds() if name.startswith("axes-")]
    for _ in range(1000):
        levels = quantized.parse(quantized.mutate(rng.choice(contents), rng))
        codecs[levels[0].codec] += 1
        try:
            quantized._read(levels)
            tensors = quantized._highest([level.tensors for level in levels])
            for tensor in tensors:
                if not tensor.is_whole:
                    reference.values(tensor)
            found["shifted" if any(any(shifts) for tensor in tensors for shifts in tensor.shifts.values()) else ""] += 1
        except RefusedError as error:
            found[error.rule] += 1
    assert codecs[3] > 20
    assert codecs[4] > 750
    assert codecs[5] > 40
    assert found["shifted"] > 150
    assert found["quantized-axes"] > 12
    assert found["quantized-shifts"] > 12


def test_short_contents_are_changed_too() -> None:
    content = dict(quantized.seeds())["axes-levels-others"]
    for length in range(45):  # a byte, twelve of levels, 24 of tensors, and some of a payload
        made = {quantized.mutate(content[:length], random.Random(seed)) for seed in range(40)}
        assert len(made) > 10


def test_no_content_of_codec_3_has_shifts() -> None:
    for name, content in quantized.seeds():
        levels = quantized.parse(content)
        quantized._read(levels)
        assert levels[0].codec == {"axes": 4, "dependent": 5}.get(name.split("-")[0], 3)
        assert levels[0].codec > 3 or not any(tensor.shifts for level in levels for tensor in level.tensors)


@pytest.mark.parametrize("name", ["values", "range", "axes", "memory", "writer", "compiled"])
def test_a_reader_that_gets_shifts_wrong_is_a_finding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = dict(quantized.seeds())["axes-others"]
    if name == "values":
        sizes = values.step_sizes
        monkeypatch.setattr(values, "step_sizes", lambda step, shape, shifts: sizes(step, shape, {}))
    elif name == "range":
        monkeypatch.setattr(values, "MAX_STEP", 9)
    elif name == "axes":
        monkeypatch.setattr(Layout, "may_shift", False)
    elif name == "memory":
        get_axes = coder._get_axes

        def forgetful(state: Any, payload: Any, memory: Any, layout: Layout) -> list[int]:
            memory.axes = 0
            return get_axes(state, payload, memory, layout)

        monkeypatch.setattr(coder, "_get_axes", forgetful)
    elif name == "writer":
        monkeypatch.setattr(coder, "_put_shifts", lambda state, buffer, memory, shifts: buffer)
    else:
        monkeypatch.setattr(quantized, "is_installed", lambda: True)
        monkeypatch.setattr(coder, "is_installed", lambda: True)
        wrong = SimpleNamespace(**vars(loops) | {"get_alike": _get_negated})
        monkeypatch.setattr(coder, "_compiled_loops", lambda: wrong)
    with pytest.raises(quantized.WrongNumbersError):
        quantized.run(content)


def _get_negated(*arguments: Any) -> None:
    """Read shifts with the wrong sign."""
    loops.get_alike(*arguments)
    arguments[-1][:] = -arguments[-1]


@pytest.mark.parametrize("name", ["learn", "parameters"])
def test_a_reader_that_forgets_the_level_below_is_a_finding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "learn":
        monkeypatch.setattr(coder, "_learn", lambda *arguments: None)
    else:
        monkeypatch.setattr(quantized, "padded", lambda tensor, size: replace(padded(tensor, size), step=0))
    content = dict(quantized.seeds())["levels-others-once"]
    with pytest.raises(quantized.WrongNumbersError):
        quantized.run(content)


@pytest.mark.parametrize("name", ["trellis", "rows", "zeros", "writer", "known"])
def test_a_reader_that_gets_states_wrong_is_a_finding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = dict(quantized.seeds())["dependent-levels"]
    quantized.run(content)
    if name == "trellis":
        monkeypatch.setattr(loops, "TRELLIS", loops.TRELLIS[::-1])
    elif name == "rows":
        monkeypatch.setattr(Layout, "row", coder.ONE_ROW)
    elif name == "zeros":
        monkeypatch.setattr(coder, "ODD_LATER", 3)
    elif name == "writer":
        monkeypatch.setattr(loops, "multiple", lambda coded, trellis: coded)
    else:
        monkeypatch.setattr(loops, "learn_numbers", lambda *arguments: None)
    with pytest.raises(quantized.WrongNumbersError):
        quantized.run(content)


def own(run: object, **changes: object) -> Target:
    settings = {"name": "own", "run": run, "mutate": mutators.blindly, "corpus": "codecs", "known": ()}
    return Target(**settings, **{"seconds": 5, "num_bytes": 1 << 30, **changes})  # type: ignore[arg-type]


def test_slow_and_large_answers_are_findings() -> None:
    def burn(content: bytes) -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    with pytest.raises(FindingError, match="of processor time"):
        own(burn, seconds=0.1).try_content(b"")
    with pytest.raises(FindingError, match="MB are allowed"):
        own(lambda content: bytearray(b"\1") * (600 << 20), num_bytes=100 << 20).try_content(b"")


def test_a_blind_run_writes_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = {path.read_bytes() for path in TARGETS["codecs"].seeds()}
    tried = []

    def fall(content: bytes) -> None:
        tried.append(content)
        if content not in sound:
            raise KeyError("foreign")

    monkeypatch.setitem(targets.TARGETS, "own", own(fall))
    corpus, findings = tmp_path / "corpus", tmp_path / "findings"
    corpus.mkdir()
    findings.mkdir()
    with pytest.raises(SystemExit):
        engine.blind("own", corpus, findings, "30", 1)
    (found,) = findings.iterdir()
    assert found.read_bytes() not in sound
    assert set(tried[: len(sound)]) == sound  # first all that is stored, so that no import counts for a mutant


def test_new_lines_are_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora, work = tmp_path / "corpora", tmp_path / "work"
    (corpora / "codecs").mkdir(parents=True)
    (work / "codecs").mkdir(parents=True)
    monkeypatch.setattr(targets, "CORPORA", corpora)
    monkeypatch.setattr(runner, "CORPORA", corpora)
    monkeypatch.setattr(runner, "WORK", work)
    contents = {name: content for name, content in seeds.payloads().items() if name in ("raw-1-noise", "range-1-noise")}
    for name, content in contents.items():
        (work / "codecs" / name).write_bytes(content)
        (work / "codecs" / f"{name}-again").write_bytes(content)
    runner.minimise("codecs")
    assert sorted(path.read_bytes() for path in (corpora / "codecs").iterdir()) == sorted(contents.values())


@pytest.mark.parametrize("wrong", ["nothing", "FormatError", "MemoryError"])
def test_disagreement_is_a_finding(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = next(path for path in TARGETS["load"].seeds() if path.stem == "stem-gate").read_bytes()
    TARGETS["agreement"].run(content)

    def load(*arguments: object, **settings: object) -> object:
        if wrong == "nothing":
            return nn.Linear(3, 2)
        raise {"FormatError": FormatError, "MemoryError": MemoryError}[wrong]("planted")

    monkeypatch.setattr(tailcut, "load", load)
    with pytest.raises((FindingError, KeyError) if wrong != "MemoryError" else MemoryError):
        TARGETS["agreement"].run(content)


def test_mutants_of_checkpoints_get_behind_the_archive() -> None:
    """Nine of ten are archives without damage; torch reads some of them, and refuses others for their pickles."""
    rng, found = random.Random(5), Counter[str]()
    contents = [content for name, content in checkpoints.seeds() if name.endswith("zip")]
    for _ in range(300):
        content = checkpoints.mutate(rng.choice(contents), rng)
        with contextlib.suppress(zipfile.BadZipFile, ValueError), zipfile.ZipFile(io.BytesIO(content)) as archive:
            found["sound"] += archive.testzip() is None
        try:
            found["read"] += bool(load_plain(io.BytesIO(content)))
        except Exception:  # noqa: BLE001 -- of any kind, by torch's readers
            found["refused"] += 1
    assert found["sound"] > 270
    assert 60 < found["read"] < 200


def test_an_archive_that_zipfile_cannot_read_is_changed_blindly() -> None:
    """A member that is encrypted and has no name: zipfile looks at the end of that name for its message."""
    content = bytearray(checkpoints.archived([("a", b"x")]))
    directory = content.index(b"PK\1\2")
    content[directory + 8] |= 1  # encrypted
    for length, name in ((directory + 28, directory + 46), (26, 30)):  # in the directory, and before the member
        content[length] = 0
        del content[name]
    end = content.index(b"PK\5\6")
    content[end + 12] -= 1  # bytes of the directory
    content[end + 16] -= 1  # where it begins
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (entry,) = archive.infolist()
        assert (entry.filename, entry.flag_bits & 1) == ("", 1)
    made = {checkpoints.mutate(bytes(content), random.Random(seed)) for seed in range(20)}
    assert len(made) > 15
