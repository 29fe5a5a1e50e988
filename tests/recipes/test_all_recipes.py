"""Every recipe that comes with Tailcut takes a step of its training, and cuts to the paper's number of coefficients.

The images are drawn: few, and where the network allows it smaller than the real ones. Networks keep their widths, but
for detectors. Recipes on ImageNet and COCO read theirs from folders in the form of these, and take two steps.
"""

import itertools
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from PIL import Image
from tests.small_coco import TINY, write_coco
from torch import Tensor, nn

from tailcut.channels import recalibrate
from tailcut.compression.sensitivity import fisher
from tailcut.data import Dataset, InMemoryDataset, open_dataset
from tailcut.format import load, save
from tailcut.format.codecs import deflate
from tailcut.format.zoo import PREFIX as ZOO_PREFIX
from tailcut.format.zoo import zoo_names
from tailcut.runs import RUN_PREFIX, Run, read_result
from tailcut.runtime.devices import Devices
from tailcut.structure import base_of, create_model, example_shape
from tailcut.training.batches import batches
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.stages import last_stage, stages_of
from tailcut.training.recipe.toml_files import changed_since, load_recipe, shipped_recipes
from tailcut.training.setup import data as setup_data
from tailcut.training.setup.build import build_model, build_schedule
from tailcut.training.setup.initial_network import DATA_PREFIX
from tailcut.training.setup.initialization import regularized
from tailcut.training.train import train
from tailcut.training.trainer import base
from tailcut.training.trainer.detection import DetectionTrainer
from tailcut.weights import kept_counts, truncated_tensors
from tailcut.weights.parametrization.attach import set_length

NUM_IMAGES = 4
LARGEST_SIDE = 112
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "carvana": (3, 64, 96)}
NUM_CLASSES = {"imagenet": 1000}
# Detectors at full width take a minute a step on a CPU. With random weights the backbone must learn.
DETECTORS = {
    f"model.arguments.{key}": f"{TINY[key]}" for key in TINY if key not in ("backbone", "channels", "num_classes")
}
DETECTORS |= {"model.arguments.frozen_stages": "", "detection.backbone": ""}

STEPS = DetectionTrainer._batches

pytestmark = pytest.mark.usefixtures("one_thread")


class Drawn(Dataset):
    """Noise with masks."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.name, self.split, self.task = "carvana", "drawn", "segmentation"
        self.num_classes, self.class_names, self.image_shape = 2, ("background", "car"), shape

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.rand(self.image_shape, generator=torch.Generator().manual_seed(index))
        return image, (image[0] > 0.5).long()


def drawn_dataset(name: str, split: str, **settings: Any) -> Dataset:
    """Stands for `open_dataset`, with images of the same kind; digits, the small COCO and ImageNet are opened."""
    if name in ("digits", "coco"):
        return open_dataset(name, split, **settings)
    kind, _, side = name.partition("@")
    if kind == "imagenet":
        shorter, middle = side.split("/")
        assert int(shorter) * 7 == int(middle) * 8  # the paper's evaluation
        return open_dataset(f"imagenet@{LARGEST_SIDE + 16}/{LARGEST_SIDE}", split, **settings)
    if kind == "carvana":
        return Drawn(SHAPES[kind])
    square = min(int(side or LARGEST_SIDE), LARGEST_SIDE)
    shape = SHAPES.get(kind, (3, square, square))
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (NUM_IMAGES, *shape), generator=noise, dtype=torch.uint8)
    classes = [f"{number}" for number in range(NUM_CLASSES.get(kind, 10))]
    return InMemoryDataset(name, split, images, torch.arange(NUM_IMAGES), classes)


class OneStepDone(Exception):
    """The first step went well; no more are wanted."""


def one_batch(dataset: Dataset, **settings: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    num_steps = 2 if dataset.name.partition("@")[0] == "imagenet" else 1
    yield from itertools.islice(batches(dataset, **settings), num_steps)
    raise OneStepDone


def two_steps(self: DetectionTrainer) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A detector's first two steps."""
    yield from itertools.islice(STEPS(self), 2)
    raise OneStepDone


@pytest.fixture(scope="module")
def imagenet_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of several shapes in a thousand classes, most of which have the same small one."""
    root = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(NUM_CLASSES["imagenet"]):
            side = 130 + 40 * number if number < NUM_IMAGES else 8
            path = root / "imagenet" / split / f"n{number:08}" / "0.jpg"
            path.parent.mkdir(parents=True)
            pixels = noise.integers(0, 256, (side, 150 if side > 8 else 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return root


def small(name: str) -> Recipe:
    """The recipe for a few images."""
    recipe = load_recipe(name)
    changes = {"data.batch_size": "2", "data.holdout": "0", "data.workers": "0"}
    if recipe.inputs is not None:
        changes["inputs.statistics_images"] = f"{NUM_IMAGES}"
    if recipe.pruning is not None:
        changes |= {"pruning.num_batches": "1", "pruning.batch_size": f"{NUM_IMAGES}"}
    if recipe.detection is not None:
        changes |= DETECTORS
    if recipe.compression is not None:
        changes["compression.num_gradients"] = "2"
    return load_recipe(name, [f"{key}={value}" for key, value in changes.items()])


def untrained(recipe: Recipe) -> nn.Module:
    """The recipe's network as its run would pack it, but for the training."""
    model = build_model(recipe)
    schedule = build_schedule(recipe, model)
    if schedule is not None:
        schedule.finish()
    return model


def write_run(name: str, root: Path) -> None:
    """The run of a recipe, untrained, as far as another run reads it."""
    (root / name).mkdir()
    save(untrained(load_recipe(name)), Run(root / name).model)


def write_start(recipe: Recipe, root: Path) -> None:
    """The network that the recipe starts from, untrained: a checkpoint under a data root, or a run under it.

    One of the zoo's is there.
    """
    assert recipe.start is not None
    if recipe.start.file.startswith(ZOO_PREFIX):
        return
    if recipe.start.file.startswith(RUN_PREFIX):
        write_run(recipe.start.file.removeprefix(RUN_PREFIX), root)
        return
    network = create_model(recipe.model.name, **recipe.model.arguments)
    assert recipe.start.file.startswith(DATA_PREFIX)
    shape = example_shape(network)
    if shape is not None and recipe.compression is not None:  # deep ones saturate without statistics
        recalibrate(network, [torch.rand(8, *shape[1:])])
    path = root / recipe.start.file.removeprefix(DATA_PREFIX)
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": network.state_dict()}, path)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_step_of_the_training_is_taken(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    recipe, roots = small(name), [tmp_path]
    monkeypatch.setattr(deflate, "LEVEL", 0)  # of the network to start from, which is as dense as it is large
    monkeypatch.setattr(fisher, "MAX_BLOCK", 1000)  # one of 7,668 numbers takes ten seconds, and goes the same way
    if recipe.start is not None:
        write_start(recipe, tmp_path)
    if recipe.distillation is not None and recipe.distillation.teacher.startswith(RUN_PREFIX):
        write_run(recipe.distillation.teacher.removeprefix(RUN_PREFIX), tmp_path)
    if recipe.data.name == "coco":
        write_coco(tmp_path, *filter(None, (recipe.data.train_split, recipe.data.test_split)))
    if recipe.data.name.startswith("imagenet@"):
        roots.append(request.getfixturevalue("imagenet_root"))
    monkeypatch.setattr(setup_data, "open_dataset", drawn_dataset)
    monkeypatch.setattr(base, "batches", one_batch)
    monkeypatch.setattr(DetectionTrainer, "_batches", two_steps)
    with pytest.raises(OneStepDone):  # the loop itself refuses a loss that is no number
        train(recipe, tmp_path / "run", roots=roots, devices=Devices("cpu"))


TRUNCATED = [name for name in shipped_recipes() if load_recipe(name).schedule is not None or load_recipe(name).stage]
ROWS = {
    "alexnet": {570365, 57364, 1408},
    "vgg16": {200578, 20302, 2048},
    "resnet18": {111901, 12058, 2688},
    "vit": {928478, 157848},
    "unet": {310964, 31096, 2936, 759},
}


def trainings_of(recipe: Recipe) -> list[Recipe]:
    """Its stages, and the last training."""
    return [*stages_of(recipe).values(), last_stage(recipe)]


def cut_networks(recipe: Recipe) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """What each training of a recipe begins with and leaves of each tensor, stage after stage."""
    network = None
    for training in trainings_of(recipe):
        with torch.device("meta"):
            network = build_model(training, network)
        before = kept_counts(network)
        schedule = build_schedule(training, network, None, steps_per_epoch=100)
        targets = {} if schedule is None else schedule.targets
        for tensor in truncated_tensors(network):
            set_length(tensor.holder, tensor.truncation, targets.get(tensor.name, tensor.num_kept))
        yield before, kept_counts(network)


def final_counts(name: str) -> dict[str, int]:
    """What a recipe leaves of each tensor."""
    *_, (_, counts) = cut_networks(load_recipe(name))
    return counts


@pytest.mark.parametrize("name", TRUNCATED)
def test_what_is_left_is_the_papers_number(name: str) -> None:
    paper = load_recipe(name).paper
    if paper is None:
        pytest.skip("this recipe stands for no row of a paper")
    assert sum(final_counts(name).values()) == paper.num_kept


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("alexnet-1408", {176}),
        ("unet-759-float16", {33}),
        ("unet-2936", {128, 120}),
        ("vgg16-2048", {120, 121}),
    ],
)
def test_the_smallest_networks_share_equally(name: str, counts: set[int]) -> None:
    assert set(final_counts(name).values()) == counts


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.endswith("-float16")])
def test_a_float16_row_goes_on_from_the_row_of_its_number(name: str) -> None:
    recipe = load_recipe(name)
    if recipe.start is None:
        assert name in TRUNCATED
        return
    parent = load_recipe(recipe.start.file.removeprefix(RUN_PREFIX))
    assert recipe.paper is not None
    assert parent.paper is not None
    assert recipe.paper.num_kept == parent.paper.num_kept
    at_full_size = parent.data.model_copy(update={"coarse": None})  # as the parent ended
    assert (recipe.model, recipe.data) == (parent.model, at_full_size)


# Each stage of which truncates; those of recipes/combined begin with other steps.
STAGED = [
    name for name in shipped_recipes() if name.startswith("frequency-regularization/") and load_recipe(name).stage
]


@pytest.mark.parametrize("name", STAGED)
def test_a_stage_goes_on_with_all_that_the_one_before_left(name: str) -> None:
    recipe = load_recipe(name)
    counts = list(cut_networks(recipe))
    assert len(counts) == len(recipe.stage) + 1
    for (_, left), (begun, _) in pairwise(counts):
        assert left.keys() == begun.keys()
        assert all(begun[tensor] >= left[tensor] for tensor in left)
    totals = [sum(left.values()) for _, left in counts]
    assert totals == sorted(totals, reverse=True)
    assert len({training.model_dump_json(include={"model"}) for training in trainings_of(recipe)}) == 1


def test_the_first_stage_of_the_small_unet_is_the_row_of_its_number() -> None:
    stage = trainings_of(load_recipe("unet-759-float16"))[0]
    changed = changed_since(load_recipe("unet-2936").model_dump(mode="json"), stage)
    assert {line.partition(":")[0].partition(".")[0] for line in changed} <= {"name", "description", "paper"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_network_of_the_zoo_goes_on_with_all_it_has(name: str) -> None:
    recipe = load_recipe(name)
    if recipe.start is None or not recipe.start.file.startswith(ZOO_PREFIX):
        return
    start = load(recipe.start.file)
    assert base_of(start) == base_of(create_model(recipe.model.name, **recipe.model.arguments))
    before = kept_counts(start)
    after = kept_counts(regularized(start, recipe.regularization))
    assert before.keys() == after.keys()
    assert all(after[tensor] >= before[tensor] for tensor in before)


def test_the_zoo_has_final_networks_only() -> None:
    finals = {load_recipe(name).name for name in shipped_recipes()}
    assert [name for name in zoo_names() if name not in finals] == []


STAGE_RECORDS = sorted((Path(__file__).resolve().parents[2] / "docs" / "results" / "stages").rglob("*.json"))


@pytest.mark.parametrize("path", STAGE_RECORDS, ids=lambda path: path.stem)
def test_the_record_of_a_stage_has_its_settings(path: Path) -> None:
    """They were trained as separate runs."""
    result = read_result(path)
    staged = [name for name in shipped_recipes() if load_recipe(name).stage]
    (name,) = [name for name in staged if name.rpartition("/")[2].startswith(result.name.rpartition("-")[0])]
    stage = stages_of(load_recipe(name))[result.name.rpartition("-")[2]]
    changed = changed_since(result.recipe, stage, aside=("training.seed",))
    assert {line.partition(":")[0].partition(".")[0] for line in changed} <= {"name", "description", "paper", "start"}


@pytest.mark.parametrize("family", ROWS)
def test_each_row_of_tables_2_and_3_has_a_recipe(family: str) -> None:
    recipes = [load_recipe(name) for name in shipped_recipes() if name.startswith(f"frequency-regularization/{family}")]
    papers = [recipe.paper for recipe in recipes if recipe.paper is not None]
    assert {paper.num_kept for paper in papers if paper.num_kept is not None} == ROWS[family]
    assert sum(recipe.name.endswith("-ref") for recipe in recipes) == 1


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.endswith("-float16")])
def test_float16_rows_keep_normalisation_in_float32(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.pack.dtype, recipe.pack.other_dtype) == ("float16", "float32")
    assert recipe.training.round_from is not None
