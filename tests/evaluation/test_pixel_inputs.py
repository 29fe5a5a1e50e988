import pytest
import torch
from torch import nn

from tailcut.data import open_dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.pixel_inputs import gate_penalty, reader_of
from tailcut.evaluation.random_batches import random_batches
from tailcut.execution import fuse
from tailcut.inputs import BlockDCT, FrequencyGate, replace_stem
from tailcut.structure import create_model
from tailcut.weights import regularize


def test_a_network_of_pixels_reads_them_as_they_are() -> None:
    images = torch.rand(2, 1, 28, 28)
    assert reader_of(create_model("lenet300"))(images) is images
    assert reader_of(nn.Flatten())(images) is images


def test_a_network_of_channels_reads_them_through_its_own_transform() -> None:
    model = create_model("resnet18", width=8, num_classes=3)
    replace_stem(model, BlockDCT(6, chroma="full"), example_input=torch.zeros(1, 3, 64, 64))
    images = torch.rand(2, 3, 32, 40)
    expected = BlockDCT(6, chroma="full")(images)
    assert torch.equal(reader_of(model)(images), expected)
    assert expected.shape == (2, 6, 4, 5)


def test_a_fused_network_reads_as_its_source() -> None:
    model = create_model("resnet18", width=8, num_classes=3)
    replace_stem(model, 6)
    regularize(model, num_kept=20)
    assert reader_of(fuse(model.eval(), torch.zeros(1, 6, 8, 8))) is model.input_transform


def test_gates_add_their_mean_to_the_loss() -> None:
    gates = nn.Sequential(FrequencyGate(6), FrequencyGate(6))
    gates.train()(torch.rand(4, 6, 3, 3))
    penalty = gate_penalty(gates, 0.5)
    assert penalty is not None
    first, second = (gate.probabilities.mean() for gate in gates)  # type: ignore[operator]
    assert penalty.item() == pytest.approx(0.5 * (first + second).item(), rel=1e-6)


def test_without_gates_nothing_is_added() -> None:
    assert gate_penalty(create_model("lenet300"), 0.5) is None


def test_batches_are_drawn_without_repetition() -> None:
    dataset = open_dataset("digits", "train")
    batches = list(random_batches(dataset, 100, 3, 0))
    assert [tuple(batch.shape) for batch in batches] == [(100, 1, 28, 28)] * 3
    assert len({tuple(image.flatten().tolist()) for batch in batches for image in batch}) > 295
    again, other = list(random_batches(dataset, 100, 3, 0)), list(random_batches(dataset, 100, 3, 1))
    assert all(torch.equal(own, same) for own, same in zip(batches, again, strict=True))
    assert not torch.equal(batches[0], other[0])
    # Where the data set ends, so do the batches.
    assert [len(batch) for batch in random_batches(dataset.part(0, 25), 10, 9, 0)] == [10, 10, 5]
    with pytest.raises(ArgumentError, match="must be at least 1, got 0 and 3"):
        list(random_batches(dataset, 0, 3, 0))
