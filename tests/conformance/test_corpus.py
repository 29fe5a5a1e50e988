"""The conformance corpus, read by the library and by the reference reader."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance.networks import FOLDER, own_class
from conformance.torch_networks import DESCRIPTIONS, Chain, Image, build
from tests.format.networks import plain_state, registered
from torch import nn

import tailcut
from conformance import __main__ as runner
from conformance import make
from tailcut import errors
from tailcut.errors import FormatError
from tailcut.structure import record_of
from tailcut.weights import truncated_tensors

VALID: dict[str, Any] = json.loads((FOLDER / "valid.json").read_text(encoding="utf-8"))
INVALID: dict[str, Any] = json.loads((FOLDER / "invalid.json").read_text(encoding="utf-8"))
RULES: dict[str, Any] = json.loads((FOLDER / "rules.json").read_text(encoding="utf-8"))
SPEC = (Path(tailcut.__file__).parent / "format" / "SPEC.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True, scope="module")
def registered_networks() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(registered("conformance-chain", Chain))
        stack.enter_context(registered("conformance-image", Image))
        yield


def into(wanted: dict[str, Any]) -> nn.Module | None:
    return build(wanted["own"]) if wanted["own"] else None


def type_of(name: str) -> torch.dtype:
    """What numbers of a type are read as."""
    found: torch.dtype = {"quantized": torch.float32, "integers": torch.int64}.get(name) or getattr(torch, name)
    return found


def same(found: torch.Tensor, stored: torch.Tensor, type_: str) -> bool:
    """Bit by bit; where values were computed from rounded numbers, but for the last bits."""
    stored = stored.to(found.dtype).reshape(found.shape)
    if type_ == "quantized":
        relative = 2e-3 if found.dtype == torch.float16 else 1e-6
        return torch.allclose(found.double(), stored.double(), rtol=relative, atol=1e-30)
    return raw(found) == raw(stored)


def raw(values: torch.Tensor) -> str:
    """Little-endian bytes."""
    return values.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes().hex()


@pytest.mark.parametrize("name", VALID)
def test_valid_files_load_to_the_expected_numbers(name: str) -> None:
    wanted, path = VALID[name], FOLDER / "valid" / f"{name}.tailcut"
    assert_is(tailcut.load(path, into=into(wanted), allow_non_finite=True), wanted)


@pytest.mark.parametrize("name", [name for name, wanted in VALID.items() if wanted.get("below")])
def test_each_level_is_the_file_that_ends_there(name: str) -> None:
    wanted, path = VALID[name], FOLDER / "valid" / f"{name}.tailcut"
    assert len(wanted["below"]) + 1 == wanted["levels"] == wanted["there"]
    for level, lower in enumerate([*wanted["below"], name], start=1):
        cut = (FOLDER / "valid" / f"{lower}.tailcut").read_bytes()
        assert path.read_bytes()[: len(cut)] == cut
        assert VALID[lower]["there"] == level
        assert_is(tailcut.load(path, into=into(wanted), allow_non_finite=True, level=level), VALID[lower])
        with pytest.raises((errors.TruncatedFileError, errors.ArgumentError)):
            tailcut.load(FOLDER / "valid" / f"{lower}.tailcut", into=into(wanted), level=level + 1)


def assert_is(model: nn.Module, wanted: dict[str, Any]) -> None:
    """Assert that a network is what the corpus says of it."""
    found = {entry.name: entry for entry in truncated_tensors(model)}
    assert sorted(found) == sorted(entry["name"] for entry in wanted["coefficients"])
    dense = tailcut.to_dense(model).state_dict()
    for entry in wanted["coefficients"]:
        there = found[entry["name"]]
        assert [*there.shape] == entry["shape"]
        assert [*there.axes] == entry["axes"]
        assert [*there.truncation.order_weights] == entry["order_weights"]
        stored = torch.frombuffer(bytearray.fromhex(entry["numbers"]), dtype=type_of(wanted["coefficients_type"]))
        assert same(there.coefficients().detach(), stored, wanted["coefficients_type"])
        assert there.num_kept == entry["count"] == len(stored)
        if "dense" in entry and not stored.abs().max() > 1e30:  # beyond, float32 has no room for sums
            weight = torch.tensor(entry["dense"]).reshape(entry["shape"])
            torch.testing.assert_close(
                dense[entry["name"]].float(), weight, rtol=1e-4, atol=1e-4 * float(weight.abs().max())
            )
    state = plain_state(model)
    for tensor in wanted["tensors"]:
        type_ = type_of(tensor["type"])
        content = bytearray.fromhex(tensor["numbers"])
        stored = torch.frombuffer(content, dtype=torch.uint8).view(type_) if content else torch.empty(0, dtype=type_)
        assert [*state[tensor["name"]].shape] == tensor["shape"]
        assert same(state[tensor["name"]], stored, tensor["type"])
    parameters = {id(parameter): key for key, parameter in model.named_parameters()}
    kinds = {tensor["name"]: tensor["kind"] for tensor in wanted["tensors"]}
    assert all(
        (id(model.get_parameter(key)) in parameters) == (kind == "parameter")
        for key, kind in kinds.items()
        if kind == "parameter"
    )
    numbers = {"regularize": 1, "replace_stem": 2, "prune": 3, "ycbcr": 4}
    assert [numbers[edit.kind] for edit in record_of(model).edits] == wanted["edits"]


@pytest.mark.parametrize("name", VALID)
def test_valid_files_are_told_by_inspect(name: str) -> None:
    wanted = VALID[name]
    report = tailcut.inspect(FOLDER / "valid" / f"{name}.tailcut")
    assert report.metadata == wanted["metadata"]
    assert (report.model or "") == wanted["base"]
    found = [
        (entry.name, [*entry.shape], [*entry.axes], [*entry.order_weights], entry.num_kept) for entry in report.tensors
    ]
    assert found == [
        (entry["name"], entry["shape"], entry["axes"], entry["order_weights"], entry["count"])
        for entry in wanted["coefficients"]
    ]
    assert [(entry.name, [*entry.shape], entry.kind, entry.dtype) for entry in report.other_tensors] == [
        (entry["name"], entry["shape"], entry["kind"], entry["type"]) for entry in wanted["tensors"]
    ]


@pytest.mark.parametrize("name", INVALID)
def test_invalid_files_are_refused_for_the_expected_cause(name: str) -> None:
    wanted, path = INVALID[name], FOLDER / "invalid" / f"{name}.tailcut"
    settings = {"max_parameters": wanted["max_parameters"]} if "max_parameters" in wanted else {}
    network = into(wanted)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()} if network else {}
    with pytest.raises(FormatError) as caught:
        tailcut.load(path, into=network, **settings)
    assert type(caught.value).__name__ == wanted["error"]
    if network is not None:
        assert list(network.state_dict()) == list(before)
        assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    alone = wanted.get("alone", wanted["error"])
    if alone is None:
        tailcut.inspect(path, **settings)
        return
    with pytest.raises(FormatError) as caught:
        tailcut.inspect(path, **settings)
    assert type(caught.value).__name__ == alone


def test_the_reference_reader_does_as_the_corpus_says() -> None:
    assert runner.check() == []


def test_the_corpus_is_what_the_script_writes() -> None:
    made = make.contents()
    assert {path: (FOLDER / path).read_bytes() == content for path, content in made.items()} == dict.fromkeys(
        made, True
    )
    written = {str(path.relative_to(FOLDER)) for path in FOLDER.glob("*valid/*")}
    assert written == {path for path in made if "valid/" in path}
    assert sum(len(content) for content in made.values()) < 1 << 21


def test_every_rule_of_the_page_is_broken_by_a_file() -> None:
    """Each MUST and each named error of SPEC.md stands in the quotation of a rule, and each rule has its file."""
    spec = re.sub(r"\s+", " ", SPEC)
    covered = [False] * len(spec)
    for name, rule in RULES.items():
        assert spec.count(rule["spec"]) == 1, name
        start = spec.index(rule["spec"])
        end = start + len(rule["spec"])
        # The error that is named next, and all that is said before it in the same sentence.
        closing = spec.find("]", end)
        for place in range(start, max(end, closing + 1 if "[`" in spec[end:closing] else end)):
            covered[place] = True
    rules = spec[spec.index("## Layout") : spec.index("## Compatibility")]
    offset = spec.index("## Layout")
    missing = [
        rules[max(0, m.start() - 60) : m.end() + 30]
        for m in re.finditer(r"MUST|\[`\w+`\]", rules)
        if not covered[offset + m.start()]
    ]
    assert missing == []
    broken = {entry["rule"] for entry in INVALID.values()}
    assert set(RULES) - broken == {"file-size"}  # a file of a megabyte; see test_a_file_longer_than_its_network
    assert all(issubclass(getattr(errors, rule["error"]), FormatError) for rule in RULES.values())


def test_a_file_longer_than_its_network(tmp_path: Path) -> None:
    path = tmp_path / "long.tailcut"
    path.write_bytes(b"\x89TCT\x01" + bytes(1_048_597 + 8 * 10 - 4))
    with pytest.raises(errors.LimitError):
        tailcut.load(path, into=nn.ReLU(), max_parameters=10)
    path.write_bytes(b"\x89TCT\x01" + bytes(1_048_597 + 8 * 10 - 5))
    with pytest.raises(errors.ChecksumError):
        tailcut.load(path, into=nn.ReLU(), max_parameters=10)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_networks_are_the_described_ones(name: str) -> None:
    model, described = build(name), own_class(name)
    assert [found for found, _ in model.named_modules()] == [found for found, _ in described.walk()]
    assert [(key, tuple(value.shape), str(value.dtype)[6:]) for key, value in model.state_dict().items()] == [
        (key, tensor.shape, tensor.type) for key, tensor in described.state()
    ]
    assert [key for key, _ in model.named_parameters()] == [key for key, _ in described.parameters()]


def test_the_readers_share_no_code() -> None:
    for path in (FOLDER / "reference").glob("*.py"):
        imported = re.findall(r"^(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert not {"tailcut", "torch", "numpy", "tests"} & set(imported), path.name
