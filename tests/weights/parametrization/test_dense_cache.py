"""Dense weights kept in evaluation: the same answers as made anew, after whatever happened to the coefficients."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import tailcut
from tailcut.weights import TailTruncation, truncated_tensors
from tailcut.weights.parametrization import dense_cache
from tailcut.weights.parametrization.truncation import Truncation


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.head(self.conv(x).relu().flatten(1))
        return hidden


def made() -> Net:
    torch.manual_seed(0)
    model = Net()
    tailcut.regularize(model, keep_ratio=0.5)
    return model.eval()


INPUTS = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def anew(model: nn.Module) -> Tensor:
    """What the network gives where nothing is kept: by its plain copy."""
    with torch.no_grad():
        outputs: Tensor = tailcut.to_dense(model)(INPUTS)
    return outputs


def vector(model: Net, name: str = "head") -> nn.Parameter:
    parameter: nn.Parameter = model.get_submodule(name).parametrizations.weight.original  # type: ignore
    return parameter


def counted(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each weight that is made."""
    calls: list[None] = []
    make = dense_cache._made

    def counting(truncation: Truncation, vector: Tensor) -> dense_cache.KeptWeight:
        calls.append(None)
        return make(truncation, vector)

    monkeypatch.setattr(dense_cache, "_made", counting)
    return calls


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_weights_are_made_once_in_evaluation(
    mode: Callable[[], torch.no_grad], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = made(), counted(monkeypatch)
    expected = anew(model)
    with mode():
        for _ in range(3):
            torch.testing.assert_close(model(INPUTS), expected)
    assert len(calls) == 2
    model.train()
    assert all(tensor.truncation.kept is None for tensor in truncated_tensors(model))
    with mode():
        torch.testing.assert_close(model(INPUTS), expected)
    assert len(calls) == 2


def test_what_inference_mode_made_can_be_differentiated_later() -> None:
    model = made()
    with torch.inference_mode():
        model(INPUTS)
    model(INPUTS.clone().requires_grad_()).sum().backward()
    assert vector(model).grad is not None


def _write(model: Net) -> None:
    with torch.no_grad():
        vector(model)[3] += 1


def _write_data(model: Net) -> None:
    vector(model).data[7] = 5.0


def _scale_data(model: Net) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


def _replace_data(model: Net) -> None:
    vector(model).data = vector(model).data * 2


def _write_numpy(model: Net) -> None:
    vector(model).detach().numpy()[2] = -4.0


def _step(model: Net) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(INPUTS).square().sum().backward()
    optimizer.step()


def _load(model: Net) -> None:
    other = made()
    _scale_data(other)
    model.load_state_dict(other.state_dict())


def _assign(model: Net) -> None:
    other = made()
    _scale_data(other)
    model.load_state_dict(other.state_dict(), assign=True)


def _cut(model: Net) -> None:
    TailTruncation(model, num_kept=20, num_steps=1).step()


def _finish(model: Net) -> None:
    TailTruncation(model, num_kept=20).finish()


def _round(model: Net) -> None:
    for tensor in truncated_tensors(model):
        tensor.truncation.precision = "bfloat16"


def _write_weight(model: Net) -> None:
    with torch.no_grad():
        model.head.weight.fill_(3.0)


def _write_weight_data(model: Net) -> None:
    model.head.weight.data.fill_(3.0)


CHANGES = [
    *(_write, _write_data, _scale_data, _replace_data, _write_numpy, _step, _load, _assign, _cut, _finish, _round),
    *(_write_weight, _write_weight_data),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("grad", [False, True])
def test_no_answer_is_stale(change: Callable[[Net], None], grad: bool) -> None:
    model = made()
    with torch.set_grad_enabled(grad):
        before = model(INPUTS).detach()
        with torch.enable_grad():
            change(model)
        after = model(INPUTS).detach()
    torch.testing.assert_close(after, anew(model))
    assert torch.equal(after, before) == change.__name__.startswith("_write_weight")


@pytest.mark.parametrize("place", [0, 5, dense_cache.MAX_WHOLE - 1])
def test_one_number_of_a_long_vector_written_through_data_is_seen(place: int) -> None:
    model = nn.Sequential(nn.Linear(1 << 9, 1 << 8))
    tailcut.regularize(model)
    model.eval()
    parameter = truncated_tensors(model)[0].vector
    assert parameter.numel() == dense_cache.MAX_WHOLE
    inputs = torch.randn(2, 1 << 9)
    with torch.no_grad():
        model(inputs)
        parameter.data[place] += 10
        torch.testing.assert_close(model(inputs), tailcut.to_dense(model)(inputs))


def test_writes_to_the_longest_vectors_are_seen_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_cache, "MAX_WHOLE", 8)
    monkeypatch.setattr(dense_cache, "NUM_FIRST", 4)
    monkeypatch.setattr(dense_cache, "NUM_SPREAD", 64)
    for write in (_write, _scale_data, _replace_data, _step, _load):
        test_no_answer_is_stale(write, grad=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moves_are_followed(dtype: torch.dtype) -> None:
    model = made()
    with torch.no_grad():
        model(INPUTS)
        model.to(dtype)
        outputs = model(INPUTS.to(dtype))
        assert outputs.dtype == dtype
        torch.testing.assert_close(outputs, tailcut.to_dense(model)(INPUTS.to(dtype)))


@pytest.mark.parametrize("cut", [False, True])
def test_gradients_are_those_of_weights_made_anew(cut: bool) -> None:
    ours, theirs = made().double(), made().double()
    theirs.train()  # no layer of it acts otherwise there
    if cut:
        for model in (ours, theirs):
            TailTruncation(model, num_kept=20, num_steps=1).step()
    inputs = INPUTS.double()
    for model in (ours, theirs):
        (first,) = torch.autograd.grad(model(inputs).sigmoid().sum(), vector(model), create_graph=True)
        first.square().sum().backward()  # second derivatives too
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_copies_and_files_do_not_hold_what_is_kept(tmp_path: Path) -> None:
    model = made()
    with torch.no_grad():
        model(INPUTS)
        copied = copy.deepcopy(model)
        assert all(tensor.truncation.kept is None for tensor in truncated_tensors(copied))
        _scale_data(copied)
        torch.testing.assert_close(copied(INPUTS), anew(copied))
        torch.testing.assert_close(model(INPUTS), anew(model))
        assert not torch.equal(anew(model), anew(copied))
    assert tailcut.save(model, tmp_path / "a.tailcut").file_bytes < 4 * 1000 + 4 * 800
    assert set(model.state_dict()) == set(made().state_dict())


@pytest.mark.filterwarnings("ignore")  # as below
@pytest.mark.parametrize("size", [512, 513])
def test_a_long_axis_is_traced(size: int) -> None:
    """Its transform goes by FFT."""
    model = nn.Linear(size, size)
    tailcut.regularize(model, keep_ratio=0.1)
    inputs = torch.rand(2, size)
    traced = torch.jit.trace(model, inputs)
    with torch.no_grad():
        torch.testing.assert_close(traced(inputs), tailcut.to_dense(model)(inputs))


@pytest.mark.filterwarnings("ignore")  # torch would rather not trace, and warns of shapes that become numbers
def test_what_looks_into_operations_sees_the_coefficients() -> None:
    model = made()
    with torch.no_grad():
        model(INPUTS)
    program = torch.export.export(model, (INPUTS,))
    traced = torch.jit.trace(model, INPUTS)
    compiled = torch.compile(model, backend="eager")
    parameters = {name: 2 * value.detach() for name, value in model.named_parameters()}
    called = torch.func.functional_call(model, parameters, (INPUTS,))
    jacobian = torch.func.jacrev(lambda inputs: model(inputs))(INPUTS[:1])
    assert jacobian.shape == (1, 5, 1, 3, 6, 6)
    tangent = torch.func.jvp(lambda inputs: model(inputs), (INPUTS,), (INPUTS,))[1]
    assert tangent.shape == (4, 5)
    with torch.no_grad():
        for runs in (program.module(), traced, compiled):
            torch.testing.assert_close(runs(INPUTS), anew(model))
        for parameter in model.parameters():
            parameter.mul_(2)
        torch.testing.assert_close(called.detach(), anew(model))
        torch.testing.assert_close(compiled(INPUTS), anew(model))
        torch.testing.assert_close(traced(INPUTS), anew(model))


def test_attention_and_tied_weights_share_what_is_kept() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    tailcut.regularize(layer, keep_ratio=0.5)
    layer.eval()
    inputs = torch.randn(2, 5, 16)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(layer(inputs), tailcut.to_dense(layer)(inputs))
        for parameter in layer.parameters():
            parameter.data.mul_(1.1)
        torch.testing.assert_close(layer(inputs), tailcut.to_dense(layer)(inputs))


def test_torch_s_own_cache_goes_with_it() -> None:
    model = made()
    with torch.no_grad(), parametrize.cached():
        model(INPUTS)
        torch.testing.assert_close(model(INPUTS), anew(model))
