"""Mutators: what they make gets behind checksums and lengths."""

import io
import random
import tomllib
import warnings
import zlib

import pytest
from conformance.networks import registered
from conformance.reference import RefusedError, read
from fuzz.targets import TARGETS
from PIL import Image

from fuzz import mutators, seeds

FILES = [path for path in TARGETS["agreement"].seeds() if "valid" in path.parts]


def test_havoc_changes_something_and_depends_on_the_seed_alone() -> None:
    content = bytes(range(100))
    made = [mutators.havoc(content, random.Random(seed)) for seed in range(200)]
    assert made == [mutators.havoc(content, random.Random(seed)) for seed in range(200)]
    assert sum(changed != content for changed in made) > 180
    assert isinstance(mutators.havoc(b"", random.Random(1)), bytes)


def test_files_keep_a_true_checksum() -> None:
    rng = random.Random(3)
    made = [mutators.tailcut_file(path.read_bytes(), rng) for path in FILES for _ in range(4)]
    behind = [content for content in made if zlib.crc32(content[9:]) == int.from_bytes(content[5:9], "little")]
    in_levels = [content for content in made if content[4:5] == b"\3"]
    assert len(in_levels) > 100
    found = [_rule(content) for content in in_levels]
    assert found.count("level-checksum") < 0.1 * len(found)
    assert len(behind) > 0.9 * (len(made) - len(in_levels))


def test_a_file_is_split_and_joined() -> None:
    for path in FILES:
        content = path.read_bytes()
        header, rest = mutators.split(content)
        if content[4] == 3:
            head, blocks = mutators.blocks_of(content)
            assert mutators.join_levels(head, blocks) == content
            again = mutators.with_digest(mutators.join_levels(head, [mutators.body_of(header, rest), *blocks[1:]]))
        else:
            again = mutators.with_digest(mutators.join(header, rest, version=content[4]))
        assert mutators.split(again) == (header, rest)
        read(again, registered())
        assert mutators.split(mutators.join(header, rest, is_packed=True)) == (header, rest)


def _rule(content: bytes) -> str:
    try:
        read(content, registered(), max_parameters=1 << 20)
    except RefusedError as error:
        return error.rule
    return ""


@pytest.mark.parametrize("number", [0, 1, 9])
def test_files_with_a_wrong_number_of_levels_are_changed_too(number: int) -> None:
    content = b"\x89TCT\3" + bytes([number]) + bytes(max(0, number - 1)) + b"\4abcdefgh"
    made = {mutators.tailcut_file(content, random.Random(seed)) for seed in range(200)}
    assert len(made) > 20


def test_mutants_of_files_with_levels_get_into_the_levels() -> None:
    rng = random.Random(6)
    files = [path for path in FILES if path.name.startswith("levels-")]
    assert len(files) > 100
    found = [_rule(mutators.tailcut_file(rng.choice(files).read_bytes(), rng)) for _ in range(1500)]
    assert found.count("") > 75
    assert {"payload-raw", "payload-quantized-end", "payload-range-end", "level-number", "level-parts"} <= set(found)
    assert {"level-others", "codec-known", "level-followed", "quantized-codec"} <= set(found)


def test_mutants_reach_most_rules() -> None:
    rng, rules = random.Random(5), set()
    for _ in range(1500):
        try:
            read(mutators.tailcut_file(rng.choice(FILES).read_bytes(), rng), registered(), max_parameters=1 << 20)
        except RefusedError as error:
            rules.add(error.rule)
    assert len(rules) > 50
    assert {"stem-fit", "prune-fit", "regularize-count", "payload-range-end"} & rules


def test_a_jpeg_is_taken_apart_and_put_together() -> None:
    for name, content in seeds.jpegs().items():
        parts = mutators.jpeg_parts(content)
        assert b"\xff\xd8" + b"".join(map(mutators.jpeg_part, parts)) + b"\xff\xd9" == content, name
    rng = random.Random(2)
    made = [mutators.jpeg(content, rng) for content in seeds.jpegs().values() for _ in range(20)]
    opened = 0
    for content in made:
        try:
            with warnings.catch_warnings(action="ignore"):  # of damaged EXIF data
                opened += Image.open(io.BytesIO(content)).format == "JPEG"
        except (OSError, SyntaxError):
            pass
    assert opened > len(made) / 2
    assert mutators.unstuffed(mutators.stuffed(b"\xff\x01\xff\xff\xd0")) == b"\xff\x01\xff\xff\xd0"


def test_most_documents_stay_toml() -> None:
    rng, content = random.Random(4), b'a = 1\n[b]\nc = "x"\nd = [1, 2]\n'
    sound = 0
    for _ in range(300):
        try:
            tomllib.loads(mutators.toml(content, rng).decode("utf-8", "replace"))
            sound += 1
        except (tomllib.TOMLDecodeError, RecursionError):
            pass
    assert sound > 60
