"""From a file to a slimmer one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from tests.small_coco import TINY
from tests.small_imagenette import write_images

from tailcut.channels import Scores, prune, score
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, StructureError
from tailcut.format import inspect, load, save
from tailcut.inputs import replace_stem
from tailcut.runs import Run
from tailcut.structure import create_model, record_of
from tailcut.tasks.prune import prune_file
from tailcut.tasks.score import score_file
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.setup.initial_network import load_start, make_start
from tailcut.weights import regularize

RECIPE = """
name = "slim"
[model]
name = "vit"
[start]
file = "{folder}/a.tailcut"
[pruning]
rates = 0.5
method = "{method}"
[data]
name = "imagenette@64"
[optimizer]
lr = 0.01
[training]
epochs = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(create_model("lenet5", conv_relu=True), tmp_path / "a.tailcut")
    return tmp_path / "a.tailcut"


def test_scored_now_and_scored_before_are_the_same(file: Path, tmp_path: Path) -> None:
    settings = {"num_batches": 2, "batch_size": 16, "seed": 3, "device": "cpu"}
    now = prune_file(file, tmp_path / "now.tailcut", "digits", rates=0.4, **settings)  # type: ignore[arg-type]
    score_file(file, tmp_path / "scores.json", "digits", **settings)  # type: ignore[arg-type]
    before = prune_file(file, tmp_path / "before.tailcut", scores=tmp_path / "scores.json", rates=0.4)
    assert now.pruning == before.pruning
    assert (now.method, now.num_images) == (before.method, before.num_images) == ("spectral", 32)
    assert (tmp_path / "now.tailcut").read_bytes() == (tmp_path / "before.tailcut").read_bytes()
    slim: Any = load(tmp_path / "now.tailcut")
    assert (slim.conv1.out_channels, slim.conv2.out_channels) == (12, 30)
    assert now.file_bytes == (tmp_path / "now.tailcut").stat().st_size
    assert (
        str(now).splitlines()[-1].endswith(f"now.tailcut: {now.file_bytes:,} bytes; scores by spectral, on 32 images")
    )


def test_weights_alone_need_no_data(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "slim.tailcut"
    report = prune_file(file, out, method="l1", macs_ratio=0.5, dtype="float16", device="cpu")
    assert 0.45 < report.pruning.macs_ratio <= 0.5
    assert report.num_images == 0
    assert str(report).endswith("scores by l1")
    expected = score(load(file), method="l1")["conv1"]
    removed = set(report.pruning.layers[0].removed)
    lowest = set(expected.argsort()[: len(removed)].tolist())
    assert removed == lowest
    assert report.file_bytes < 2.1 * report.pruning.num_parameters_after + 300
    again = prune_file(out, tmp_path / "slimmer.tailcut", method="l1", rates=0.2, device="cpu")
    assert len(record_of(load(tmp_path / "slimmer.tailcut")).edits) == 1
    assert again.pruning.macs_before == report.pruning.macs_after


@pytest.mark.parametrize("method", ["l1", "random"])
def test_images_show_the_layers_over_tokens_to_methods_of_weights(method: Any, tmp_path: Path) -> None:
    """As they do in Python, and in a recipe: one cut, whoever makes it."""
    torch.manual_seed(0)
    model = create_model("vit", image_size=64, patch_size=16, width=16, depth=1, num_heads=2, mlp_width=24).eval()
    save(model, tmp_path / "a.tailcut")
    write_images(tmp_path, 4)
    settings: dict[str, Any] = {"roots": tmp_path, "num_batches": 1, "batch_size": 4, "device": "cpu"}
    scored = score_file(tmp_path / "a.tailcut", tmp_path / "s.json", "imagenette@64", method=method, **settings)
    assert scored.num_images == 0
    found = prune_file(
        tmp_path / "a.tailcut", tmp_path / "b.tailcut", "imagenette@64", method=method, rates=0.5, **settings
    )
    example = torch.rand(1, 3, 64, 64)
    expected = prune(model, example, score(model, [example], method=method), 0.5)
    assert found.pruning == expected
    assert "blocks.0.mlp.0" in {layer.name for layer in expected.layers if layer.removed}
    assert Scores.load(tmp_path / "s.json").fallback

    recipe = parse_recipe(RECIPE.format(folder=tmp_path, method=method), source="slim.toml")
    run = Run.create(tmp_path / "run")
    make_start(recipe, run, open_dataset("imagenette@64", "train", roots=tmp_path))
    state = load_start(run).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_batch_norm_is_measured_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("resnet18", width=4, num_classes=10)
    save(model, tmp_path / "a.tailcut")
    settings: dict[str, Any] = {"rates": 0.5, "num_batches": 2, "batch_size": 4, "device": "cpu"}
    write_images(tmp_path, 8)
    plain = prune_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", "imagenette@32", roots=tmp_path, **settings)
    again = prune_file(
        tmp_path / "a.tailcut", tmp_path / "c.tailcut", "imagenette@32", roots=tmp_path, recalibrate=True, **settings
    )
    assert (plain.recalibrated_on, again.recalibrated_on) == (0, 8)
    assert str(again).endswith("; batch norm measured again on 8 images")
    before, after = load(tmp_path / "b.tailcut"), load(tmp_path / "c.tailcut")
    assert torch.equal(before.get_parameter("conv1.weight"), after.get_parameter("conv1.weight"))
    assert not torch.allclose(before.get_buffer("bn1.running_mean"), after.get_buffer("bn1.running_mean"))


def test_a_network_on_frequency_channels_reads_images(tmp_path: Path) -> None:
    """Scored, pruned and measured again through its own transform."""
    torch.manual_seed(0)
    model = create_model("resnet18", width=4, num_classes=10)
    replace_stem(model, channels=6)
    save(model, tmp_path / "a.tailcut")
    write_images(tmp_path, 8)
    settings: dict[str, Any] = {"roots": tmp_path, "num_batches": 1, "batch_size": 4, "device": "cpu"}
    score_file(tmp_path / "a.tailcut", tmp_path / "s.json", "imagenette@64", **settings)
    report = prune_file(
        tmp_path / "a.tailcut", tmp_path / "b.tailcut", "imagenette@64", recalibrate=True, rates=0.5, **settings
    )
    assert report.recalibrated_on == 4
    assert report.pruning.num_parameters_after < report.pruning.num_parameters_before
    assert load(tmp_path / "b.tailcut")(torch.rand(1, 6, 8, 8)).shape == (1, 10)


def test_measuring_again_needs_images(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="name a data set with --data"):
        prune_file(file, tmp_path / "slim.tailcut", method="l1", rates=0.5, recalibrate=True)


def test_a_checkpoint_with_a_model(tmp_path: Path) -> None:
    model = create_model("resnet20", width=8)
    torch.save({"state_dict": {f"module.{name}": x for name, x in model.state_dict().items()}}, tmp_path / "a.th")
    report = prune_file(
        tmp_path / "a.th", tmp_path / "slim.tailcut", model="resnet20", arguments={"width": 8}, method="l2", rates=0.3
    )
    assert report.pruning.num_parameters_before == sum(p.numel() for p in model.parameters())
    assert record_of(load(tmp_path / "slim.tailcut")).base is not None


def test_what_does_not_fit(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "slim.tailcut"
    with pytest.raises(ArgumentError, match="the method spectral runs the network: name a data set"):
        prune_file(file, out, rates=0.5)
    Scores({"conv9": torch.rand(3).double()}, method="l1").save(tmp_path / "other.json")
    with pytest.raises(ArgumentError, match="a layer 'conv9', which LeNet5 does not have"):
        prune_file(file, out, scores=tmp_path / "other.json", rates=0.5)
    with pytest.raises(ArgumentError, match=r"other\.json holds scores by its own method: give either --scores or"):
        prune_file(file, out, scores=tmp_path / "other.json", method="nosuch", rates=0.5)
    with pytest.raises(ArgumentError, match="from 0 up to 1"):
        prune_file(file, out, method="l1", rates=1.0)
    model = create_model("lenet5")
    regularize(model, keep_ratio=0.1)
    save(model, tmp_path / "regularised.tailcut")
    with pytest.raises(StructureError, match="prune first, then regularise"):
        prune_file(tmp_path / "regularised.tailcut", out, method="l1", rates=0.5)
    assert not out.exists()


def test_nothing_to_measure_again_is_said(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"method": "l1", "rates": 0.5, "num_batches": 1, "batch_size": 2, "device": "cpu"}
    report = prune_file(file, tmp_path / "slim.tailcut", "digits", recalibrate=True, **settings)
    assert report.recalibrated_on == 0
    assert "nothing was measured again: the network has no batch norm that keeps statistics" in caplog.text


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save(create_model("resnet20", width=4), tmp_path / "a.tailcut")
    settings: dict[str, Any] = {"num_batches": 1, "batch_size": 2, "device": "cpu", "rates": 0.5}
    for others in ({"method": "apoz"}, {"method": "l1", "recalibrate": True}):
        with pytest.raises(ArgumentError, match=r"does not run on an input of shape \(2, 1, 28, 28\): Given groups"):
            prune_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", "digits", **others, **settings)
    assert not (tmp_path / "b.tailcut").exists()


def test_a_file_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"the folder .*nowhere does not exist"):
        prune_file(tmp_path / "no network yet", tmp_path / "nowhere" / "slim.tailcut", method="l1", rates=0.5)


def test_a_folder_of_published_scores(tmp_path: Path) -> None:
    """The channels that go are those with the lowest of the file's scores."""
    save(create_model("resnet56", channels=(8, 8, 8, 8)), tmp_path / "a.tailcut")
    folder = tmp_path / "ranks"
    folder.mkdir()
    for number in range(1, 56):
        np.save(folder / f"rank_conv{number}.npy", np.roll(np.arange(8.0), number))
    report = prune_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", scores=folder, rates={"layer1.0.conv1": 0.5})
    assert (report.method, report.num_images) == ("hrank", 0)
    removed = {layer.name: layer.removed for layer in report.pruning.layers}
    assert removed["layer1.0.conv1"] == (2, 3, 4, 5)


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_a_detector_loses_channels_of_its_backbone(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = create_model(kind, **TINY).eval()
    save(detector, tmp_path / "a.tailcut")
    report = prune_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", method="l1", rates=0.3, device="cpu")
    assert report.pruning.params_ratio < 0.6
    slim = load(tmp_path / "b.tailcut").eval()
    image = torch.rand(3, 64, 96)
    with torch.inference_mode():
        (found,), (before,) = slim([image]), detector([image])
    assert found.keys() == before.keys()
    with pytest.raises(ArgumentError, match="images are not run through a detector to prune it"):
        prune_file(tmp_path / "a.tailcut", tmp_path / "b.tailcut", "coco", rates=0.3, device="cpu")


@pytest.mark.parametrize(
    ("given", "asked", "wanted"),
    [
        ({"other_dtype": "float16"}, None, "float16"),
        ({"other_dtype": "bfloat16"}, None, "bfloat16"),
        ({"other_dtype": "float16"}, "float32", "float32"),
        ({}, None, "float32"),
        ({"dtype": "quantized", "step": 1e-3}, None, "float32"),
    ],
)
def test_the_file_has_the_type_of_its_source(
    given: dict[str, Any], asked: str | None, wanted: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "source.tailcut", tmp_path / "slim.tailcut"
    save(create_model("lenet5"), source, **given)
    prune_file(source, out, method="l1", rates=0.5, dtype=asked)
    assert {tensor.dtype for tensor in inspect(out).other_tensors} == {wanted}
