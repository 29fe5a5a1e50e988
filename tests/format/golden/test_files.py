"""Files of old versions, which every later one must decode to the same numbers.

Beside each file here lies a JSON file with what it holds. Files are added, never changed: one that fails here
means that stored files no longer load.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from tests.format import reference_decoder as reference
from tests.format.networks import OwnNet, known, plain_state
from torch import nn

import tailcut
from tailcut.structure import base_of, family
from tailcut.weights import truncated_tensors

GOLDEN = sorted(Path(__file__).parent.glob("*.tailcut"))
# The classes that files without a registered name are loaded into.
OWN_CLASSES: dict[str, Any] = {
    "own-class": OwnNet,
    "own-zeros": lambda: nn.Sequential(*(nn.Linear(12, 12) for _ in range(6))),
}
every_file = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)


def fingerprint(values: list[Any]) -> str:
    """A digest of numbers as Python prints them, whatever type they were stored in."""
    return hashlib.sha256(",".join(map(repr, values)).encode()).hexdigest()[:16]


def expected_of(path: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return expected


def loaded(path: Path) -> nn.Module:
    make = OWN_CLASSES.get(path.stem)
    return tailcut.load(path, into=None if make is None else make())


def known_of(expected: dict[str, Any]) -> reference.Known | None:
    if expected["model"] is None:
        return None
    return known(tailcut.create_model(expected["model"], **expected["arguments"]))


@every_file
def test_stored_files_load_for_ever(path: Path) -> None:
    expected = expected_of(path)
    model = loaded(path)
    base = base_of(model)
    assert (base.name if base else None) == expected["model"]
    assert {
        entry.name: [
            list(entry.shape),
            list(entry.axes),
            list(entry.truncation.order_weights),
            entry.num_kept,
            fingerprint(entry.vector.tolist()),
        ]
        for entry in truncated_tensors(model)
    } == expected["coefficients"]
    state = {
        key: [list(value.shape), str(value.dtype), fingerprint(value.flatten().tolist())]
        for key, value in plain_state(model).items()
    }
    assert state == expected["others"]
    assert tailcut.inspect(path).metadata == expected["metadata"]


@every_file
def test_the_reference_decoder_agrees(path: Path) -> None:
    content = reference.read(path.read_bytes(), known_of(expected_of(path)))
    model = loaded(path)
    assert [(entry.name, entry.shape, entry.axes, entry.weights, entry.values) for entry in content.kept] == [
        (entry.name, entry.shape, entry.axes, entry.truncation.order_weights, entry.vector.tolist())
        for entry in truncated_tensors(model)
    ]
    state = plain_state(model)
    for other in content.others:
        assert other.values == state[other.name].flatten().tolist()
        assert other.shape == tuple(state[other.name].shape)
    tied = {key for key in state if key not in {other.name for other in content.others}}
    assert tied <= {"head.weight"}
    base = base_of(model)
    arguments = base.arguments if base else {}
    if base is not None:
        places = list(family(base.name).defaults)
        assert {places[place]: value for place, value in content.arguments.items()} == arguments
    report = tailcut.inspect(path)
    assert content.metadata == report.metadata
    assert [entry.count for entry in content.kept] == [entry.num_kept for entry in report.tensors]


def brute_force_weight(entry: reference.Kept) -> np.ndarray:
    """The dense tensor by sorting all indices, and SciPy's inverse DCT."""

    def rank(index: tuple[int, ...]) -> tuple[Any, ...]:
        moved = tuple(index[axis] for axis in entry.axes)
        return sum(w * x for w, x in zip(entry.weights, moved, strict=True)), moved, index

    dense = np.zeros(entry.shape)
    for index, value in zip(sorted(np.ndindex(*entry.shape), key=rank), entry.values, strict=False):
        dense[index] = value
    weight: np.ndarray = scipy.fft.idctn(dense, axes=entry.axes, norm="ortho") if entry.axes else dense
    return weight


@every_file
def test_the_stored_coefficients_mean_the_weights(path: Path) -> None:
    content = reference.read(path.read_bytes(), known_of(expected_of(path)))
    state = tailcut.to_dense(loaded(path)).state_dict()
    for entry in content.kept:
        if np.prod(entry.shape) < 10_000:
            np.testing.assert_allclose(state[entry.name].numpy(), brute_force_weight(entry), rtol=1e-5, atol=1e-5)


def test_the_files_show_every_part_of_the_format() -> None:
    reports = {path.stem: tailcut.inspect(path) for path in GOLDEN}
    types = {entry.dtype for report in reports.values() for entry in report.tensors}
    types |= {entry.dtype for report in reports.values() for entry in report.other_tensors}
    assert types == {"float32", "float16", "bfloat16", "float64", "int64", "int16", "uint8", "bool"}
    assert {report.model for report in reports.values()} == {None, "lenet300", "lenet5", "unet"}
    assert any(report.tensors == () for report in reports.values())
    weights = {entry.order_weights for report in reports.values() for entry in report.tensors}
    assert any(set(entry) != {1} for entry in weights)
    assert any(report.metadata for report in reports.values())
    assert all(path.stat().st_size < 4096 for path in GOLDEN)


def test_the_files_show_every_way_and_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    ways, codecs = set(), set()
    read_counts, decode = reference.read_counts, reference.decode

    def watch_counts(edit: reference.Items, kept: list[reference.Kept]) -> list[int]:
        ways.add(edit.content[edit.place])
        return read_counts(edit, kept)

    def watch_codec(dtype: int, payload: bytes, count: int, size: int) -> bytes:
        codecs.add(dtype)
        return decode(dtype, payload, count, size)

    monkeypatch.setattr(reference, "read_counts", watch_counts)
    monkeypatch.setattr(reference, "decode", watch_codec)
    for path in GOLDEN:
        reference.read(path.read_bytes(), known_of(expected_of(path)))
    assert ways == {0, 1, 2, 3, 4}
    assert codecs == {1, 2}  # raw: the example of SPEC.md
    assert {path.read_bytes()[13] % 2 for path in GOLDEN} == {0, 1}  # the header as it is, and packed


def test_defaults_of_registered_networks_never_change() -> None:
    """Arguments that a file leaves out have these values, so they may be added to, never changed."""
    frozen = json.loads((Path(__file__).parent / "signatures.json").read_text(encoding="utf-8"))
    for name, arguments in frozen.items():
        defaults = json.loads(json.dumps(list(family(name).defaults.items())))
        assert defaults[: len(arguments)] == arguments


def test_torch_reads_the_numbers_as_they_were_written() -> None:
    """The largest, smallest and odd numbers of each type, from the file of own buffers."""
    model = loaded(next(path for path in GOLDEN if path.stem == "own-class"))
    fresh = OwnNet()
    for name, buffer in fresh.constants.named_buffers():
        assert torch.equal(model.get_buffer(f"constants.{name}"), buffer)
    assert bool(torch.signbit(model.get_buffer("constants.limits")[1]))
