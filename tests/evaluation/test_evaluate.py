import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tailcut.data import Dataset, InMemoryDataset, open_dataset
from tailcut.errors import ArgumentError, DataNotFoundError, LimitError
from tailcut.evaluation.evaluate import (
    EvaluateReport,
    choose_device,
    classification_batch,
    evaluate,
    fitting,
    run_forward,
    runnable,
    uses_batch_statistics,
    within_memory,
)
from tailcut.evaluation.files import evaluate_file
from tailcut.format import save
from tailcut.runtime.devices import Devices
from tailcut.runtime.share import Share
from tailcut.structure import create_model, set_image_size
from tailcut.weights import regularize


class Masks(Dataset):
    """Images whose mask is where they are bright; of two sizes."""

    name, split, task, num_classes, class_names, image_shape = (
        "masks",
        "test",
        "segmentation",
        2,
        ("a", "b"),
        (3, 32, 32),
    )

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        size = 32 if index % 2 else 48
        image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(index))
        return image, (image[0] > 0.5).long()


class Threshold(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] - 0.5


def test_a_perfect_network_has_dice_one_and_a_reversed_one_zero() -> None:
    class Reversed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 - x[:, :1]

    assert evaluate(Threshold(), Masks()) == {"dice": 1.0}
    assert evaluate(Reversed(), Masks()) == {"dice": 0.0}


def test_accuracy_agrees_with_a_plain_loop() -> None:
    torch.manual_seed(0)
    model = create_model("lenet300")
    digits = open_dataset("digits", "test")
    expected = sum(int(model(digits[index][0][None]).argmax()) == int(digits[index][1]) for index in range(len(digits)))
    for batch_size in (None, 7, 1000):
        assert evaluate(model, digits, batch_size=batch_size) == {"accuracy": expected / len(digits)}


def test_many_classes_have_two_figures() -> None:
    torch.manual_seed(0)
    model = create_model("lenet300", num_classes=120)
    images = torch.randint(0, 256, (240, 1, 28, 28), dtype=torch.uint8)
    dataset = InMemoryDataset("many", "test", images, torch.arange(240) % 120, [f"{number}" for number in range(120)])
    inputs, classes = dataset.batch(range(240))
    places = (model(inputs).argsort(dim=1, descending=True) == classes[:, None]).int().argmax(dim=1)
    expected = {"accuracy": (places == 0).double().mean().item(), "top5_accuracy": (places < 5).double().mean().item()}
    assert evaluate(model, dataset, batch_size=7) == expected


def test_the_model_is_not_changed() -> None:
    model = create_model("lenet300")
    regularize(model, num_kept=50)
    model.train()
    evaluate(model, open_dataset("digits", "test"))
    assert model.training
    assert any("parametrizations" in name for name, _ in model.named_parameters())


def test_processes_share_the_work_and_add_up() -> None:
    torch.manual_seed(0)
    model, digits = create_model("lenet300"), open_dataset("digits", "test")
    states = []

    def remember(state: Tensor) -> Tensor:
        states.append(state)
        return state

    for rank in range(3):
        evaluate(model, digits, batch_size=10, share=Share(torch.device("cpu"), rank, 3, remember))
    total = torch.stack(states).sum(dim=0)
    assert total[1] == len(digits)
    assert float(total[0] / total[1]) == evaluate(model, digits)["accuracy"]


def test_a_device_or_a_share_says_where() -> None:
    torch.manual_seed(0)
    model, digits = create_model("lenet300"), open_dataset("digits", "test")
    found = evaluate(model, digits)
    assert found == evaluate(model, digits, device="cpu") == evaluate(model, digits, device=torch.device("cpu"))
    with pytest.raises(ArgumentError, match="the meta device holds no numbers"):
        evaluate(model, digits, device="meta")
    with pytest.raises(ArgumentError, match="the meta device holds no numbers"):
        evaluate(create_model("lenet300").to("meta"), digits)  # where the model is
    with pytest.raises(ArgumentError, match=r"a share names its device \(cpu\), and device='cpu' another"):
        evaluate(model, digits, device="cpu", share=Share(torch.device("cpu")))


def test_machines_and_one_device_exclude_each_other(tmp_path: Path) -> None:
    save(create_model("lenet300"), tmp_path / "a.tailcut")
    with pytest.raises(ArgumentError, match=r"one device is named \(cpu\).*give either"):
        evaluate_file(tmp_path / "a.tailcut", "digits", device="cpu", devices=Devices("cpu"))
    with pytest.raises(ArgumentError, match="devices and num_nodes must be at least 1"):
        evaluate_file(tmp_path / "a.tailcut", "digits", devices=Devices("cpu", devices=0))


def test_an_engine_of_one_process_gives_the_same_report(tmp_path: Path) -> None:
    save(create_model("lenet300"), tmp_path / "a.tailcut")
    alone = evaluate_file(tmp_path / "a.tailcut", "digits", device="cpu")
    assert evaluate_file(tmp_path / "a.tailcut", "digits", devices=Devices("cpu")).metrics == alone.metrics


@pytest.mark.parametrize(
    ("shape", "size"), [((3, 32, 32), 500), ((3, 128, 128), 500), ((1, 224, 224), 163), ((3, 9000, 9000), 1)]
)
def test_larger_images_are_given_in_smaller_batches(shape: tuple[int, int, int], size: int) -> None:
    dataset = open_dataset("digits", "test")
    dataset.image_shape = shape
    assert classification_batch(dataset) == size


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(tmp_path: Path) -> None:
    """Over gloo, on an odd number of images of different difficulty: a mean of two means would be another figure."""
    write_photos(tmp_path / "carvana" / "test", num_images=5)
    torch.manual_seed(0)
    model = create_model("unet", widths=(4, 8), bias=False, affine=False, running_stats=False)
    regularize(model, num_kept=20)
    save(model, tmp_path / "unet.tailcut")
    one = evaluate_file(tmp_path / "unet.tailcut", "carvana", "test", roots=tmp_path, device="cpu")
    halves = [evaluate(model, open_dataset("carvana", "test", roots=tmp_path).part(*ends)) for ends in ((0, 2), (2, 5))]
    assert halves[0]["dice"] != halves[1]["dice"]

    words = ["--data", "carvana", "--split", "test", "--data-root", str(tmp_path), "--json"]
    words += ["--accelerator", "cpu", "--devices", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tailcut", "evaluate", str(tmp_path / "unet.tailcut"), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "with 2 processes" in done.stderr
    two = json.loads(done.stdout)  # of the first process alone
    assert two["num_images"] == one.num_images == 5
    assert two["metrics"] == pytest.approx(one.metrics, abs=1e-12)


def write_photos(folder: Path, *, num_images: int) -> None:
    """Noise with a bright rectangle, and the rectangle as a mask."""
    draw = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(num_images):
        mask = np.zeros((32, 48), dtype=np.uint8)
        mask[4 : 8 + 4 * number, 5 : 12 + 7 * number] = 255
        image = (mask[:, :, None] // 2 + draw.integers(0, 100, (32, 48, 3))).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
        Image.fromarray(image).save(folder / "images" / f"{number}.png")


class BatchStatistics(nn.Module):
    """Notes the sizes of its batches, in a list that its copies share."""

    def __init__(self, sizes: list[int], *, running_stats: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False, track_running_stats=running_stats)
        self.note = sizes.append

    def forward(self, x: Tensor) -> Tensor:
        self.note(len(x))
        normal: Tensor = self.norm(x)
        return normal.flatten(1)[:, :10]


@pytest.mark.parametrize("running_stats", [False, True])
def test_networks_with_batch_statistics_see_one_image_at_a_time(running_stats: bool) -> None:
    sizes: list[int] = []
    model = BatchStatistics(sizes, running_stats=running_stats)
    assert uses_batch_statistics(model) is not running_stats
    metrics = evaluate(model, open_dataset("digits", "test").part(0, 12), batch_size=5)
    assert metrics.keys() == {"accuracy"}
    assert sizes == ([5, 5, 2] if running_stats else [1] * 12)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AssertionError("expected 16 pixels"), "expected 16 pixels"),
        (AssertionError(), "AssertionError"),
        (ValueError("expected 2D"), "expected 2D"),
        (TypeError("two\nlines"), "two$"),
    ],
)
def test_what_a_network_refuses_itself_is_reported(error: Exception, reason: str) -> None:
    class Strict(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    with pytest.raises(ArgumentError, match=rf"cannot take images of shape \(355, 1, 28, 28\): {reason}"):
        evaluate(Strict(), open_dataset("digits", "test"))


def test_what_does_not_fit_is_reported() -> None:
    digits = open_dataset("digits", "test")
    with pytest.raises(ArgumentError, match=r"cannot take images of shape \(500, 3, 8, 8\)|shape"):
        evaluate(create_model("unet", widths=(2, 4)), digits)
    wide = InMemoryDataset("wide", "test", torch.zeros(2, 1, 40, 40, dtype=torch.uint8), torch.zeros(2).long(), ["a"])
    with pytest.raises(ArgumentError, match=r"cannot take images of shape \(2, 1, 40, 40\)"):
        evaluate(create_model("lenet300"), wide)
    with pytest.raises(ArgumentError, match=r"10 classes for classification.*gives \(355, 784\)"):
        evaluate(nn.Flatten(), digits)
    with pytest.raises(ArgumentError, match=r"segmentation, which needs outputs \(batch, 1 or 2"):
        evaluate(nn.Identity(), Masks())
    with pytest.raises(ArgumentError, match="batch_size must be at least 1"):
        evaluate(create_model("lenet300"), digits, batch_size=0)


@pytest.mark.parametrize("dense", [False, True])
def test_a_registered_network_whose_layers_do_not_fit_together_is_reported(dense: bool) -> None:
    """A file may prune two layers to widths that do not fit: such a network loads, and cannot run."""
    model = create_model("lenet5")
    regularize(model, num_kept=20)
    model.conv2 = nn.Conv2d(7, 50, 5)
    with pytest.raises(ArgumentError, match=r"the network cannot take images of shape \(1, 1, 28, 28\).*7 channels"):
        run_forward(runnable(model, "cpu", dense=dense), torch.zeros(1, 1, 28, 28))


def test_a_network_must_give_a_tensor() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ArgumentError, match="expected a tensor from the network, got tuple"):
        run_forward(Pair(), torch.zeros(1))


def test_a_file_is_reported_with_exactly_these_keys(tmp_path: Path) -> None:
    model = create_model("lenet300", bias=False)
    save(model, tmp_path / "a.tailcut")
    report = evaluate_file(tmp_path / "a.tailcut", "digits", device="cpu")
    values = json.loads(report.to_json())
    assert list(values) == ["source", "data", "split", "num_images", "metrics", "seconds"]
    assert values["source"] == str(tmp_path / "a.tailcut")
    assert values["data"] == "digits"
    assert values["split"] == "test"
    assert values["num_images"] == 355
    assert list(values["metrics"]) == ["accuracy"]
    assert values["seconds"] > 0


def test_batch_statistics_of_a_file_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(create_model("unet", widths=(2, 4), running_stats=False), tmp_path / "unet.tailcut")
    with caplog.at_level(logging.INFO), pytest.raises(DataNotFoundError):
        evaluate_file(tmp_path / "unet.tailcut", "carvana", "nowhere", roots=tmp_path)
    with caplog.at_level(logging.INFO), pytest.raises(ArgumentError):
        evaluate_file(tmp_path / "unet.tailcut", "digits")
    assert "one image at a time" in caplog.text


def test_a_report_shows_percent() -> None:
    report = EvaluateReport("a.tailcut", "mnist", "test", 10000, {"accuracy": 0.98261}, 1.25)
    assert str(report).splitlines()[-1].split() == ["a.tailcut", "mnist", "test", "10,000", "98.26", "%", "1.2"]


def test_devices_are_chosen_by_name() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    for name in ("toaster", "cuda:99"):
        with pytest.raises(ArgumentError, match=f"no device '{name}'"):
            choose_device(name)


@pytest.mark.slow
def test_the_published_network_has_its_dice(carvana_root: Path, tmp_path: Path) -> None:
    """The first two of the eight published images: 0.9788 and 0.9793."""
    from tailcut.format.conversion import frereg

    model = frereg.convert(carvana_root / "carvana" / "published" / "unet_fr.tar.xz", model="unet")
    images = open_dataset("carvana", "published", roots=carvana_root)
    assert evaluate(model, images.part(0, 1))["dice"] == pytest.approx(0.9788, abs=5e-5)


def test_a_lost_connection_is_no_fault_of_the_images() -> None:
    lost = RuntimeError("[/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:20133")
    with pytest.raises(RuntimeError, match="closed by peer") as caught, fitting(torch.zeros(1, 3, 8, 8)):
        raise lost
    assert caught.value is lost


@pytest.mark.slow
def test_what_ends_one_of_several_processes_is_reported(tmp_path: Path) -> None:
    """The second of two processes reads a damaged image: it says so, and the first that the other has ended."""
    save(create_model("resnet20", num_classes=1), tmp_path / "a.tailcut")
    folder = tmp_path / "own" / "test" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "0.png")
    (folder / "1.png").write_bytes((folder / "0.png").read_bytes()[:60])
    words = [sys.executable, "-m", "tailcut", "evaluate", str(tmp_path / "a.tailcut"), "--data", "folder:own"]
    words += ["--split", "test", "--data-root", str(tmp_path), "--batch-size", "1", "--json"]
    words += ["--accelerator", "cpu", "--devices", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert re.search(r"^\[rank 1\] tailcut evaluate: error: .*1\.png", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["message"].startswith("another process of the same work has ended")


@pytest.mark.parametrize("warn", [True, False])
def test_a_network_that_tells_nothing_apart_is_reported(warn: bool, caplog: pytest.LogCaptureFixture) -> None:
    digits = open_dataset("digits", "test")
    last = nn.Linear(math.prod(digits.image_shape), 10)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(10) == 7)
    evaluate(nn.Sequential(nn.Flatten(), last), digits, warn=warn)
    expected = ["the network gives all 355 images of digits, split test, the same class, 7 (7): it separates none"]
    assert caplog.messages == (expected if warn else [])


def test_a_file_that_tells_nothing_apart_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = create_model("lenet300")
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
    save(network, tmp_path / "a.tailcut")
    evaluate_file(tmp_path / "a.tailcut", "digits")
    assert "the same class, 0" in caplog.text


@pytest.mark.parametrize(
    ("size", "shorter_side", "expected"),
    [
        ((8, 8), None, None),
        ((16, 16), None, "of 16 x 16 pixels, and digits@8 gives 8 x 8 pixels: it may .* these; NAME@16 reads those"),
        ((8, 8), 10, "of 8 x 8 pixels, the middle of a shorter side of 10, and digits@8 .*; NAME@10/8 reads those"),
        ((8, 9), None, "of 8 x 9 pixels, and digits@8 gives 8 x 8 pixels: it may be less accurate on these$"),
    ],
)
def test_images_of_another_size_than_in_training_are_told(
    size: tuple[int, int], shorter_side: int | None, expected: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    digits = open_dataset("digits@8", "test")
    network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(digits.image_shape), 10))
    set_image_size(network, size, shorter_side=shorter_side)
    evaluate(network, digits, warn=True)
    told = [message for message in caplog.messages if "was trained on images" in message]
    assert len(told) == (expected is not None)
    assert expected is None or re.search(expected, told[0])


def test_a_network_that_enlarges_its_images_too_much_is_refused(tmp_path: Path) -> None:
    save(create_model("alexnet", resize=65536, width=1, hidden=1, num_classes=10), tmp_path / "a.tailcut")
    with pytest.raises(LimitError, match="65,536 x 65,536 pixels"):
        evaluate_file(tmp_path / "a.tailcut", "digits")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")],
)
def test_memory_that_is_refused_is_reported(error: Exception) -> None:
    for within in (fitting, within_memory):
        with (
            pytest.raises(ArgumentError, match=r"not enough memory .* shape \(2, 3\): fewer images"),
            within(torch.zeros(2, 3)),
        ):
            raise error
    with pytest.raises(RuntimeError, match="other"), within_memory(torch.zeros(2, 3)):
        raise RuntimeError("other")


def test_workers_change_nothing_and_the_middle_is_measured(tmp_path: Path) -> None:
    """Photos whose middle tells the class, and whose border tells the other one."""
    for number in range(18):
        label, outside = number % 2, 255 * (number % 2)
        pixels = np.full((32, 48, 3), outside, dtype=np.uint8)
        pixels[4:28, 12:36] = 255 - outside
        path = tmp_path / "middles" / "val" / f"{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1, 1], [-1, -1, -1]]))
        layer.bias.copy_(torch.tensor([-1.5, 1.5]))
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer)
    for name, accuracy in (("folder:middles@32/24", 1.0), ("folder:middles@24", 0.0)):
        dataset = open_dataset(name, roots=tmp_path)
        for workers in (0, 2):
            found = evaluate(network, dataset, batch_size=5, workers=workers)
            assert found == {"accuracy": accuracy}


def test_outputs_that_are_no_numbers_are_told(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model, digits = create_model("lenet5"), open_dataset("digits", "test")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e12)
    assert evaluate(model, digits, warn=True)["accuracy"] == 0
    assert f"for {len(digits)} of {len(digits)} images are no numbers (NaN), which count as wrong" in caplog.text
    assert "the same class" not in caplog.text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_of_another_type_gets_images_of_its_type(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, digits = create_model("lenet5", conv_relu=True), open_dataset("digits", "test").part(0, 50)
    exact = evaluate(model, digits)["accuracy"]
    found = evaluate(model.to(dtype), digits)["accuracy"]
    assert found == pytest.approx(exact, abs=0 if dtype == torch.float64 else 0.1)
    save(model, tmp_path / "a.tailcut")
    assert evaluate_file(tmp_path / "a.tailcut", "digits").metrics["accuracy"] <= 1


def test_settings_of_a_file_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(create_model("lenet300"), tmp_path / "a.tailcut")
    given: dict[str, object] = {}

    def noting(model: nn.Module, dataset: Dataset, **settings: object) -> dict[str, float]:
        given.update(settings)
        return {"accuracy": 0.5}

    monkeypatch.setattr("tailcut.evaluation.files.evaluate", noting)
    evaluate_file(tmp_path / "a.tailcut", "digits", device="cpu", batch_size=7, dense=True, workers=3)
    assert [given[name] for name in ("batch_size", "dense", "workers", "warn")] == [7, True, 3, True]
