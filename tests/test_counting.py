import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as f
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

import tailcut
from tailcut.counting import MacCount, count_macs, count_parameters
from tailcut.errors import ArgumentError
from tailcut.structure import create_model
from tailcut.weights import truncated_tensors


def peer(model: nn.Module, *inputs: Tensor) -> int:
    """The oracle: torch's own counter, of operations, two per MAC."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(*inputs)
    total = int(counter.get_total_flops())
    assert total % 2 == 0
    return total // 2


sizes = st.integers(1, 4)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A convolution, transposed or not, of 1 to 3 axes, with an input that it takes."""
    num_axes = draw(st.integers(1, 3))
    transposed = draw(st.booleans())
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d) if transposed else (
        nn.Conv1d, nn.Conv2d, nn.Conv3d
    )  # fmt: skip
    groups, kernel, dilation = draw(sizes), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    layer = kinds[num_axes - 1](
        draw(sizes) * groups,
        draw(sizes) * groups,
        kernel,
        draw(st.integers(1, 3)),
        padding=draw(st.integers(0, dilation * (kernel - 1) // 2)),
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )
    extent = draw(st.integers(dilation * (kernel - 1) + 1, 9))
    return layer, torch.rand(draw(sizes), layer.in_channels, *(extent + axis for axis in range(num_axes)))


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_convolutions(drawn: tuple[nn.Module, Tensor]) -> None:
    layer, x = drawn
    assert isinstance(layer, (nn.modules.conv._ConvNd, nn.modules.conv._ConvTransposeNd))
    counted = count_macs(nn.Sequential(layer), x)
    small = x if layer.transposed else layer(x)  # a number of it belongs to one position of the kernel
    other = layer.out_channels if layer.transposed else layer.in_channels
    expected = small.numel() * other // layer.groups * math.prod(layer.kernel_size)
    assert counted == MacCount(expected, {"0": expected})
    assert peer(layer, x) == expected


@given(sizes, sizes, sizes, st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_linear_layers(batch: int, inner: int, outer: int, bias: bool, sequence: bool) -> None:
    layer = nn.Linear(inner, outer, bias=bias)
    x = torch.rand(batch, 5, inner) if sequence else torch.rand(batch, inner)
    expected = batch * (5 if sequence else 1) * inner * outer
    assert count_macs(layer, x) == MacCount(expected, {"": expected})


class Products(nn.Module):
    """Matrix products of many kinds, of (2, 3, 4) with (2, 4, 5) or parts of them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.rand(2, 3, 5))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The product."""
        ways = {
            "@": lambda: a @ b,
            "matmul": lambda: a.matmul(b),
            "bmm": lambda: torch.bmm(a, b),
            "baddbmm": lambda: torch.baddbmm(self.weight, a, b),
            "addbmm": lambda: torch.addbmm(self.weight[0], a, b),
            "einsum": lambda: torch.einsum("bij,bjk->bik", a, b),
            "mm": lambda: torch.mm(a[0], b[0]),
            "addmm": lambda: torch.addmm(self.weight[0], a[0], b[0]),
            "mv": lambda: a[0] @ b[0, :, 0],
            "addmv": lambda: torch.addmv(self.weight[0, :, 0], a[0], b[0, :, 0]),
            "dot": lambda: a[0, 0] @ b[0, :, 0],
            "linear": lambda: f.linear(a, b[0].T),
        }
        return ways[self.kind]()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [(kind, 2 * 3 * 4 * 5) for kind in ("@", "matmul", "bmm", "baddbmm", "addbmm", "einsum", "linear")]
    + [(kind, 3 * 4 * 5) for kind in ("mm", "addmm")]
    + [(kind, 3 * 4) for kind in ("mv", "addmv")]
    + [("dot", 4)],
)
def test_matrix_products(kind: str, expected: int, inference: bool, device: str) -> None:
    with torch.inference_mode(inference), torch.device(device):
        model, a, b = Products(kind), torch.rand(2, 3, 4), torch.rand(2, 4, 5)
        counted = count_macs(model, (a, b))
    assert counted == MacCount(expected, {"": expected})


class Attention(nn.Module):
    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Plain attention."""
        return f.scaled_dot_product_attention(queries, keys, values)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("value_size", [4, 8])
def test_attention(value_size: int, device: str) -> None:
    queries, keys, values = torch.rand(2, 3, 5, 8), torch.rand(2, 3, 7, 8), torch.rand(2, 3, 7, value_size)
    inputs = tuple(tensor.to(device) for tensor in (queries, keys, values))
    assert count_macs(Attention(), inputs).total == 2 * 3 * 5 * 7 * (8 + value_size)


@pytest.mark.parametrize("training", [False, True])
def test_torchs_own_transformer(training: bool) -> None:
    """In evaluation it takes a fast path, which shows nothing of what it multiplies."""
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).train(training)
    counted = count_macs(model, torch.rand(2, 5, 16))
    attention = 2 * (4 * 5 * 16 * 16 + 2 * 5 * 5 * 16)
    assert counted.layers == {"self_attn": attention, "linear1": 2 * 5 * 16 * 32, "linear2": 2 * 5 * 16 * 32}
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_recurrent_layers(kind: Any, bidirectional: bool, device: str) -> None:
    model = kind(4, 6, num_layers=2, bidirectional=bidirectional, device=device)
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    assert count_macs(model, torch.rand(5, 3, 4)).total == 5 * 3 * weights


def test_layers_by_name_and_order() -> None:
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"unused": nn.Linear(3, 3), "last": nn.Linear(4, 2), "first": shared})

    def forward(x: Tensor) -> Tensor:
        y: Tensor = model["last"](f.relu(model["first"](model["first"](x))))
        return y

    model.forward = forward
    assert list(count_macs(model, torch.rand(1, 4)).layers.items()) == [("first", 32), ("last", 8)]


def test_normalisation_pooling_and_activations_cost_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.GELU(), nn.GroupNorm(1, 3), nn.Softmax(1))
    assert count_macs(model, torch.rand(2, 3, 8, 8)) == MacCount(0, {})


@pytest.mark.parametrize(
    ("name", "arguments", "settings"),
    [
        ("resnet20", {"width": 4}, {"num_kept": 20}),
        ("vit", {"width": 8, "num_heads": 2, "depth": 1, "mlp_width": 6}, {"keep_ratio": 0.1}),
        ("dcgan_generator", {"width": 4}, {"num_kept": 50}),
    ],
)
def test_a_truncated_network_counts_as_the_dense_one(name: str, arguments: Any, settings: Any) -> None:
    dense = create_model(name, **arguments)
    truncated = create_model(name, **arguments)
    tailcut.regularize(truncated, **settings)
    example = torch.rand(1, 100) if name == "dcgan_generator" else torch.rand(1, 3, 32, 32)
    assert count_macs(truncated, example) == count_macs(dense, example)
    assert count_parameters(truncated) == count_parameters(dense)
    assert len(truncated_tensors(truncated)) > 0


def test_truncated_attention_computes_its_weights_before_the_forward() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.rand(1, 3, 8)
    before = count_macs(model, (x, x, x)), count_parameters(model)
    tailcut.regularize(model, num_kept=10)
    assert (count_macs(model, (x, x, x)), count_parameters(model)) == before


def test_tied_parameters_count_once() -> None:
    model = nn.ModuleList([nn.Embedding(11, 6), nn.Linear(6, 11, bias=False), nn.Linear(6, 11)])
    model[1].weight = model[0].weight
    assert count_parameters(model) == 11 * 6 + 11 * 6 + 11
    tailcut.regularize(model, num_kept=5)
    assert count_parameters(model) == 11 * 6 + 11 * 6 + 11


def test_other_parametrisations_count_as_what_they_compute() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 3)), parametrizations.orthogonal(nn.Linear(4, 4)))
    assert count_parameters(model) == 5 * 3 + 3 + 4 * 4 + 4
    assert count_macs(model[0], torch.rand(2, 5)).total == 2 * 5 * 3
    assert count_macs(model[1], torch.rand(2, 4)).total == 2 * 4 * 4


def test_buffers_and_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.BatchNorm1d(3))
    assert count_parameters(model) == 9 + 6


def test_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), parametrizations.spectral_norm(nn.Conv2d(4, 2, 1))
    )
    model[1].eval()  # as if frozen
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    modes = [module.training for module in model.modules()]
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    hooks = [(dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module in model.modules()]
    random_state = torch.get_rng_state()

    count_macs(model, torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    count_parameters(model)

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert [(dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("example", [[], {}, (1, 3), None, (torch.rand(1, 3), "x"), {"input": 3}])
def test_other_examples_are_refused(example: Any) -> None:
    with pytest.raises(
        ArgumentError, match=r"example_input must be a tensor, a tuple of tensors, or a dict of tensors by .*; got"
    ):
        count_macs(nn.Linear(3, 2), example)


def test_an_input_that_does_not_fit() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train()
    with pytest.raises(ArgumentError, match=r"Sequential does not run on an input of shape \(1, 4\): .*shapes"):
        count_macs(model, torch.rand(1, 4))
    assert all(module.training and not module._forward_hooks for module in model.modules())
    with pytest.raises(ArgumentError, match=r"of shape \(1, 3\), \(1, 3\): "):
        count_macs(model, (torch.rand(1, 3), torch.rand(1, 3)))
    with pytest.raises(ArgumentError, match="unet: with 5 scales the input must be"):
        count_macs(create_model("unet", widths=(1, 1, 1, 1, 1)), torch.rand(1, 3, 8, 8))
