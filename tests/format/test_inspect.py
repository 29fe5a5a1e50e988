import json
from pathlib import Path

import pytest
import torch
from tests.format.networks import OwnNet, randomize, regularized
from torch import nn

import tailcut
from tailcut.errors import ArgumentError, ChecksumError
from tailcut.format import InspectReport


def inspected(model: nn.Module, folder: Path, **settings: object) -> InspectReport:
    tailcut.save(model, folder / "a.tailcut", **settings)  # type: ignore[arg-type]
    return tailcut.inspect(folder / "a.tailcut")


def test_a_registered_network(tmp_path: Path) -> None:
    model = regularized("lenet5", arguments={"num_classes": 7}, num_kept={"conv1.weight": 30, "fc1.weight": 200})
    report = inspected(model, tmp_path, dtype="float16", metadata={"epoch": 3})
    assert (report.version, report.model, report.arguments) == (1, "lenet5", {"num_classes": 7})
    assert report.file_bytes == (tmp_path / "a.tailcut").stat().st_size
    assert report.metadata == {"epoch": 3}
    assert report.num_parameters == sum(p.numel() for p in tailcut.create_model("lenet5", num_classes=7).parameters())
    assert report.num_kept == 230
    assert report.num_truncated == 500 + 400_000
    assert report.dense_bytes == 4 * report.num_parameters
    assert report.compression_ratio == pytest.approx(report.dense_bytes / report.file_bytes, rel=1e-4)
    assert [(t.name, t.shape, t.axes, t.order_weights, t.num_kept, t.dtype) for t in report.tensors] == [
        ("conv1.weight", (20, 1, 5, 5), (0, 1, 2, 3), (1, 1, 1, 1), 30, "float16"),
        ("fc1.weight", (500, 800), (0, 1), (1, 1), 200, "float16"),
    ]
    assert [t.name for t in report.other_tensors][:3] == ["conv1.bias", "conv2.weight", "conv2.bias"]
    assert {t.dtype for t in report.other_tensors} == {"float32"}


def test_a_class_of_ones_own(tmp_path: Path) -> None:
    model = randomize(OwnNet(), 1)
    tailcut.regularize(model, num_kept=5, include=["conv.weight"], axes=(0, 2), order_weights=(3, 1))
    report = inspected(model, tmp_path)
    assert report.model is None
    assert report.arguments == {}
    (kept,) = report.tensors
    assert (kept.name, kept.shape, kept.axes, kept.order_weights, kept.num_kept) == (
        "conv.weight",
        (4, 6, 5),
        (0, 2),
        (3, 1),
        5,
    )
    others = {t.name: (t.shape, t.kind, t.dtype) for t in report.other_tensors}
    assert others["constants.mask"] == ((2, 3), "buffer", "bool")
    assert others["constants.nothing"] == ((0, 4), "buffer", "float32")
    assert others["norm.num_batches_tracked"] == ((), "buffer", "int64")
    assert others["first.weight"] == ((6, 4), "parameter", "float32")
    assert report.num_parameters == sum(parameter.numel() for parameter in OwnNet().parameters())


def test_bytes_add_up_to_the_payloads(tmp_path: Path) -> None:
    report = inspected(randomize(nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30)), 1), tmp_path)
    streams = report.file_bytes - sum(entry.bytes for entry in report.other_tensors)
    assert 0 < streams < 150
    assert all(entry.bytes <= 8 * torch.Size(entry.shape).numel() for entry in report.other_tensors)


def test_json_has_the_promised_keys(tmp_path: Path) -> None:
    report = inspected(regularized("lenet300", num_kept=9), tmp_path)
    plain = json.loads(report.to_json())
    assert list(plain) == [
        *("version", "model", "file_bytes", "dense_bytes", "compression_ratio", "num_parameters", "num_truncated"),
        *("num_kept", "bytes_by_kind", "tensors", "other_tensors", "arguments", "metadata", "num_levels", "levels"),
        "num_kept_norms",
    ]
    of_coefficients = ["name", "shape", "axes", "order_weights", "num_kept", "dtype", "bytes", "bits", "worst_error"]
    assert list(plain["tensors"][0]) == of_coefficients
    assert plain["tensors"][0]["bits"] is None


def test_quantised_files_tell_bits_and_errors(tmp_path: Path) -> None:
    model = randomize(nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40)), 1)
    model.get_buffer("1.running_var").abs_()
    tailcut.regularize(model, num_kept=50)
    path = tmp_path / "a.tailcut"
    tailcut.save(model, path, dtype="quantized", registered=False)
    report = tailcut.inspect(path)
    assert report.version == 2
    (weight,) = report.tensors
    assert weight.dtype == "quantized"
    assert weight.bits is not None
    assert weight.worst_error is not None
    assert 8 * weight.bytes == pytest.approx(50 * weight.bits, abs=9)
    again = tailcut.load(path, into=nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40)))
    tensors = [network.get_parameter("0.parametrizations.weight.original").detach() for network in (model, again)]
    assert float((tensors[0] - tensors[1]).abs().max()) <= weight.worst_error * (1 + 1e-6)
    others = {entry.name: entry for entry in report.other_tensors}
    assert others["1.num_batches_tracked"].dtype == "integers"
    assert {entry.transform for entry in others.values()} <= {"none", "log2", "dct", None}
    assert sum(report.bytes_by_kind.values()) == report.file_bytes
    for heading in ("format version   2", "worst error", "rounded are"):
        assert heading in str(report)


def test_what_is_rounded_is_told_in_words(tmp_path: Path) -> None:
    report = inspected(nn.Linear(40, 30), tmp_path, dtype="quantized", registered=False)
    rows = {line.split()[0]: line for line in str(report).splitlines() if line.startswith(("weight", "bias"))}
    assert "none" in {entry.transform for entry in report.other_tensors}
    for entry in report.other_tensors:
        assert entry.transform is not None
        assert rows[entry.name].endswith({"none": "the numbers"}.get(entry.transform, entry.transform))


def test_text_is_a_table(tmp_path: Path) -> None:
    text = str(inspected(regularized("lenet300", num_kept=9), tmp_path, metadata={"by": "me"}))
    assert "format version   1" in text
    assert "lenet300" in text
    assert "27 coefficients" in text
    assert "300 x 784" in text
    assert "'by': 'me'" in text
    own = str(inspected(nn.BatchNorm1d(2), tmp_path))
    assert "a class of its own" in own
    assert "scalar" in own
    assert "(dense bytes over file bytes)" in own


def test_bytes_are_summed_by_kind(tmp_path: Path) -> None:
    model = randomize(nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.PReLU(40), nn.Conv2d(40, 9, 3)), 1)
    tailcut.regularize(model, num_kept=50, include="0.weight")
    report = inspected(model, tmp_path, dtype="float16")
    kinds = report.bytes_by_kind
    assert list(kinds) == ["coefficients", "batch norm", "biases", "other tensors", "structure"]
    assert sum(kinds.values()) == report.file_bytes
    assert kinds["coefficients"] == sum(entry.bytes for entry in report.tensors) <= 2 * 50
    others = {entry.name: entry.bytes for entry in report.other_tensors}
    assert kinds["batch norm"] == sum(count for name, count in others.items() if name.startswith("1."))
    assert kinds["biases"] == others["0.bias"] + others["3.bias"] > 0
    assert kinds["other tensors"] == others["2.weight"] + others["3.weight"] > 0
    assert 0 < kinds["structure"] < 200
    assert "batch norm" in str(report)


def test_counters_of_batch_norm_are_one_row(tmp_path: Path) -> None:
    text = str(inspected(nn.Sequential(*(nn.BatchNorm1d(2) for _ in range(3))), tmp_path))
    assert text.count("num_batches_tracked") == 1
    assert "3 x num_batches_tracked" in text
    assert "0.num_batches_tracked" in str(inspected(nn.Sequential(nn.BatchNorm1d(2)), tmp_path))


def test_a_network_without_tensors(tmp_path: Path) -> None:
    report = inspected(nn.Sequential(nn.ReLU()), tmp_path)
    assert (report.num_parameters, report.num_kept, report.compression_ratio) == (0, 0, None)
    assert report.file_bytes < 30
    assert tailcut.load(tmp_path / "a.tailcut", into=nn.Sequential(nn.ReLU()))


def test_no_name_that_commands_a_terminal_is_printed(tmp_path: Path) -> None:
    report = inspected(nn.Linear(2, 2), tmp_path, metadata={"a": "\x1b[2J", "\u202e": 1})
    assert report.metadata["a"] == "\x1b[2J"
    assert "\x1b" not in str(report)


def test_marks_of_direction_in_names_are_escaped_in_the_text(tmp_path: Path) -> None:
    model = nn.ParameterDict({"a\u202eb": nn.Parameter(torch.ones(3)), "é": nn.Parameter(torch.ones(2))})
    model.add_module("c\u202ed", nn.Linear(4, 5))
    tailcut.regularize(model, num_kept=9)
    report = inspected(model, tmp_path)
    assert "a\u202eb" in [entry.name for entry in report.other_tensors]
    assert "\u202e" not in str(report)
    for name in ("a\\u202eb ", "é ", "c\\u202ed.weight "):
        assert name in str(report)


def test_errors_name_the_file(tmp_path: Path) -> None:
    inspected(nn.Linear(2, 2), tmp_path)
    path = tmp_path / "a.tailcut"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ChecksumError, match=r"a\.tailcut: the checksum does not match"):
        tailcut.inspect(path)
    with pytest.raises(ArgumentError, match="the zoo has no 'nothing'"):
        tailcut.inspect("zoo:nothing")
