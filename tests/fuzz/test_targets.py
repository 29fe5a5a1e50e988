"""Fuzzing: the stored contents are answered rightly, some mutants of them too, and what is wrong is found."""

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fuzz.targets import CORPORA, TARGETS, FindingError, Target
from torch import nn

import tailcut
from fuzz import __main__ as runner
from fuzz import engine, mutators, quantized, seeds, targets
from tailcut.errors import FormatError
from tailcut.format.container import streams
from tailcut.format.quantized import coder

MUTANTS = {"inspect": 60, "load": 60, "recipes": 60} | dict.fromkeys(("agreement", "read_jpeg", "codecs"), 120)
MUTANTS["quantized"] = 200


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


def test_mutants_of_payloads_get_into_the_levels() -> None:
    rng = random.Random(3)
    contents = [content for name, content in quantized.seeds() if name.startswith("levels-")]
    made = [quantized.mutate(rng.choice(contents), rng) for _ in range(300)]
    levels = [quantized.parse(content) for content in made]
    accepted = [len(each) for each in levels if quantized._reference(each) is not None]
    assert {2, 3, 4} <= set(accepted)
    assert len(accepted) > 90


@pytest.mark.parametrize("name", ["learn", "parameters"])
def test_a_reader_that_forgets_the_level_below_is_a_finding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "learn":
        monkeypatch.setattr(coder, "_learn", lambda *arguments: None)
    else:
        padded = streams.padded
        monkeypatch.setattr(quantized, "padded", lambda tensor, size: replace(padded(tensor, size), step=0))
    content = dict(quantized.seeds())["levels-others-once"]
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
    def fall(content: bytes) -> None:
        if content[:1] != b"\0":
            raise KeyError("foreign")

    monkeypatch.setitem(targets.TARGETS, "own", own(fall))
    corpus, findings = tmp_path / "corpus", tmp_path / "findings"
    corpus.mkdir()
    findings.mkdir()
    with pytest.raises(SystemExit):
        engine.blind("own", corpus, findings, "30", 1)
    (found,) = findings.iterdir()
    assert found.read_bytes()[:1] != b"\0"


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
