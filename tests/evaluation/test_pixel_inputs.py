import pytest
import torch
from torch import nn

from tailcut.evaluation.pixel_inputs import gate_penalty, reader_of
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
