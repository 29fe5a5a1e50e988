import json
import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from tests.small_coco import SCENES, TINY, write_coco
from torch import Tensor, nn

import tailcut
from tailcut.data import image_file_size, open_dataset
from tailcut.data.workers import Workers
from tailcut.errors import RecipeError, TrainingError
from tailcut.evaluation.detection import evaluate_detector
from tailcut.inputs.detection.detectors import Detector
from tailcut.inputs.stem.edit import transform_of
from tailcut.inputs.stem.replace import replace_stem
from tailcut.runs import Run
from tailcut.tasks.prediction.predict_detection import predict_objects_file
from tailcut.training.checkpoints import read_checkpoint
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.toml_files import load_recipe, parse_recipe, shipped_recipes
from tailcut.training.train import train
from tailcut.training.trainer.detection import DetectionTrainer
from tailcut.training.trainer.detection_batches import ExampleBatches

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRecipe = Callable[..., Recipe]
ARGUMENTS = json.dumps(TINY).replace('": ', '" = ')
RECIPE = f"""
name = "small"
model = {{ name = "mask_rcnn", arguments = {ARGUMENTS} }}

[data]
name = "coco"
train_split = "train2017"
test_split = "val2017"
batch_size = 2

[optimizer]
name = "adam"
lr = 0.003
clip_norm = 10.0

[training]
epochs = 2
seed = 3
validate_every = 2

[detection]
"""


def small_recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, source="small.toml", overrides=overrides)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "data", "train2017", "val2017")


def assert_same_numbers(one: Path, other: Path) -> None:
    # As one truth value: pytest would look for hours for where two files differ.
    are_equal = Run(one).model.read_bytes() == Run(other).model.read_bytes()
    assert are_equal
    left, right = (read_checkpoint(Run(path).last_checkpoint) for path in (one, other))
    for name, value in left["model"].items():
        assert torch.equal(value, right["model"][name]), name
    for line in (*left["lines"], *right["lines"]):
        for key in ("seconds", "images_per_second", "waiting_ratio"):  # of this run and machine
            del line[key]
    assert left["lines"] == right["lines"]


def test_a_run_leaves_everything_its_folder_promises(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tailcut")
    recipe = small_recipe("data.holdout=2", "data.batch_size=1")
    result = train(recipe, tmp_path / "run", roots=root, command="tailcut train small")
    run = Run(tmp_path / "run")
    assert parse_recipe(run.recipe.read_text(), source="recipe.toml") == recipe
    assert run.read_result() == result
    assert result.split_sizes == {"train": 2, "validation": 2, "test": 4}
    assert result.command == "tailcut train small"
    lines = run.read_metrics()
    assert [line["epoch"] for line in lines] == [1, 2]
    assert set(result.metrics) >= {"box_AP", "box_AP50", "mask_AP"}
    assert "loss_mask" in caplog.text
    assert "measured the mean and spread of the channels on 2 images" in caplog.text

    packed = tailcut.load(run.model)
    dataset: Any = open_dataset("coco", "val2017", roots=root)
    assert evaluate_detector(packed, dataset) == pytest.approx(result.metrics)
    assert isinstance(packed, Detector)
    assert packed.transform.dct is not None
    assert not torch.equal(packed.transform.dct.std, torch.ones(24))


def test_the_same_recipe_gives_the_same_file_with_workers_too(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process makes the batches of both epochs, and is gone when the training ends."""
    train(small_recipe(), tmp_path / "one", roots=root)
    sources, start = [], Workers._start

    def noted(self: Workers, source: Any, num: int) -> None:
        sources.append(type(source))
        start(self, source, num)

    monkeypatch.setattr(Workers, "_start", noted)
    train(small_recipe("data.workers=1"), tmp_path / "two", roots=root)
    assert sources.count(ExampleBatches) == 1
    assert not multiprocessing.active_children()
    assert_same_numbers(tmp_path / "one", tmp_path / "two")


def test_a_stopped_run_ends_as_one_that_was_not(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe("optimizer.ema_decay=0.9", "model.arguments.gate=true", "optimizer.lr_schedule.name=cosine")
    train(recipe, tmp_path / "whole", roots=root)

    epochs, steps = count(), DetectionTrainer._batches

    def interrupted(self: DetectionTrainer) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        epoch = next(epochs)
        for number, batch in enumerate(steps(self)):
            if (epoch, number) == (1, 1):
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTrainer, "_batches", interrupted)
        with pytest.raises(TrainingError, match="interrupted in epoch 2, step 2; 1 finished epoch is saved"):
            train(recipe, tmp_path / "stopped", roots=root)
    torch.manual_seed(99)
    train(recipe, tmp_path / "stopped", roots=root, resume=True)
    assert_same_numbers(tmp_path / "whole", tmp_path / "stopped")


def test_an_averaged_detector_has_statistics_of_its_own(root: Path, tmp_path: Path) -> None:
    recipe = small_recipe("optimizer.ema_decay=0.9", "data.batch_size=1")
    train(recipe, tmp_path / "run", roots=root)
    packed = tailcut.load(Run(tmp_path / "run").model)
    dataset: Any = open_dataset("coco", "train2017", roots=root)
    first = next(module for module in packed.modules() if isinstance(module, nn.BatchNorm2d))
    assert first.running_mean is not None
    means: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, inputs: means.append(inputs[0].mean((0, 2, 3))))
    with torch.no_grad():
        for image, _ in dataset:
            packed([image])
    assert torch.allclose(first.running_mean, torch.stack(means).mean(0), atol=1e-5)


def test_it_learns(tmp_path: Path) -> None:
    """A small detector finds the objects of two images, which it sees again and again."""
    scenes = SCENES[1:3]
    root = write_coco(tmp_path / "data", "train2017", scenes=scenes * 8)
    write_coco(root, "val2017", scenes=scenes)
    overrides = ("training.epochs=6", "training.validate_every=6", "detection.flip=0.0", "optimizer.lr=0.01")
    result = train(small_recipe(*overrides), tmp_path / "run", roots=root)
    losses = [line["loss"] for line in Run(tmp_path / "run").read_metrics()]
    assert losses[-1] < 0.5 * losses[0]
    assert result.metrics["box_AP50"] > 0.5


def test_real_images_from_training_to_drawing(coco_root: Path, tmp_path: Path) -> None:
    source, folder = coco_root / "coco", tmp_path / "coco"
    content = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    content["images"] = content["images"][:5]
    numbers = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in numbers]
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / split).symlink_to(source / "train2017")
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    recipe = small_recipe("training.epochs=1", "data.batch_size=1", "model.arguments.num_classes=91")
    result = train(recipe, tmp_path / "run", roots=tmp_path)
    assert result.split_sizes == {"train": 5, "test": 5}
    assert {"box_AP", "box_APL", "mask_AP", "mask_APL"} <= set(result.metrics)
    photo = folder / "val2017" / content["images"][0]["file_name"]
    report = predict_objects_file(tmp_path / "run" / "model.tailcut", [photo], tmp_path / "out", device="cpu")
    assert image_file_size(report.predictions[0]["drawing"]) == image_file_size(photo)


def save_backbone(path: Path, channels: int) -> nn.Module:
    torch.manual_seed(5)
    network = replace_stem(tailcut.create_model("resnet18", width=8, num_classes=10), channels)
    transform = transform_of(network)
    assert transform is not None
    transform.std.fill_(7.0)
    tailcut.save(network, path)
    return network


def test_a_backbone_gives_weights_and_statistics(root: Path, tmp_path: Path) -> None:
    network = save_backbone(tmp_path / "backbone.tailcut", 24)
    (tmp_path / "folder").mkdir()
    save_backbone(tmp_path / "folder" / "model.tailcut", 24)
    for source in ("backbone.tailcut", "folder"):
        overrides = (f"detection.backbone={tmp_path / source}", "optimizer.lr=1e-12", "training.epochs=1")
        recipe = small_recipe(*overrides, "model.arguments.frozen_stages=1", "optimizer.ema_decay=0.5")
        train(recipe, tmp_path / f"run-{source}", roots=root)
        model = tailcut.load(tmp_path / f"run-{source}" / "model.tailcut")
        assert isinstance(model, Detector)
        assert model.transform.dct is not None
        assert model.transform.dct.std.unique().tolist() == [7.0]
        name = "layer3.0.conv1.weight"
        assert torch.allclose(model.body.get_parameter(name), network.get_parameter(name), atol=1e-6)


def test_a_regularised_detector(root: Path, tmp_path: Path) -> None:
    overrides = ("regularization={ keep_ratio = 0.5 }", "training.execution=dense", "training.epochs=1")
    result = train(small_recipe(*overrides), tmp_path / "run", roots=root)
    assert 0 < result.num_kept < result.num_parameters
    assert isinstance(tailcut.load(tmp_path / "run" / "model.tailcut"), Detector)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["detection="], r"detection: a recipe for a detector needs a \[detection\] section"),
        (["start.file=a.tailcut"], "start: has no meaning for a detector, leave it out; its backbone starts from"),
        (["inputs.channels=24"], "inputs: has no meaning for a detector, leave it out; model.arguments says"),
        (["pruning.rates=0.5"], "pruning: has no meaning for a detector"),
        (["data.coarse.fraction=0.5"], "data.coarse: has no meaning for a detector"),
        (["data.augmentation.flip=true"], "data.augmentation: has no meaning .* mirrored by detection.flip"),
        (["training.loss=dice_bce"], "training.loss: has no meaning for a detector"),
        (["training.label_smoothing=0.1"], "training.label_smoothing: has no meaning"),
        (["training.precision=bf16"], "training.precision: a detector trains in fp32"),
        (["training.channels_last=true"], "training.channels_last: has no meaning"),
        (["distillation.teacher=zoo:lenet5-776"], "distillation: has no meaning"),
        (["regularization={}"], "training.execution: .* choose 'dense'"),
        (["model.arguments.frozen_stages=1"], "random weights would stay; give detection.backbone"),
        (["model.arguments.norm=frozen"], "frozen batch norm is of use behind a trained backbone only"),
        (["model.arguments.num_classes=3"], "num_classes: must be at least 4, the highest category number .* got 3"),
        (["model={ name = 'lenet5' }"], "model.name: lenet5 is no detector; known are faster_rcnn, mask_rcnn"),
        (["model.name=mask_rnn"], "model: unknown model 'mask_rnn'; did you mean 'mask_rcnn'"),
        (["model.arguments.chanels=24"], "model: .* has no argument 'chanels'"),
        (["model.arguments.channels=25"], "model: there is no published selection of 25 channels"),
        (["detection.backbone=gone.tailcut"], "detection.backbone: .*gone.tailcut"),
        (["detection.flip=2"], "detection.flip: must be less than or equal to 1, got 2"),
        (["detection.flips=1"], "detection.flips: is no key of a recipe; did you mean 'flip'"),
    ],
)
def test_recipes_that_do_not_fit(overrides: list[str], message: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        train(small_recipe(*overrides), tmp_path / "run", roots=root)


def test_a_backbone_on_other_channels(root: Path, tmp_path: Path) -> None:
    save_backbone(tmp_path / "a.tailcut", 32)
    with pytest.raises(RecipeError, match=r"detection.backbone: the backbone reads the 32 channels"):
        train(small_recipe(f"detection.backbone={tmp_path / 'a.tailcut'}"), tmp_path / "run", roots=root)


DETECTION_RECIPES = [name for name in shipped_recipes() if "rcnn" in name and "overfit" not in name]


def test_there_are_recipes_of_the_paper() -> None:
    assert len(DETECTION_RECIPES) >= 6


@pytest.mark.parametrize("name", DETECTION_RECIPES)
def test_recipes_of_the_paper(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.detection is not None
    assert "not run" in recipe.description
    assert (recipe.training.epochs, recipe.optimizer.lr) == (20, 0.0025)
    schedule = recipe.optimizer.lr_schedule
    assert [milestone * 20 for milestone in schedule.milestones] == [16, 19]
    assert schedule.factor == 0.1
    small = {"backbone": "resnet18", "width": 4}
    model: Any = tailcut.create_model(recipe.model.name, **{**recipe.model.arguments, **small})
    assert model.num_classes == 91
    assert (model.transform.min_size, model.transform.max_size) == (800, 1333)
