import torch
from torch import nn

from tailcut.execution.wrapper.snapshot import ModelSnapshot, try_out


def test_buffers_and_random_numbers_are_put_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    before, random = {name: buffer.clone() for name, buffer in model.named_buffers()}, torch.get_rng_state()
    try_out(model, lambda: model(torch.randn(8, 4)))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_write_to_an_input_is_noticed() -> None:
    x = torch.ones(3)
    snapshot = ModelSnapshot(nn.Identity(), [x])
    assert not snapshot.inputs_are_written()
    x.add_(1)
    assert snapshot.inputs_are_written()
