"""From a file to a smaller one, on real digits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.hostile.zeros import narrowed_alone, zero_file

from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, DataNotFoundError
from tailcut.evaluation.evaluate import evaluate
from tailcut.format import inspect, load, save
from tailcut.structure import create_model
from tailcut.tasks.compress import compress_file
from tailcut.weights import regularize


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("lenet5", conv_relu=True)
    regularize(model, num_kept=60)
    save(model, tmp_path / "a.tailcut")
    return tmp_path / "a.tailcut"


def test_what_is_reported_is_what_the_file_does(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.tailcut"
    report = compress_file(file, out, "digits", max_bytes=300, num_gradients=20)
    test = open_dataset("digits", None)
    assert report.after == evaluate(load(out), test)["accuracy"]
    assert report.before == evaluate(load(file), test)["accuracy"]
    assert report.file_bytes == out.stat().st_size <= 300
    assert report.settings == {"max_bytes": 300, "max_drop": None, "step": None, "num_gradients": 20, "seed": 0}
    assert f"{report.file_bytes} bytes" in str(report)


def test_as_good_on_images_held_out(file: Path, tmp_path: Path) -> None:
    report = compress_file(file, tmp_path / "b.tailcut", "digits", max_drop=0.5, num_gradients=10, num_held_out=100)
    assert report.settings["num_held_out"] == 100
    assert report.file_bytes < file.stat().st_size / 2


def test_the_same_seed_writes_the_same_file(file: Path, tmp_path: Path) -> None:
    for name in ("b", "c"):
        compress_file(file, tmp_path / name, "digits", step=0.05, num_gradients=5, test_split=None)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_a_file_that_was_smaller_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = compress_file("zoo:lenet5-776", tmp_path / "a.tailcut", "digits", max_bytes=64_000, test_split=None)
    assert report.file_bytes > 1406
    assert "zoo:lenet5-776 has 1,406 bytes, fewer than the file" in caplog.text
    caplog.clear()
    compress_file("zoo:lenet5-776", tmp_path / "a.tailcut", "digits", max_bytes=700, test_split=None, num_gradients=5)
    assert "fewer than the file" not in caplog.text


def test_mistakes(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="give one of max_bytes"):
        compress_file(file, tmp_path / "b", "digits", num_gradients=1)
    with pytest.raises(ArgumentError, match=r"the number of images to hold out must be 1 to"):
        compress_file(file, tmp_path / "b", "digits", max_drop=0.1, num_held_out=10**6)
    with pytest.raises(DataNotFoundError):
        compress_file(file, tmp_path / "b", "folder:nowhere", step=1.0)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_drop": -0.01}, "the metric can fall by 0 or more, got -0.01"),
        ({"step": 0.3, "num_gradients": 0}, "num_gradients must be a positive integer, got 0"),
    ],
)
def test_numbers_out_of_range_are_told_before_the_work(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=message):
        compress_file(tmp_path / "no file is read", tmp_path / "out.tailcut", data="digits", **settings)


def test_a_size_that_cannot_be_had_is_told_before_images_are_read(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="the file cannot have 40 bytes: with all numbers rounded away it has "):
        compress_file(file, tmp_path / "b.tailcut", "folder:nowhere", max_bytes=40)


def test_a_device_that_is_not_there_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="'nowhere'"):
        compress_file(tmp_path / "no file is read", tmp_path / "b.tailcut", "digits", step=1.0, device="nowhere")


def test_a_network_that_cannot_run_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.tailcut").write_bytes(zero_file("lenet5", edits=[narrowed_alone("conv2")]))
    with pytest.raises(ArgumentError, match=r"cannot take images of shape .*channels"):
        compress_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", "digits", max_bytes=300, num_gradients=10)
    assert not (tmp_path / "b.tailcut").exists()


def test_a_network_of_other_classes_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailcut.tasks.compress.compress", None)
    save(create_model("lenet5", num_classes=7), tmp_path / "a.tailcut")
    with pytest.raises(ArgumentError, match=r"10 classes"):
        compress_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", "digits", step=0.1, num_gradients=2)


def test_without_a_test_the_file_is_not_read_back(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def opened(path: Path, **settings: Any) -> Any:
        read.append(path)
        return load(path)

    monkeypatch.setattr("tailcut.tasks.compress.open_network", opened)
    report = compress_file(file, tmp_path / "b.tailcut", "digits", step=0.1, num_gradients=2, test_split=None)
    assert (report.before, report.after, read) == (None, None, [file])


def test_a_size_too_small_for_the_levels_is_told_before_images_are_read(file: Path, tmp_path: Path) -> None:
    alone, with_levels = (
        save(load(file), tmp_path / "c.tailcut", step=1e30, levels=levels).file_bytes for levels in ((), (0.25, 0.5))
    )
    assert alone < with_levels
    settings: dict[str, Any] = {"max_bytes": (alone + with_levels) // 2, "levels": (0.25, 0.5)}
    with pytest.raises(ArgumentError, match="bytes"):
        compress_file(file, tmp_path / "b.tailcut", "folder:nowhere", **settings)


def test_levels_are_among_the_settings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("lenet5", conv_relu=True)
    regularize(model, num_kept=60)
    save(model, tmp_path / "a.tailcut")
    out = tmp_path / "b.tailcut"
    settings: dict[str, Any] = {"step": 0.1, "num_gradients": 2, "test_split": None, "levels": (0.5,)}
    report = compress_file(tmp_path / "a.tailcut", out, "digits", **settings)
    assert report.settings["levels"] == [0.5]
    assert inspect(out).num_levels == 2
