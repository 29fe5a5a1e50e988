"""Regularised networks with the rest of torch: what must work through cuts."""

import copy
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.weights import two_processes
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from tailcut.weights import TailTruncation, kept_counts, regularize, to_dense, truncated_tensors


class Net(nn.Module):
    """Convolution, batch norm, attention and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = functional.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        logits: Tensor = self.head(mixed.mean(1))
        return logits


IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
CLASSES = torch.arange(8) % 5


def network(**settings: Any) -> Net:
    torch.manual_seed(0)
    model = Net()
    regularize(model, **settings)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor = IMAGES) -> Tensor:
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(images), CLASSES[: len(images)])
    loss.backward()
    optimizer.step()
    return loss


# --- automatic mixed precision ---------------------------------------------------------------------------------


def test_autocast_computes_weights_in_float32() -> None:
    layer = nn.Linear(40, 30)
    regularize(layer, num_kept=200)
    expected = layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.weight.dtype == torch.float32
        assert torch.equal(layer.weight, expected)
        assert layer(torch.ones(2, 40)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_under_autocast_through_cuts(dtype: torch.dtype) -> None:
    model, plain = network(), Net()
    torch.manual_seed(0)
    plain = Net()
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(model(IMAGES), plain(IMAGES), rtol=0.05, atol=0.05)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = TailTruncation(model, num_kept=10, num_steps=4, spacing="geometric", optimizer=optimizer)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", dtype=dtype):
            losses.append(train(model, optimizer))
        schedule.step()
    assert losses[-1] < losses[0]
    assert all(tensor.vector.grad.dtype == torch.float32 for tensor in truncated_tensors(model))  # type: ignore[union-attr]
    assert set(kept_counts(model).values()) == {10}


# --- copies and averages ---------------------------------------------------------------------------------------


def test_deepcopy_through_cuts() -> None:
    model = network()
    schedule = TailTruncation(model, num_kept=9, num_steps=3, spacing="geometric")
    schedule.step()
    copied = copy.deepcopy(model)
    counts = kept_counts(model)
    assert torch.equal(copied.eval()(IMAGES), model.eval()(IMAGES))
    schedule.step()
    schedule.finish()
    assert kept_counts(copied) == counts
    TailTruncation(copied, num_kept=4, gamma=1.0).finish()
    assert set(kept_counts(model).values()) == {9}
    train(copied.train(), torch.optim.SGD(copied.parameters(), 0.1))


AVERAGES: dict[str, Callable[[], dict[str, Any]]] = {
    "mean": dict,
    "multi": lambda: {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "single": lambda: {"avg_fn": get_ema_avg_fn(0.9)},
    "slow": lambda: {"multi_avg_fn": get_ema_multi_avg_fn(0.9999)},
}


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("kind", AVERAGES)
def test_averaged_model_through_cuts(kind: str, use_buffers: bool) -> None:
    """The average has the counts of the model, and coefficients as if it had been averaged without a mask."""
    model = network()
    average = AveragedModel(model, use_buffers=use_buffers, **AVERAGES[kind]())
    vectors = nn.ParameterList(tensor.vector.detach().clone() for tensor in truncated_tensors(model))
    expected = AveragedModel(vectors, use_buffers=use_buffers, **AVERAGES[kind]())
    positions = [tensor.truncation.positions.clone() for tensor in truncated_tensors(model)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = TailTruncation(model, num_kept=9, num_steps=4, spacing="geometric", optimizer=optimizer)
    for _ in range(6):
        train(model, optimizer)
        schedule.step()
        average.update_parameters(model)
        vectors.load_state_dict({str(i): tensor.vector for i, tensor in enumerate(truncated_tensors(model))})
        expected.update_parameters(vectors)
        assert list(kept_counts(average).values()) == list(kept_counts(model).values())
        for tensor, values in zip(truncated_tensors(average), expected.module.parameters(), strict=True):
            torch.testing.assert_close(tensor.coefficients(), values[: tensor.num_kept], rtol=1e-6, atol=1e-7)
        assert set(average.module.state_dict()) == set(model.state_dict())
    for model_tensor, average_tensor, expected_positions in zip(
        truncated_tensors(model), truncated_tensors(average), positions, strict=True
    ):
        assert torch.equal(model_tensor.truncation.positions, expected_positions)
        assert torch.equal(average_tensor.truncation.positions, expected_positions)
    schedule.finish()
    dense = to_dense(average.module).eval()
    assert torch.equal(dense(IMAGES), average.eval()(IMAGES))


# --- torch.compile ---------------------------------------------------------------------------------------------


class CountingBackend:
    """A backend that counts compilations and runs the graph as it is."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.num_graphs += 1
        return graph.forward


@pytest.fixture
def backend() -> Iterator[CountingBackend]:
    torch.compiler.reset()
    yield CountingBackend()
    torch.compiler.reset()


def test_compile_through_cuts_without_a_recompilation(backend: CountingBackend) -> None:
    model = network(keep_ratio=0.9)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    optimizer, plain_optimizer = (torch.optim.SGD(each.parameters(), 0.1, momentum=0.9) for each in (model, plain))
    schedule, plain_schedule = (
        TailTruncation(each, num_kept=9, num_steps=6, spacing="geometric", optimizer=its)
        for each, its in ((model, optimizer), (plain, plain_optimizer))
    )
    for _ in range(6):
        loss, expected = train(cast(nn.Module, compiled), optimizer), train(plain, plain_optimizer)
        torch.testing.assert_close(loss, expected)
        assert schedule.step() == plain_schedule.step()
    assert backend.num_graphs == 1
    torch.testing.assert_close(compiled(IMAGES), plain(IMAGES))
    schedule.finish()
    plain_schedule.finish()
    torch.testing.assert_close(compiled(IMAGES), plain(IMAGES))
    assert backend.num_graphs == 2


def test_compile_with_autograd_traced_ahead(backend: CountingBackend) -> None:
    model = network(num_kept=40, precision="bfloat16")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    schedule = TailTruncation(model, num_kept=5, num_steps=2)
    for _ in range(2):
        gradients = []
        for network_ in (compiled, model):
            model.zero_grad()
            network_(IMAGES).square().sum().backward()
            gradients.append([tensor.vector.grad for tensor in truncated_tensors(model)])
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        schedule.step()


# --- torch.export and functional calls -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11's own, as it reads
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_export(strict: bool, cut: bool) -> None:
    model = network(keep_ratio=0.5).eval()
    if cut:
        TailTruncation(model, num_kept=9, gamma=1.0).step()
    with warnings.catch_warnings():
        # torch's own, about its tables of types for export
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        exported = torch.export.export(model, (IMAGES,), strict=strict)
    torch.testing.assert_close(exported.module()(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    again = torch.export.load(file).module()
    torch.testing.assert_close(again(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)
    assert all(tensor.truncation.held is None for tensor in truncated_tensors(model))


def test_functional_call() -> None:
    model = network(num_kept=30).eval()
    doubled = {name: 2 * value.detach() for name, value in model.named_parameters()}
    result = torch.func.functional_call(model, doubled, (IMAGES,))
    assert not torch.equal(result, model(IMAGES))
    other = copy.deepcopy(model)
    other.load_state_dict(doubled, strict=False)
    torch.testing.assert_close(result, other(IMAGES))


def test_functional_call_in_float64() -> None:
    layer = nn.Linear(9, 7)
    regularize(layer, num_kept=30)
    parameters = {name: value.detach().double() for name, value in layer.named_parameters()}
    x = torch.ones(2, 9)
    result = torch.func.functional_call(layer, parameters, (x.double(),))
    torch.testing.assert_close(result, layer(x).double(), rtol=0, atol=1e-6)


def test_gradients_of_functions() -> None:
    model = network(num_kept=30).eval()
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(torch.func.functional_call(model, values, (IMAGES,)), CLASSES)

    gradients = torch.func.grad(loss)(parameters)
    loss(dict(model.named_parameters())).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(gradients[name], value.grad)


def test_ensembles_by_vmap() -> None:
    models = [nn.Linear(9, 7)]
    regularize(models[0], num_kept=30)
    models += [copy.deepcopy(models[0]) for _ in range(2)]
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        nn.init.normal_(truncated_tensors(model)[0].vector)
        TailTruncation(model, num_kept=9 + seed, gamma=1.0).step()
    x = torch.ones(2, 9)
    state = torch.func.stack_module_state(models)
    result = torch.func.vmap(lambda *values: torch.func.functional_call(models[0], values, (x,)))(*state)
    torch.testing.assert_close(result, torch.stack([model(x) for model in models]))


def test_gradients_per_sample_by_vmap() -> None:
    layer = nn.Linear(9, 7)
    regularize(layer, num_kept=30)
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    x = torch.randn(4, 9)

    def loss(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, values, (sample,)).square().sum()
        return result

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    layer(x).square().sum().backward()
    for name, value in layer.named_parameters():
        torch.testing.assert_close(per_sample[name].sum(0), value.grad)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing(use_reentrant: bool) -> None:
    model = network(num_kept=30).eval()
    x, y = IMAGES.clone().requires_grad_(), IMAGES.clone().requires_grad_()
    model(x).square().sum().backward()
    expected = {name: value.grad for name, value in model.named_parameters()}
    model.zero_grad()
    torch.utils.checkpoint.checkpoint(model, y, use_reentrant=use_reentrant).square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[name])


def test_cached_parametrisations() -> None:
    model = network(num_kept=30)
    with nn.utils.parametrize.cached():
        assert model.head.weight is model.head.weight
    assert model.head.weight is not model.head.weight


# --- graphs that live on ---------------------------------------------------------------------------------------


def test_a_loss_that_is_still_referred_to_does_not_hinder() -> None:
    """torch keeps one gradient accumulator per parameter and graph, which knows the old shape."""
    torch.manual_seed(0)
    model = Net()
    losses = [model(IMAGES).sum()]
    regularize(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = TailTruncation(model, num_kept=9, num_steps=3, spacing="geometric", optimizer=optimizer)
    longer = copy.deepcopy(model.state_dict())
    for _ in range(3):
        losses.append(train(model, optimizer))
        schedule.step()
        schedule.compact()
    losses.append(train(model, optimizer))
    schedule.finish()
    losses.append(train(model, optimizer))
    model.load_state_dict(longer)
    losses.append(model(IMAGES).sum())
    losses[-1].backward()
    model.double()
    model(IMAGES.double()).sum().backward()
    assert len(losses) == 7


def test_hooks_on_the_parameter_survive_a_change_of_length() -> None:
    model = network(num_kept=30)
    seen = []
    vector = truncated_tensors(model)[0].vector
    vector.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.shape))
    model(IMAGES).sum().backward()
    TailTruncation(model, num_kept=7, gamma=1.0).finish()
    model(IMAGES).sum().backward()
    assert seen == [torch.Size([30]), torch.Size([7])]


# --- devices and processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("assign", [False, True])
def test_meta_device(assign: bool) -> None:
    source = network(num_kept=30).eval()
    TailTruncation(source, num_kept=12, gamma=1.0).step()
    with torch.device("meta"):
        model = Net()
    regularize(model, keep_ratio=0.5)
    assert model(IMAGES.to("meta")).shape == (8, 5)
    if not assign:
        model.to_empty(device="cpu")
    model.load_state_dict(source.state_dict(), assign=assign)
    # Shorter vectors have smaller corners, whose sums a processor may add up in another order.
    torch.testing.assert_close(model.eval()(IMAGES), source(IMAGES))
    assert kept_counts(model) == kept_counts(source)
    train(model, torch.optim.Adam(model.parameters(), 0.01))


def test_to_the_meta_device_and_back() -> None:
    model = network(num_kept=30).eval()
    state, expected = copy.deepcopy(model.state_dict()), model(IMAGES)
    model.to("meta").to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(model(IMAGES), expected)


def test_shared_memory() -> None:
    model = network(num_kept=30)
    expected = model(IMAGES)
    model.share_memory()
    assert all(tensor.vector.is_shared() for tensor in truncated_tensors(model))
    assert torch.equal(model(IMAGES), expected)


def test_two_processes_are_one_on_the_joint_batch(tmp_path: Path) -> None:
    script = two_processes.__file__
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", script, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    expected = two_processes.alone()
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert [len(step["head.parametrizations.weight.original"]) for step in expected] == [154, 37, 9, 9, 9]
    for histories in zip(*(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)), strict=True):
        for ours, theirs, alone in zip(*histories, expected, strict=True):
            assert list(ours) == list(theirs) == list(alone)
            for name, value in alone.items():
                torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-12)
                assert torch.equal(ours[name], theirs[name])
