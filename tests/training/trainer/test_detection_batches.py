from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.small_coco import HEIGHT, WIDTH, write_coco

from tailcut.data import CocoDataset, open_dataset
from tailcut.data.workers import Workers
from tailcut.training.batches import TrainingBatches, steps_of
from tailcut.training.recipe.sections import AugmentationSection
from tailcut.training.trainer.detection_batches import (
    ExampleBatches,
    ImageNumbers,
    is_mirrored,
    mirror,
    training_example,
)


@pytest.fixture
def small(tmp_path: Path) -> CocoDataset:
    dataset = open_dataset("coco", "val2017", roots=write_coco(tmp_path, "val2017"))
    assert isinstance(dataset, CocoDataset)
    return dataset


def test_numbers_stand_for_images(small: CocoDataset) -> None:
    numbers = ImageNumbers(small)
    assert len(numbers) == 4
    assert numbers.task == "detection"
    images, targets = numbers.batch(torch.tensor([2, 0]))
    assert images.tolist() == targets.tolist() == [2, 0]
    with pytest.raises(IndexError):
        numbers[4]


def test_an_example_and_its_mirror_image(small: CocoDataset) -> None:
    image, target = training_example(small, 0, masks=True, mirrored=False)
    assert image.shape == (3, HEIGHT, WIDTH)
    assert target["boxes"].tolist() == [[8, 10, 48, 40], [60, 20, 84, 60]]
    turned, moved = training_example(small, 0, masks=True, mirrored=True)
    assert torch.equal(turned, image.flip(2))
    assert moved["boxes"].tolist() == [[WIDTH - 48, 10, WIDTH - 8, 40], [WIDTH - 84, 20, WIDTH - 60, 60]]
    assert moved["labels"].tolist() == [1, 3]
    for box, mask in zip(moved["boxes"].int().tolist(), moved["masks"], strict=True):
        left, top, right, bottom = box
        assert bool(mask[top:bottom, left:right].all())
        assert int(mask.sum()) == (right - left) * (bottom - top)
    assert "masks" not in training_example(small, 0, masks=False, mirrored=True)[1]


def test_workers_make_the_same_examples(small: CocoDataset) -> None:
    numbers = TrainingBatches(ImageNumbers(small), 2, 5, AugmentationSection(), 1, 0, 1)
    made = ExampleBatches(small, numbers, masks=True, flip=0.5)
    order = [index for step in range(2) for index in numbers[1, step][0].tolist()]
    assert sorted(order) == [0, 1, 2, 3]
    with Workers(1) as processes:
        here, ahead = (
            [example for step in one.items(made, steps_of(1, 2)) for example in step] for one in (Workers(0), processes)
        )
    for index, own, other in zip(order, here, ahead, strict=True):
        mirrored = is_mirrored(0.5, seed=5, epoch=1, index=index)
        image, target = training_example(small, index, masks=True, mirrored=mirrored)
        for found, objects in (own, other):
            assert torch.equal(found, image)
            assert all(torch.equal(objects[key], target[key]) for key in target)


def test_mirrored_twice_is_the_same(small: CocoDataset) -> None:
    for index in range(4):
        image, target = training_example(small, index, masks=True, mirrored=False)
        again, same = mirror(*mirror(image, target))
        assert torch.equal(again, image)
        assert all(torch.equal(same[key], target[key]) for key in target)


@given(st.integers(0, 1000), st.integers(0, 100))
def test_the_coin_depends_on_seed_epoch_and_image_alone(seed: int, epoch: int) -> None:
    coins = [is_mirrored(0.5, seed=seed, epoch=epoch, index=index) for index in range(200)]
    torch.rand(3)
    assert coins == [is_mirrored(0.5, seed=seed, epoch=epoch, index=index) for index in range(200)]
    assert 60 < sum(coins) < 140
    assert not any(is_mirrored(0.0, seed=seed, epoch=epoch, index=index) for index in range(20))
    assert all(is_mirrored(1.0, seed=seed, epoch=epoch, index=index) for index in range(20))
    assert coins != [is_mirrored(0.5, seed=seed, epoch=epoch + 1, index=index) for index in range(200)]
