import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.execution.networks import STRATEGIES, assert_same_gradients, between, fused_as, strategies_of
from torch import Tensor, nn

import tailcut
from tailcut.execution import fuse
from tailcut.weights.parametrization.truncation import Truncation


def relative(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)).detach())


def check(model: nn.Module, x: Tensor, *, tolerance: float = 1e-10) -> Any:
    """Fused and dense agree, in values and in the gradients to input and parameters. Returns the report."""
    dense = copy.deepcopy(model)
    fused = fused_as(model, "low_rank")
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = fused(one), dense(two)
    assert relative(found, expected) < tolerance
    weight = torch.randn_like(expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert one.grad is not None
    assert two.grad is not None
    assert relative(one.grad, two.grad) < 1e-8
    for mine, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert float((mine.grad - theirs.grad).abs().max()) < 1e-8 * (1 + float(theirs.grad.abs().max()))
    return fused.report()


ACTIVATIONS = (nn.ReLU(), nn.GELU(), nn.Identity())


@settings(max_examples=40)
@given(data=st.data())
def test_two_convolutions(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 100)))
    kernel, padding = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2))
    stride, dilation = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    groups, bias = data.draw(st.sampled_from([1, 2])), data.draw(st.booleans())
    mode: Any = data.draw(st.sampled_from(["zeros", "reflect", "replicate"]))
    axes: Any = data.draw(st.sampled_from(["all", (0,), (1,), (0, 1)]))
    model = nn.Sequential(
        nn.Conv2d(4, 12, 3, padding=1, bias=bias),
        data.draw(st.sampled_from([nn.BatchNorm2d(12), nn.Identity(), nn.GroupNorm(1, 12)])),
        data.draw(st.sampled_from(ACTIVATIONS)),
        nn.Conv2d(12, 8, kernel, stride, padding, dilation, groups, bias, mode),
    ).double()
    tailcut.regularize(model, keep_ratio=data.draw(st.sampled_from([0.001, 0.02, 0.2, 1.0])), axes=axes)
    check(model, torch.randn(2, 4, 7, 6).double())


@settings(max_examples=15)
@given(data=st.data())
def test_transposed_convolutions(data: st.DataObject) -> None:
    kernel, stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 10, kernel, stride, padding=data.draw(st.integers(0, kernel - 1))),
        nn.ZeroPad2d((1, 0, 2, 1)),
        nn.Conv2d(10, 9, 3, padding=1),
    ).double()
    tailcut.regularize(model, num_kept=data.draw(st.integers(1, 40)))
    check(model, torch.randn(2, 3, 5, 4).double())


@pytest.mark.parametrize("num_kept", [1, 10, 1000])
def test_one_and_three_dimensions_and_linear_layers(num_kept: int) -> None:
    for model, shape in (
        (nn.Sequential(nn.Conv1d(3, 9, 3), nn.BatchNorm1d(9), nn.ReLU(), nn.Conv1d(9, 7, 2)), (2, 3, 12)),
        (nn.Sequential(nn.Conv3d(2, 9, 2), nn.ReLU(), nn.Conv3d(9, 7, 2, padding=1)), (2, 2, 4, 5, 4)),
        (nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 5)), (7, 6)),
        (nn.Sequential(nn.Linear(6, 20), nn.LayerNorm(20), nn.GELU(), nn.Linear(20, 5)), (3, 4, 6)),
        (nn.Linear(6, 20), (3, 6)),
    ):
        model.double()
        tailcut.regularize(model, num_kept=num_kept)
        check(model, torch.randn(shape).double())


class Doubled(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize("layer", [nn.Conv2d(12, 12, 3, groups=12), Doubled(12, 12, 3)])
def test_depthwise_layers_and_subclasses_are_dense_and_say_so(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU6(), layer, nn.Conv2d(12, 6, 1)).double()
    tailcut.regularize(model, num_kept=8)
    report = check(model, torch.randn(1, 3, 6, 6).double())
    assert {layer.name: layer.strategy for layer in report.layers}["2"] == "dense"


class Lookup(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 16, **settings)
        self.out = nn.Linear(16, 4)

    def forward(self, index: Tensor) -> Tensor:
        y: Tensor = self.out(torch.relu(self.table(index)))
        return y


@pytest.mark.parametrize("settings", [{}, {"padding_idx": 3}])
def test_embeddings(settings: dict[str, Any]) -> None:
    model = Lookup(**settings).double()
    tailcut.regularize(model, num_kept=20, include=["table.weight", "out.weight"])
    dense, fused = copy.deepcopy(model), fused_as(model, "low_rank")
    index = torch.randint(0, 30, (5, 7))
    found, expected = fused(index), dense(index)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for mine, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert fused.report().layers[0].strategy == ("dense" if settings else "fused")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", [(0, 7), (5, 0)])
def test_no_words_at_all(shape: tuple[int, int], strategy: str) -> None:
    model = Lookup()
    tailcut.regularize(model, num_kept=20)
    fused = fused_as(model, strategy)
    assert fused(torch.zeros(shape, dtype=torch.int64)).shape == (*shape, 4)


def test_attention_and_biases_run_densely() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.out = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(self.attention(x, x, x)[0])
            return y

    model = Net().double()
    tailcut.regularize(model, num_kept=12, include=["*weight", "out.bias"])
    report = check(model, torch.randn(2, 5, 16).double())
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert reasons["attention"] == "'attention' reads its weights several times in a forward"


def test_no_dense_weight_is_built_for_low_rank_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tailcut.create_model("unet", widths=(16, 32, 48)).eval()
    tailcut.regularize(model, num_kept=20)
    fused = fused_as(model, "low_rank")

    def refuse(*args: object) -> Tensor:
        raise RuntimeError("a dense weight was built")

    monkeypatch.setattr(Truncation, "forward", refuse)
    with torch.no_grad():
        fused(torch.rand(1, 3, 40, 33))
    assert {layer.strategy for layer in fused.report().layers} == {"fused"}
    with pytest.raises(RuntimeError, match="a dense weight was built"):
        model(torch.rand(1, 3, 40, 33))


def test_arguments_may_be_named() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1)
            self.embedding = nn.Embedding(20, 8)

        def forward(self, index: Tensor) -> Tensor:
            x = self.embedding(input=index).transpose(1, 2).unflatten(2, (3, 3))
            result: Tensor = self.up(input=x, output_size=[6, 6])
            return result

    model = Named().double().eval()
    tailcut.regularize(model, num_kept=10)
    index = torch.randint(20, (2, 9))
    for strategy in STRATEGIES:
        fused = fused_as(model, strategy)
        torch.testing.assert_close(fused(index), model(index))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_transformers_of_torch_with_a_mask(mode: Any, strategy: str) -> None:
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval()
    tailcut.regularize(model, keep_ratio=0.3)
    fused, x = fused_as(model, strategy), torch.randn(2, 10, 64)
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[1, 6:] = True
    with mode():
        for _ in range(2):
            found, expected = fused(x, src_key_padding_mask=mask), model(x, src_key_padding_mask=mask)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nested_and_sparse_tensors_run_densely(layout: torch.layout, strategy: str) -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))
    tailcut.regularize(model, num_kept=12)
    fused = fused_as(model, strategy)
    for lengths in ((3, 5), (4, 1)):
        rows = [torch.randn(length, 16) for length in lengths]
        x = torch.nested.nested_tensor(rows, layout=layout)
        with torch.no_grad():
            for found, row in zip(fused(x).unbind(), rows, strict=True):
                torch.testing.assert_close(found, model(row), rtol=1e-4, atol=1e-5)
    assert set(strategies_of(fused).values()) == {"dense"}
    rows[0].relu_()
    with torch.no_grad():
        torch.testing.assert_close(fused(rows[0].to_sparse()), model(rows[0]), rtol=1e-4, atol=1e-5)
    assert strategies_of(fused)["0"] == "dense"


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_are_called(register: str) -> None:
    model, x = between()
    calls: list[int] = []

    def doubles(_: nn.Module, gradients: tuple[Tensor, ...], *others: Any) -> tuple[Tensor, ...]:
        calls.append(1)
        return (2 * gradients[0],)

    for layer in (model.a, model.b):
        getattr(layer, register)(doubles)
    assert_same_gradients(fuse(model), model, x)
    assert len(calls) == 10


def test_backward_hooks_of_other_modules() -> None:
    def shrink(_: nn.Module, inner: Any, outer: Any) -> Any:
        return (0.1 * inner[0],)

    model, x = between(lambda y, network: network.activation(y))
    model.activation = nn.ReLU()
    model.activation.register_full_backward_hook(shrink)
    assert_same_gradients(fuse(model), model, x)


@pytest.mark.parametrize("layer", [nn.Linear(24, 30), nn.Conv2d(24, 30, 3, padding=1)])
def test_a_truncated_bias_is_added(layer: nn.Module) -> None:
    torch.manual_seed(0)
    shape = (2, 24) if isinstance(layer, nn.Linear) else (2, 24, 5, 6)
    model, x = nn.Sequential(layer, nn.ReLU()).double(), torch.randn(*shape, dtype=torch.float64)
    tailcut.regularize(model, num_kept={"0.weight": 20, "0.bias": 7}, include=["0.weight", "0.bias"])
    fused = fused_as(model, "low_rank")
    torch.testing.assert_close(fused(x), model(x), rtol=1e-10, atol=1e-12)
    assert [layer.strategy for layer in fused.report().layers] == ["factored"]
    fused(x).square().sum().backward()
    got = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    torch.testing.assert_close(got, [parameter.grad for parameter in model.parameters()], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("index", [-1, 30])
def test_an_index_that_an_embedding_lacks_is_refused_as_by_torch(index: int) -> None:
    model = nn.Sequential(nn.Embedding(30, 16), nn.Linear(16, 16))
    tailcut.regularize(model, num_kept=6)
    fused = fused_as(model, "low_rank")
    with torch.no_grad():
        fused(torch.tensor([[0, 29]]))
        assert strategies_of(fused)["0"] == "fused"
        with pytest.raises(IndexError, match="index out of range"):
            fused(torch.tensor([[0, index]]))


def test_embeddings_whose_gradients_are_scaled_by_counts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 64, scale_grad_by_freq=True), nn.Linear(64, 64))
    tailcut.regularize(model, num_kept=40, warn=False)
    fused = tailcut.fuse(model, engine="torch")
    fused.strategy = "low_rank"
    index = torch.tensor([[1, 1, 1, 2], [1, 2, 3, 4]])
    gradients = []
    for network in (model, fused):
        model.zero_grad()
        network(index).square().sum().backward()
        gradient = model.get_parameter("0.parametrizations.weight.original").grad
        assert gradient is not None
        gradients.append(gradient.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)
