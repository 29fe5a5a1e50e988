import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError
from tailcut.model_inputs import ModelInputs
from tailcut.running import evaluating, forward, in_process_group, keeping_buffers


def test_modes_come_back() -> None:
    last = nn.Linear(3, 3)
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), last).eval())
    last.train()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.backends.mha.get_fastpath_enabled()
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == before
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_forward_that_fails_names_the_inputs() -> None:
    with pytest.raises(
        ArgumentError, match=r"Linear does not run on an input of shape \(2, 4\): mat1 and mat2 .*multip"
    ):
        forward(nn.Linear(3, 3), ModelInputs((torch.rand(2, 4),)))
    assert forward(nn.Linear(3, 5), ModelInputs((torch.rand(2, 3),))).shape == (2, 5)


class Remembering(nn.Module):
    """Writes to a buffer, fills another, and multiplies with a sparse one."""

    calls: Tensor
    cache: Tensor | None
    adjacency: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(2))
        self.register_buffer("cache", None)
        self.register_buffer("adjacency", torch.eye(4).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.cache is None:
            self.cache = torch.ones(4)
        found: Tensor = torch.sparse.mm(self.adjacency, x * self.cache)
        return found


@pytest.mark.parametrize("made_under_inference", [False, True])
def test_buffers_are_kept(made_under_inference: bool) -> None:
    with torch.inference_mode(made_under_inference):
        model = Remembering()
    with keeping_buffers(model), torch.inference_mode():
        model(torch.rand(4, 4))
    assert (model.calls.tolist(), model.cache) == ([0, 0], None)
    with pytest.raises(ZeroDivisionError), keeping_buffers(model), torch.inference_mode():
        model.calls[0] = 1 / 0
    lazy = nn.LazyBatchNorm1d()
    with keeping_buffers(lazy):
        assert "running_mean" in lazy._buffers


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_buffers_of_a_scripted_part_are_kept() -> None:
    model = nn.Sequential(torch.jit.script(nn.BatchNorm1d(4)), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    with keeping_buffers(model):
        model(torch.rand(8, 4))
        assert not torch.equal(model.get_buffer("0.running_mean"), before["0.running_mean"])
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_rows_that_a_forward_shortens_are_kept(kind: type[nn.Embedding] | type[nn.EmbeddingBag]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(kind(20, 8, max_norm=0.5), nn.Linear(8, 2))
    before = copy.deepcopy(model.state_dict())
    with keeping_buffers(model):
        model(torch.arange(12).reshape(3, 4))
        assert not torch.equal(model[0].get_parameter("weight"), before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_process_knows_whether_it_is_one_of_a_group(tmp_path: Path) -> None:
    assert not in_process_group()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert in_process_group()
    finally:
        torch.distributed.destroy_process_group()
    assert not in_process_group()
