from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from tailcut.data import Dataset, InMemoryDataset, open_dataset, split_off
from tailcut.data.workers import Workers
from tailcut.errors import ArgumentError
from tailcut.training.batches import TrainingBatches, augment, batches, coarsen, cutout, generator, shift
from tailcut.training.recipe.sections import AugmentationSection

NOTHING = AugmentationSection()
EVERYTHING = AugmentationSection(shift=3, flip=True)
HIDING = AugmentationSection(shift=3, flip=True, cutout=3)


def numbered(num: int) -> InMemoryDataset:
    """A data set whose images tell their number."""
    images = torch.arange(num, dtype=torch.uint8)[:, None, None, None].expand(num, 1, 6, 5).contiguous()
    return InMemoryDataset("numbered", "train", images, torch.arange(num), [str(i) for i in range(num)])


def numbers(dataset: InMemoryDataset, **settings: Any) -> list[list[int]]:
    work = batches(dataset, augmentation=NOTHING, **{"batch_size": 4, "seed": 1, "epoch": 0, **settings})
    return [targets.tolist() for _, targets, _ in work]


def test_an_epoch_has_each_image_at_most_once_in_full_batches() -> None:
    got = numbers(numbered(18))
    assert [len(batch) for batch in got] == [4, 4, 4, 4]
    assert len({number for batch in got for number in batch}) == 16


def test_images_go_with_their_targets() -> None:
    for images, targets, places in batches(numbered(18), batch_size=4, seed=1, epoch=0, augmentation=NOTHING):
        assert (images[:, 0, 0, 0] * 255).round().long().tolist() == targets.tolist() == places.tolist()


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    data = numbered(18)
    assert numbers(data) == numbers(data)
    torch.manual_seed(5)
    assert numbers(data) == numbers(data)
    assert numbers(data) != numbers(data, epoch=1)
    assert numbers(data) != numbers(data, seed=2)
    assert numbers(data, seed=1, epoch=2) != numbers(data, seed=2, epoch=1)


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_share_what_one_process_sees(num_processes: int) -> None:
    data = numbered(18)
    settings = {"batch_size": 4, "seed": 1, "epoch": 3, "augmentation": HIDING}
    whole = list(batches(data, **settings))  # type: ignore[arg-type]
    parts = [
        list(batches(data, rank=rank, num_processes=num_processes, **settings))  # type: ignore[arg-type]
        for rank in range(num_processes)
    ]
    for step, batch in enumerate(whole):
        for rank in range(num_processes):
            for part, all_of_it in zip(parts[rank][step], batch, strict=True):
                assert torch.equal(part, all_of_it[rank::num_processes])


def test_generators_of_different_keys_differ() -> None:
    draws = {tuple(torch.randint(0, 1000, (4,), generator=generator(*key)).tolist()) for key in [(1,), (1, 2), (12,)]}
    assert len(draws) == 3


@given(st.integers(-7, 7), st.integers(-7, 7))
def test_a_shift_agrees_with_scipy(down: int, right: int) -> None:
    image = torch.rand(1, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    moved = shift(image, torch.tensor([[down, right]]))
    expected = ndimage.shift(image[0].numpy(), (0, down, right), order=0, mode="constant", cval=0.0)
    np.testing.assert_array_equal(moved[0].numpy(), expected)


@given(st.integers(0, 5), st.integers(0, 4), st.integers(1, 5))
def test_a_hidden_square_is_the_mean_and_the_rest_stays(row: int, column: int, side: int) -> None:
    image = torch.rand(1, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = image.numpy().copy()
    before, after = side // 2, side - side // 2
    square = slice(max(row - before, 0), row + after), slice(max(column - before, 0), column + after)
    expected[0, :, *square] = image.numpy().mean((2, 3))[0][:, None, None]
    np.testing.assert_allclose(cutout(image, torch.tensor([[row, column]]), side).numpy(), expected, rtol=1e-6)


def test_squares_lie_anywhere_and_hide_alike_in_all_channels() -> None:
    ramp = torch.arange(30.0).view(6, 5)
    images, classes = torch.stack([ramp, ramp + 100]).expand(400, 2, 6, 5), torch.arange(400)
    section = AugmentationSection(cutout=1)
    hidden, same = augment(images, classes, section, generator(0), 400, torch.arange(400))
    assert torch.equal(same, classes)
    changed = hidden != images
    assert (changed.sum((1, 2, 3)) == 2).all()
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert changed[:, 0].any(0).all()


def test_a_hidden_square_leaves_shift_and_flip_as_they_were() -> None:
    images, classes = torch.rand(8, 1, 6, 5), torch.arange(8)
    shown, _ = augment(images, classes, EVERYTHING, generator(1), 8, torch.arange(8))
    hidden, _ = augment(images, classes, HIDING, generator(1), 8, torch.arange(8))
    assert (hidden == shown).sum() >= 8 * (30 - 9)
    assert (hidden != shown).any(dim=(1, 2, 3)).all()


def test_a_mask_is_changed_like_its_image() -> None:
    masks = torch.randint(0, 2, (8, 6, 5), generator=torch.Generator().manual_seed(0))
    images, targets = augment(masks[:, None].float(), masks, EVERYTHING, generator(1), 8, torch.arange(8))
    assert torch.equal(images[:, 0].long(), targets)
    assert not torch.equal(targets, masks)
    assert targets.dtype == torch.int64


@given(st.integers(2, 4), st.integers(4, 11), st.integers(4, 11))
def test_coarse_images_are_means_of_squares(factor: int, height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    smaller, classes = coarsen(images, torch.tensor([4, 7]), factor)
    rows, columns = height // factor * factor, width // factor * factor
    squares = images[:, :, :rows, :columns].numpy().reshape(2, 3, rows // factor, factor, columns // factor, factor)
    np.testing.assert_allclose(smaller.numpy(), squares.mean((3, 5)), atol=1e-6)
    assert classes.tolist() == [4, 7]


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("width", [12, 13])
def test_a_coarse_mask_lies_on_its_image(factor: int, width: int) -> None:
    mask = torch.zeros(1, 9, width, dtype=torch.int64)
    mask[0, :, width // 2 :] = 1
    image, target = coarsen(mask[:, None].float(), mask, factor)
    assert target.shape == image[:, 0].shape
    assert target.dtype == torch.int64
    sure = (image[:, 0] == 0) | (image[:, 0] == 1)
    assert torch.equal(target[sure], image[:, 0][sure].long())


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    image = torch.arange(5.0).expand(400, 1, 1, 5)
    flipped, _ = augment(
        image,
        torch.zeros(400, dtype=torch.int64),
        AugmentationSection(flip=True),
        generator(0),
        400,
        torch.arange(400),
    )
    first = flipped[:, 0, 0, 0]
    assert set(first.tolist()) == {0.0, 4.0}
    assert 150 < (first == 4).sum() < 250


def test_no_augmentation_changes_nothing() -> None:
    images, targets = torch.rand(4, 1, 6, 5), torch.arange(4)
    same = augment(images, targets, NOTHING, generator(0), 4, torch.arange(4))
    assert torch.equal(same[0], images)
    assert torch.equal(same[1], targets)


def photos(root: Path) -> Dataset:
    """Twelve photos of several sizes in two classes."""
    noise = np.random.default_rng(0)
    for number in range(12):
        path = root / "photos" / "train" / ("a", "b")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)).save(path)
    return open_dataset("folder:photos@24/16", "train", roots=root)


def test_random_parts_do_not_depend_on_who_makes_them(tmp_path: Path) -> None:
    """Neither on the number of processes that share a batch, nor on workers."""
    dataset = photos(tmp_path)
    section = AugmentationSection(crop=True, flip=True)
    settings: dict[str, Any] = {"batch_size": 4, "seed": 3, "epoch": 1, "augmentation": section}
    alone = list(batches(dataset, **settings))
    assert [images.shape for images, _, _ in alone] == [(4, 3, 16, 16)] * 3
    parts = [list(batches(dataset, **settings, rank=rank, num_processes=2)) for rank in (0, 1)]
    for whole, first, second in zip(alone, *parts, strict=True):
        for values, even, odd in zip(whole, first, second, strict=True):
            assert torch.equal(values[0::2], even)
            assert torch.equal(values[1::2], odd)
    next_one = {**settings, "epoch": 2}
    with Workers(2) as processes:  # the same for both epochs
        for epoch, expected in ((settings, alone), (next_one, list(batches(dataset, **next_one)))):
            for whole, ahead in zip(expected, batches(dataset, **epoch, workers=processes), strict=True):
                assert all(torch.equal(one, other) for one, other in zip(whole, ahead, strict=True))
    images, _, places = next(batches(dataset, **next_one))
    assert not torch.equal(images, alone[0][0])
    middles = dataset.batch(places)[0]
    assert not torch.equal(images, middles)
    held_out, _ = split_off(dataset, 4)
    assert next(batches(held_out, **settings))[0].shape == (4, 3, 16, 16)


def test_random_parts_need_photos_in_folders() -> None:
    dataset = open_dataset("digits", "train")
    section = AugmentationSection(crop=True)
    with pytest.raises(ArgumentError, match=r"random parts \(data\.augmentation\.crop\) are of photos of classes"):
        next(batches(dataset, batch_size=4, seed=0, epoch=0, augmentation=section))


def test_random_parts_differ_from_epoch_to_epoch() -> None:
    class Drawn:
        stored_channels = None

        def __len__(self) -> int:
            return 8

        def random_parts(self, places: Any, noises: list[torch.Generator]) -> tuple[torch.Tensor, Any]:
            drawn = torch.stack([torch.rand((), generator=noise) for noise in noises])
            return drawn.reshape(-1, 1, 1, 1), places

    drawn: Any = Drawn()
    made = TrainingBatches(drawn, 4, 0, AugmentationSection(crop=True), 1, 0, 1)
    found = {made[epoch, step][0].flatten().tolist()[0] for epoch in range(3) for step in range(2)}
    assert len(found) == 6
