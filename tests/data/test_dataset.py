import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from tailcut.data import Dataset, InMemoryDataset, ResizedDataset, open_dataset, split_off
from tailcut.errors import ArgumentError, DataError


class Ramps(Dataset):
    """Five images, computed when asked for; the last one is of another size."""

    def __init__(self) -> None:
        self.name, self.split, self.task = "ramps", "train", "segmentation"
        self.num_classes, self.class_names, self.image_shape = 2, ("low", "high"), (1, 2, 3)

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        position = range(5)[index]
        rows = 4 if position == 4 else 2
        return torch.full((1, rows, 3), position / 5), torch.full((rows, 3), position % 2)


def make_in_memory(num: int = 7) -> InMemoryDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num, 3, 4, 5), dtype=torch.uint8, generator=generator)
    return InMemoryDataset("noise", "train", images, torch.arange(num) % 3, ("a", "b", "c"))


def test_attributes() -> None:
    dataset = make_in_memory()
    assert len(dataset) == 7
    assert dataset.task == "classification"
    assert (dataset.num_classes, dataset.class_names, dataset.image_shape) == (
        3,
        ("a", "b", "c"),
        (3, 4, 5),
    )


def test_item_is_pixels_divided_by_255() -> None:
    dataset = make_in_memory()
    image, target = dataset[4]
    assert image.dtype == torch.float32
    assert torch.equal(image, dataset.images[4].to(torch.float32) / 255)
    assert target.dtype == torch.int64
    assert target.shape == ()
    assert int(target) == 1


@given(st.lists(st.integers(-7, 6), min_size=1, max_size=20))
def test_batch_equals_items(indices: list[int]) -> None:
    dataset = make_in_memory()
    images, targets = dataset.batch(indices)
    assert torch.equal(images, torch.stack([dataset[index][0] for index in indices]))
    assert torch.equal(targets, torch.stack([dataset[index][1] for index in indices]))
    again = dataset.batch(torch.tensor(indices))
    assert torch.equal(images, again[0])
    assert torch.equal(targets, again[1])


@pytest.mark.parametrize("dataset", [make_in_memory(5), Ramps(), Ramps().part(0, 5)], ids=["memory", "lazy", "part"])
def test_out_of_range_raises_index_error(dataset: Dataset) -> None:
    for index in (5, -6):
        with pytest.raises(IndexError):
            dataset[index]
        with pytest.raises(IndexError):
            dataset.batch([index])
    assert len([*iter(dataset)]) == 5, "iteration ends by IndexError"


@pytest.mark.parametrize("dataset", [make_in_memory(), Ramps()], ids=["memory", "lazy"])
def test_bad_indices(dataset: Dataset) -> None:
    with pytest.raises(ArgumentError, match="at least one index"):
        dataset.batch([])
    with pytest.raises(ArgumentError, match=r"must be integers, got torch\.bool"):
        dataset.batch(torch.ones(5, dtype=torch.bool))
    with pytest.raises(ArgumentError, match="at least one index"):
        dataset.batch(torch.tensor(3))


def test_lazy_batch_needs_one_size() -> None:
    images, masks = Ramps().batch(range(1, 4))
    assert images.shape == (3, 1, 2, 3)
    assert masks.shape == (3, 2, 3)
    with pytest.raises(DataError, match=r"\(2, 3\), \(4, 3\); use batches of one image"):
        Ramps().batch([0, 4])


def test_data_loader_takes_it() -> None:
    loader = DataLoader(make_in_memory(), batch_size=3)
    assert [tuple(images.shape) for images, _ in loader] == [(3, 3, 4, 5), (3, 3, 4, 5), (1, 3, 4, 5)]


@pytest.mark.parametrize("dataset", [make_in_memory(), Ramps()], ids=["memory", "lazy"])
def test_split_off_holds_out_the_last(dataset: Dataset) -> None:
    first, last = split_off(dataset, 2)
    border = len(dataset) - 2
    assert (len(first), len(last)) == (border, 2)
    assert (first.split, last.split) == (f"train[0:{border}]", f"train[{border}:{border + 2}]")
    assert (last.name, last.task, last.class_names) == (dataset.name, dataset.task, dataset.class_names)
    assert torch.equal(first[0][0], dataset[0][0])
    assert torch.equal(last[0][0], dataset[border][0])
    assert torch.equal(last[-1][1], dataset[len(dataset) - 1][1])
    assert torch.equal(first.batch([border - 1])[0], dataset.batch([border - 1])[0])


def test_split_off_in_memory_shares_storage() -> None:
    dataset = make_in_memory()
    first, last = split_off(dataset, 2)
    assert isinstance(first, InMemoryDataset)
    assert isinstance(last, InMemoryDataset)
    assert first.images.untyped_storage().data_ptr() == dataset.images.untyped_storage().data_ptr()
    assert torch.equal(torch.cat([first.labels, last.labels]), dataset.labels)


@pytest.mark.parametrize("num_held_out", [-1, 0, 5, 6])
def test_split_off_leaves_both_sides(num_held_out: int) -> None:
    with pytest.raises(ArgumentError, match=f"hold out must be 1 to 4 .*got {num_held_out}"):
        split_off(Ramps(), num_held_out)


class Sorted(Ramps):
    """Twenty classes of five images each, one class after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.sorted_by_class = True

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        position = range(100)[index]
        return torch.full((1, 2, 3), position / 100), torch.tensor(position // 5)


@pytest.mark.parametrize("dataset", [Sorted(), ResizedDataset(Sorted(), 4)], ids=["plain", "resized"])
@pytest.mark.parametrize("num_held_out", [20, 33, 80])
def test_split_off_leaves_all_classes_on_both_sides(dataset: Dataset, num_held_out: int) -> None:
    others, held_out = split_off(dataset, num_held_out)
    assert (len(others), len(held_out)) == (100 - num_held_out, num_held_out)
    for part in (others, held_out):
        assert part.batch(range(len(part)))[1].unique().tolist() == list(range(20))
        assert part.sorted_by_class
    ramps = torch.cat([part.batch(range(len(part)))[0].flatten(1)[:, 0] for part in (others, held_out)])
    assert ramps.sort().values.tolist() == pytest.approx([step / 100 for step in range(100)], abs=1 / 255)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (3, 1), (0, 6)])
def test_part_must_lie_inside(start: int, stop: int) -> None:
    for dataset in (Ramps(), make_in_memory(5)):
        with pytest.raises(ArgumentError, match=f"start={start}, stop={stop}"):
            dataset.part(start, stop)


IMAGES = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.float(), LABELS, "must be uint8"),
        (IMAGES[0], LABELS, "must be uint8"),
        (IMAGES, LABELS.int(), "must be int64"),
        (IMAGES, LABELS[:1], "2 images but 1 labels"),
        (IMAGES[:0], LABELS[:0], "no images"),
        (IMAGES, LABELS + 1, "0 to 1, found 1 to 2"),
        (IMAGES, LABELS - 1, "0 to 1, found -1 to 0"),
    ],
)
def test_tensors_that_do_not_fit(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        InMemoryDataset("noise", "train", images, labels, ("a", "b"))


def test_images_on_a_device() -> None:
    dataset = make_in_memory()
    moved = dataset.to(torch.device("cpu"))
    for one, other in zip(moved.batch([2, 5]), dataset.batch([2, 5]), strict=True):
        assert torch.equal(one, other)
    assert (moved.name, moved.split, moved.class_names) == (dataset.name, dataset.split, dataset.class_names)


def test_views_of_images_in_memory_go_to_worker_processes() -> None:
    dataset = ResizedDataset(make_in_memory(), 4)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again.batch(range(2))[0], dataset.batch(range(2))[0])


def test_items_are_copies() -> None:
    digits = open_dataset("digits", "test")
    image, label = digits[0]
    before = image.clone(), int(label)
    image.mul_(0)
    label += 5
    assert torch.equal(digits[0][0], before[0])
    assert int(digits[0][1]) == before[1]
