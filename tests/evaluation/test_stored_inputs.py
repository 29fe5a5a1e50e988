import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inputs.jpegs import encode, photo
from torch import Tensor

from tailcut.data import Dataset, FolderDataset, in_order, open_dataset, reading, split_off
from tailcut.data.workers import Workers
from tailcut.errors import ArgumentError, DataError, RecipeError
from tailcut.evaluation import evaluate
from tailcut.evaluation.files import evaluate_file
from tailcut.evaluation.pixel_inputs import reader_of
from tailcut.evaluation.stored_inputs import StoredDataset, read_as
from tailcut.format import load
from tailcut.inputs import BlockDCT, YCbCrPixels, read_jpeg, replace_stem
from tailcut.inputs.jpeg.augmentation import flip_horizontal
from tailcut.inputs.jpeg.parts import resized_part
from tailcut.inputs.transform.input_transform import input_transform_of
from tailcut.runs import Run
from tailcut.structure import create_model
from tailcut.training.batches import batches
from tailcut.training.recipe.schema import Recipe
from tailcut.training.recipe.sections import AugmentationSection
from tailcut.training.recipe.toml_files import parse_recipe
from tailcut.training.train import train

SAMPLINGS = ("4:2:0", "4:4:4", "4:2:2", "grayscale")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photos in two classes, two splits, four samplings: 64 x 64 in `even`, of several sizes in `photos`."""
    for split in ("train", "test"):
        for number in range(8):
            sampling, name = SAMPLINGS[number % 4], f"{split}/{'ab'[number % 2]}/{number}.jpg"
            sizes = {"even": (64, 64), "photos": (70 + 9 * number, 96 + 5 * number)}
            for folder, size in sizes.items():
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode(photo(*size, number=number % 2), sampling, quality=80 + number))
    return tmp_path


def stored(root: Path, name: str, transform: BlockDCT, split: str = "train") -> Dataset:
    return read_as("coefficients", open_dataset(name, split, roots=root), transform)


@pytest.mark.parametrize("transform", [BlockDCT(24), BlockDCT(192, chroma="full"), BlockDCT([64, 7, 3])])
def test_channels_are_those_of_the_decoded_images_but_for_rounding(root: Path, transform: BlockDCT) -> None:
    dataset = stored(root, "folder:even", transform)
    pixels = open_dataset("folder:even", "train", roots=root)
    assert (len(dataset), dataset.image_shape, dataset.class_names) == (8, (3, 64, 64), ("a", "b"))
    channels, labels = dataset.batch(range(8))
    images, expected = pixels.batch(range(8))
    assert channels.shape == (8, transform.num_channels, 8, 8)
    assert torch.equal(labels, expected)
    # Decoders round and clip to bytes; a coefficient sums 64 of them, over 8.
    assert (channels - transform.unnormalized(images)).abs().mean() < 1
    assert torch.equal(channels[3], dataset[3][0])


def test_photos_of_any_size_show_a_part_at_the_wanted_one(root: Path) -> None:
    transform = BlockDCT(24)
    dataset = stored(root, "folder:photos@64/48", transform)
    assert isinstance(dataset, StoredDataset)
    assert dataset.image_shape == (3, 48, 48)
    for position, path in enumerate(dataset.files):
        expected = transform.from_coefficients(resized_part(read_jpeg(path), (48, 48)))
        torch.testing.assert_close(dataset[position][0], expected, rtol=1e-4, atol=1e-2)


def test_random_parts_are_those_of_their_noise(root: Path) -> None:
    dataset = stored(root, "folder:photos@32", BlockDCT(6))

    def drawn(seed: int) -> Tensor:
        noises = [torch.Generator().manual_seed(seed + place) for place in range(8)]
        return dataset.random_parts(range(8), noises)[0]

    assert drawn(0).shape == (8, 6, 4, 4)
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(8))
    images, labels = dataset.part(2, 5).random_parts([1], [torch.Generator().manual_seed(3)])
    assert torch.equal(images[0], drawn(0)[3])
    assert torch.equal(labels, dataset.batch([3])[1])
    with pytest.raises(ArgumentError, match="at a size that the name says"):
        stored(root, "folder:even", BlockDCT(6)).random_parts([0], [torch.Generator()])


@pytest.mark.parametrize("chroma", ["two_scale", "full"])
def test_flipped_channels_are_those_of_flipped_blocks(root: Path, chroma: Any) -> None:
    transform = BlockDCT(192, chroma=chroma)
    dataset = stored(root, "folder:even", transform)
    assert isinstance(dataset, StoredDataset)
    assert dataset.stored_channels is not None
    for position, path in enumerate(dataset.files):
        expected = transform.from_coefficients(flip_horizontal(read_jpeg(path)))
        found = dataset.stored_channels.flipped(dataset[position][0])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-2)


def test_workers_give_the_same_batches(root: Path) -> None:
    dataset = split_off(stored(root, "folder:photos@32", BlockDCT(6)), 2)[0]
    augmentation = AugmentationSection(flip=True, crop=True)

    def found(workers: int) -> list[Tensor]:
        with Workers(workers) as processes:
            made = batches(dataset, batch_size=3, seed=1, epoch=2, augmentation=augmentation, workers=processes)
            return [part for batch in made for part in batch]

    assert len(found(0)) == 6
    assert all(torch.equal(own, other) for own, other in zip(found(0), found(1), strict=True))


def test_channels_stay_in_memory_but_do_not_travel(root: Path) -> None:
    dataset = stored(root, "folder:even", BlockDCT(6))
    before = dataset[1][0].clone()
    dataset[1][0].mul_(0)  # a copy of what stays in memory
    assert torch.equal(dataset[1][0], before)
    assert len(vars(dataset)["_kept"]) == 1
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._kept == {}
    assert torch.equal(copy[1][0], dataset[1][0])
    assert [int(label) for _, label in in_order(dataset, 8, 0)] == [0] * 4 + [1] * 4


def test_what_is_refused(root: Path) -> None:
    transform = BlockDCT(6)
    even = open_dataset("folder:even", "train", roots=root)
    assert read_as("pixels", even, None) is even
    with pytest.raises(ArgumentError, match="source must be 'pixels' or 'coefficients', got 'jpeg'"):
        read_as("jpeg", even, transform)  # type: ignore[arg-type]
    for other in (None, YCbCrPixels()):
        with pytest.raises(ArgumentError, match="for networks on frequency channels, and this one reads pixels"):
            read_as("coefficients", even, other)
    with pytest.raises(ArgumentError, match="digits: stored coefficients are read from JPEG files in one folder"):
        read_as("coefficients", open_dataset("digits", "test"), transform)
    with pytest.raises(ArgumentError, match=r"folder:photos@40: .* multiples of 16, got \(40, 40\)"):
        stored(root, "folder:photos@40", transform)
    with reading(strict=False), pytest.raises(ArgumentError, match="from sound JPEG files only"):
        stored(root, "folder:even", transform)
    photo(64, 64).save(root / "even" / "train" / "a" / "0.png")
    with pytest.raises(ArgumentError, match=r"0\.png is not"):
        stored(root, "folder:even", transform)


def test_files_that_cannot_be_read(root: Path) -> None:
    file = root / "even" / "train" / "a" / "2.jpg"
    cmyk = root / "even" / "train" / "a" / "4.jpg"
    cmyk.write_bytes(encode(photo(64, 64).convert("CMYK")))
    with pytest.raises(DataError, match=r"4\.jpg.*reading stored coefficients; as pixels more kinds are read"):
        stored(root, "folder:even", BlockDCT(6)).batch(range(8))
    large = pytest.raises(DataError, match=r"64 x 64 pixels; at most 4,095 .*; for more, give --max-image-pixels N$")
    with reading(max_pixels=64 * 64 - 1, place="command line"), large:
        stored(root, "folder:even", BlockDCT(6))[0]
    file.write_bytes(encode(photo(64, 80)))
    with pytest.raises(DataError, match=r"one size, \(64, 64\) as the first image; .*2.jpg has \(64, 80\)"):
        stored(root, "folder:even", BlockDCT(6))[1]
    with reading(on_error="skip") as settings:
        dataset = stored(root, "folder:even", BlockDCT(6))
    assert len(dataset) == 6
    assert set(settings.skipped) == set(dataset.skipped) == {str(file), str(cmyk)}
    assert dataset.batch(range(6))[0].shape == (6, 6, 8, 8)


def network(root: Path, channels: int = 6) -> Any:
    torch.manual_seed(0)
    model = create_model("resnet18", num_classes=2, width=8)
    transform = BlockDCT(channels).fit([open_dataset("folder:even", "train", roots=root).batch(range(8))[0]])
    return replace_stem(model, transform, image_size=(64, 64)).eval()


def test_a_network_reads_them_normalised(root: Path) -> None:
    model = network(root)
    dataset = stored(root, "folder:even", BlockDCT(6), "test")
    images = open_dataset("folder:even", "test", roots=root).batch(range(8))[0]
    from_pixels, from_files = reader_of(model)(images), reader_of(model, dataset)(dataset.batch(range(8))[0])
    assert (from_pixels - from_files).abs().mean() < 0.01
    assert set(evaluate(model, dataset)) == {"accuracy"}
    with pytest.raises(ArgumentError, match=r"6 stored channels \(chroma two_scale\), .* others: 24"):
        evaluate(network(root, 24), dataset)
    with pytest.raises(ArgumentError, match="read as stored coefficients, and the network reads pixels"):
        evaluate(create_model("resnet20", num_classes=2), dataset)


def test_statistics_of_channels_are_those_of_images() -> None:
    images = torch.rand(5, 3, 32, 48)
    for over in ("pixels", "images"):
        fitted, again = BlockDCT(24).fit([images], over=over), BlockDCT(24)
        again.fit_channels([again.unnormalized(images[:2]), again.unnormalized(images[2:])], over=over)
        torch.testing.assert_close(again.mean, fitted.mean)
        torch.testing.assert_close(again.std, fitted.std)
        torch.testing.assert_close(again.normalized(again.unnormalized(images)), fitted(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(ArgumentError, match="over must be one of"):
        BlockDCT(24).fit_channels([], over="all")
    with pytest.raises(DataError, match="no images"):
        BlockDCT(24).fit_channels([])


RECIPE = """
name = "stored"

[model]
name = "resnet18"
arguments = { num_classes = 2, width = 8 }

[data]
name = "folder:photos@64/48"
train_split = "train"
batch_size = 4
source = "coefficients"
augmentation = { flip = true, crop = true }

[inputs]
channels = 6

[optimizer]
lr = 0.01

[training]
epochs = 2
"""


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, source="stored.toml", overrides=overrides)


@pytest.mark.parametrize(
    "overrides",
    [(), ("data.augmentation=", "pruning={ rates = 0.3, num_batches = 1 }")],
)
def test_a_recipe_trains_on_them(root: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    result = train(recipe(*overrides), tmp_path / "run", roots=root)
    model = load(Run(tmp_path / "run").model)
    transform = input_transform_of(model)
    assert transform is not None
    # The statistics are of the stored channels.
    expected = BlockDCT(6)
    expected.fit_channels([stored(root, "folder:photos@64/48", expected).batch(range(8))[0]])
    torch.testing.assert_close(transform.mean, expected.mean)
    report = evaluate_file(Run(tmp_path / "run").model, "folder:photos@64/48", roots=root, source="coefficients")
    assert report.metrics == result.metrics
    assert evaluate_file(Run(tmp_path / "run").model, "folder:photos@64/48", roots=root).num_images == 8


def test_a_recipe_goes_on_with_a_network_of_channels(root: Path, tmp_path: Path) -> None:
    first = train(recipe("training.epochs=1"), tmp_path / "first", roots=root)
    assert first.metrics
    start = ("inputs=", f"start.file={tmp_path / 'first' / 'model.tailcut'}", "distillation.teacher=start")
    train(recipe(*start, "training.epochs=1"), tmp_path / "second", roots=root)
    one, other = (input_transform_of(load(Run(tmp_path / name).model)) for name in ("first", "second"))
    assert one is not None
    assert other is not None
    assert torch.equal(one.mean, other.mean)
    pixels = "distillation.teacher=zoo:lenet5-776"
    with pytest.raises(RecipeError, match=r"distillation\.teacher"):
        train(recipe(pixels), tmp_path / "third", roots=root)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("inputs=",), "needs a network on frequency channels"),
        (("inputs={ pixels = 'ycbcr' }",), "needs a network on frequency channels"),
        (("data.augmentation.shift=2",), "takes no augmentation.shift"),
        (("data.augmentation.cutout=8",), "takes no augmentation.cutout"),
        (("data.coarse.fraction=0.5",), "takes no coarse"),
        (("data.strict=false",), "takes no strict = false"),
        (("training.loss=dice_bce",), "is for networks of classes"),
        (("data.source=jpeg",), "data.source"),
    ],
)
def test_recipes_that_make_no_sense(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(*overrides)


def test_data_without_coefficients_are_told_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.source: digits: stored coefficients are read from JPEG files"):
        train(recipe("data.name=digits", "data.augmentation="), tmp_path / "run")


def test_folders_say_their_labels_and_size(root: Path) -> None:
    dataset = open_dataset("folder:photos@64/48", "train", roots=root)
    assert isinstance(dataset, FolderDataset)
    assert (dataset.framing, dataset.labels.tolist()) == ((64, 48), [0] * 4 + [1] * 4)
