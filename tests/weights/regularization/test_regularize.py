import copy
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import ArgumentError, StructureError
from tailcut.execution import fuse
from tailcut.format import load, save
from tailcut.structure import Base, Record, base_of, create_model, record_of, set_record
from tailcut.weights import kept_counts, regularize, to_dense, truncated_tensors

Truncate = Callable[..., Tensor]


class Block(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width // stride, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.short = nn.Conv2d(width // stride, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(inner + self.short(x))


class ResNet(nn.Module):
    """As small as a residual network with batch norm can be."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, padding=2, bias=False)
        self.blocks = nn.Sequential(Block(16, 2), Block(32, 2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return features


class Tied(nn.Module):
    """A language model's classic: the output layer is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.inner = nn.Linear(6, 6)
        self.output = nn.Linear(6, 11, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.inner(self.embedding(x)))
        return logits


WEIGHTS = {
    "stem.weight",
    "blocks.0.conv1.weight",
    "blocks.0.conv2.weight",
    "blocks.0.short.weight",
    "blocks.1.conv1.weight",
    "blocks.1.conv2.weight",
    "blocks.1.short.weight",
    "head.weight",
}
IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def trained() -> ResNet:
    """Trained a little, so that batch norm's statistics and scales are not the initial ones."""
    torch.manual_seed(0)
    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(model(IMAGES), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("training", [False, True])
def test_at_ratio_one_a_trained_network_changes_by_rounding_only(trained: ResNet, training: bool) -> None:
    plain = copy.deepcopy(trained)
    report = regularize(trained, keep_ratio=1.0)
    assert {tensor.name for tensor in report.tensors} == WEIGHTS
    torch.testing.assert_close(trained.train(training)(IMAGES), plain.train(training)(IMAGES), rtol=1e-4, atol=1e-5)


def test_at_ratio_one_in_float64_nearly_nothing_changes(trained: ResNet) -> None:
    plain = copy.deepcopy(trained.double().eval())
    regularize(trained)
    torch.testing.assert_close(trained(IMAGES.double()), plain(IMAGES.double()), rtol=1e-11, atol=1e-11)


def test_channels_last_weights_keep_their_values(trained: ResNet) -> None:
    plain = copy.deepcopy(trained.eval())
    regularize(trained.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    torch.testing.assert_close(trained(IMAGES), plain(IMAGES), rtol=1e-4, atol=1e-5)


def test_every_weight_is_truncated_as_scipy_does_it(trained: ResNet, truncate: Truncate) -> None:
    expected = {name: truncate(trained.get_parameter(name), 30) for name in WEIGHTS}
    regularize(trained, num_kept=30)
    dense = to_dense(trained)
    for name, weight in expected.items():
        torch.testing.assert_close(dense.get_parameter(name), weight, rtol=0, atol=1e-5)


def test_report_tells_what_became_of_every_parameter(trained: ResNet) -> None:
    names = {name for name, _ in trained.named_parameters()}
    sizes = {name: value.numel() for name, value in trained.named_parameters()}
    report = regularize(trained, keep_ratio=0.1, exclude="head.*")
    assert {tensor.name for tensor in report.tensors} | {tensor.name for tensor in report.skipped} == names
    reasons = {tensor.name: tensor.reason for tensor in report.skipped}
    assert reasons["head.weight"] == reasons["head.bias"] == "excluded"
    assert reasons["blocks.0.bn1.weight"] == "normalisation"
    assert report.num_parameters == sum(sizes[tensor.name] for tensor in report.tensors)
    assert report.num_kept == sum(kept_counts(trained).values()) == sum(tensor.num_kept for tensor in report.tensors)
    assert "blocks.1.conv2.weight  32 x 16 x 3 x 3" in str(report)
    assert "head.weight          10 x 32  excluded" in str(report)
    parsed = json.loads(report.to_json())
    assert parsed["tensors"][0] == {
        "name": "stem.weight",
        "shape": [8, 3, 5, 5],
        "axes": [0, 1, 2, 3],
        "order_weights": [1, 1, 1, 1],
        "num_parameters": 600,
        "num_kept": 60,
        "energy_lost": report.tensors[0].energy_lost,
    }
    assert 0.8 < parsed["tensors"][0]["energy_lost"] < 1


def large(num_rows: int = 100, value: float = 1000.0) -> nn.Sequential:
    """The first coefficient of the second layer is `value` times the root of its count of numbers."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(100, num_rows))
    nn.init.constant_(model.get_parameter("1.weight"), value)
    return model


TOO_LARGE: list[tuple[torch.dtype, dict[str, Any]]] = [
    (torch.float16, {}),
    (torch.float16, {"precision": "bfloat16"}),
    (torch.float32, {"precision": "float16"}),
    (torch.float64, {"overrides": {"1.weight": {"precision": "float16"}}}),
]


@pytest.mark.parametrize(("dtype", "settings"), TOO_LARGE, ids=str)
def test_coefficients_too_large_for_their_type_change_nothing(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    model = large().to(dtype)
    before = state(model)
    with pytest.raises(
        ArgumentError, match=r"1\.weight: its coefficients reach 100,000, and torch\.float16 holds at most 65,504; reg"
    ):
        regularize(model, **settings)
    assert same_state(state(model), before)
    assert [type(module) for module in model] == [nn.Linear, nn.Linear]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_large_coefficients_that_fit_their_type(dtype: torch.dtype) -> None:
    value = 650.0 if dtype == torch.float16 else 1000.0  # 65,000 as a coefficient
    model = large(value=value).to(dtype)
    regularize(model)
    torch.testing.assert_close(model[1].weight, torch.full((100, 100), value, dtype=dtype), rtol=0.01, atol=0)


def test_coefficients_on_the_meta_device_have_no_size() -> None:
    model = large().half().to("meta")
    assert regularize(model, num_kept=7).num_kept == 14


def test_report_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "tailcut"):
        regularize(nn.Linear(20, 10), num_kept=7)
    assert "regularised 1 tensors: 7 of 200 numbers kept" in caplog.text


def test_ratio_counts_each_tensor_by_itself(trained: ResNet) -> None:
    regularize(trained, keep_ratio=0.03, min_kept=9)
    for tensor in truncated_tensors(trained):
        expected = max(9, int(0.03 * torch.Size(tensor.shape).numel() + 0.5))
        assert tensor.num_kept == len(tensor.vector) == expected


def test_count_is_capped_by_the_tensors_size(trained: ResNet) -> None:
    regularize(trained, num_kept=1000)
    assert kept_counts(trained)["stem.weight"] == 600
    assert kept_counts(trained)["blocks.1.conv1.weight"] == 1000


def test_counts_by_name_choose_the_tensors(trained: ResNet) -> None:
    report = regularize(trained, num_kept={"head.weight": 7, "stem.weight": 9})
    assert kept_counts(trained) == {"stem.weight": 9, "head.weight": 7}
    assert {left.reason for left in report.skipped} == {"not included"}


def test_counts_by_name_within_what_is_included(trained: ResNet) -> None:
    report = regularize(trained, num_kept={"head.weight": 7, "stem.weight": 9}, include="*.weight", exclude="stem*")
    assert kept_counts(trained) == {"head.weight": 7}
    reasons = {left.name: left.reason for left in report.skipped}
    assert reasons["blocks.0.conv1.weight"] == "no count given"
    assert reasons["stem.weight"] == "excluded"


def test_patterns_are_on_names(trained: ResNet) -> None:
    report = regularize(trained, num_kept=5, include=["blocks.*.conv?.weight", "*.bias"], exclude="blocks.1.*")
    assert set(kept_counts(trained)) == {"blocks.0.conv1.weight", "blocks.0.conv2.weight", "head.bias"}
    reasons = {left.name: left.reason for left in report.skipped}
    assert reasons["blocks.0.bn1.bias"] == "normalisation; include it by its full name"


def test_normalisation_only_by_its_full_name(trained: ResNet) -> None:
    regularize(trained, num_kept=5, include=["blocks.0.bn1.weight", "head.weight"])
    assert kept_counts(trained) == {"blocks.0.bn1.weight": 5, "head.weight": 5}
    trained(IMAGES).sum().backward()


def test_later_overrides_win(trained: ResNet) -> None:
    overrides: dict[str, dict[str, Any]] = {
        "*conv*": {"num_kept": 3},
        "*conv2*": {"keep_ratio": 0.5, "axes": (0, 1)},
        "head.weight": {"order_weights": (1, 4), "precision": "float16"},
        "stem.weight": {"keep_ratio": 1e-9, "min_kept": 17},
    }
    regularize(trained, num_kept=11, overrides=overrides)
    tensors = {tensor.name: tensor for tensor in truncated_tensors(trained)}
    assert tensors["blocks.0.conv1.weight"].num_kept == 3
    assert tensors["blocks.0.conv2.weight"].num_kept == 16 * 8 * 9 // 2
    assert tensors["blocks.0.conv2.weight"].axes == (0, 1)
    assert tensors["blocks.0.short.weight"].num_kept == 11
    assert tensors["head.weight"].num_kept == 11
    assert tensors["head.weight"].truncation.order_weights == (1, 4)
    assert tensors["head.weight"].truncation.precision == "float16"
    assert tensors["stem.weight"].num_kept == 17


@pytest.mark.parametrize("axes", [(0,), (1,), (2, 3), (-1,), (0, 1), (1, 3), ()])
def test_partial_axes(axes: tuple[int, ...], truncate: Truncate) -> None:
    layer = nn.Conv2d(4, 6, 3)
    whole = [axis for axis in range(4) if axis not in [axis % 4 for axis in axes]]
    group = torch.Size([layer.weight.shape[axis] for axis in whole]).numel()
    weight = layer.weight.detach().clone()
    regularize(layer, keep_ratio=0.4, axes=axes)
    kept = kept_counts(layer)["weight"]
    assert kept % group == 0
    assert abs(kept / weight.numel() - 0.4) <= 0.5 * group / weight.numel() or kept == group
    expected = truncate(weight, kept, sorted(axis % 4 for axis in axes))
    torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-5)


def test_partial_axes_with_any_count(truncate: Truncate) -> None:
    layer = nn.Conv2d(4, 6, 3)
    weight = layer.weight.detach().clone()
    regularize(layer, num_kept=37, axes=[2, 3])
    torch.testing.assert_close(layer.weight, truncate(weight, 37, (2, 3)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", [(1, 1, 2, 2), (4, 3, 2, 1), (2, 2, 2, 2)])
def test_order_weights(weights: tuple[int, ...], truncate: Truncate) -> None:
    layer = nn.Conv2d(4, 6, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()  # type: ignore[union-attr]
    regularize(layer, num_kept=5, include="*", order_weights=weights)
    torch.testing.assert_close(layer.weight, truncate(weight, 5, None, weights), rtol=0, atol=1e-5)
    # A tensor of fewer axes uses the first of the weights.
    torch.testing.assert_close(layer.bias, truncate(bias, 5, None, weights[:1]), rtol=0, atol=1e-5)
    assert truncated_tensors(layer)[1].truncation.order_weights == weights[:1]


def test_tied_weights_share_one_vector(truncate: Truncate) -> None:
    torch.manual_seed(0)
    model, plain = Tied(), None
    plain = copy.deepcopy(model)
    with torch.no_grad():
        plain.embedding.weight.copy_(truncate(plain.embedding.weight, 20))
    report = regularize(model, num_kept=20, exclude="inner.*")
    assert [tensor.name for tensor in report.tensors] == ["embedding.weight"]
    (tensor,) = truncated_tensors(model)
    assert tensor.aliases == ("output.weight",)
    assert sum(parameter is tensor.vector for parameter in model.parameters()) == 1
    x = torch.tensor([[1, 2, 3, 1]])
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    gradient = plain.embedding.weight.grad
    assert gradient is not None
    torch.testing.assert_close(tensor.vector.grad, tensor.truncation.right_inverse(gradient), rtol=1e-4, atol=1e-4)


def test_tied_state_dict_and_way_back() -> None:
    model = Tied()
    keys = list(model.state_dict())
    regularize(model, num_kept=20)
    saved = model.state_dict()
    assert torch.equal(
        saved["embedding.parametrizations.weight.original"], saved["output.parametrizations.weight.original"]
    )
    other = Tied()
    regularize(other, num_kept=33)
    other.load_state_dict(saved)
    assert kept_counts(other) == kept_counts(model) == {"embedding.weight": 20, "inner.weight": 20}
    x = torch.tensor([[1, 2, 3, 1]])
    assert torch.equal(other(x), model(x))
    dense = to_dense(other)
    assert list(dense.state_dict()) == keys
    assert dense.output.weight is dense.embedding.weight
    assert torch.equal(dense(x), other(x))


def test_a_module_used_twice_is_one_layer() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(5, 5)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    plain = copy.deepcopy(model)
    regularize(model)
    assert kept_counts(model) == {"0.weight": 25}
    x = torch.randn(3, 5)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)
    dense = to_dense(model)
    assert dense[0] is dense[2]
    assert list(dense.state_dict()) == list(plain.state_dict())
    assert torch.equal(dense(x), model(x))


def test_frozen_parameters_stay_frozen(trained: ResNet) -> None:
    trained.stem.requires_grad_(False)
    regularize(trained, num_kept=9, include=["stem.weight", "*conv?.weight", "head.weight"])
    assert {tensor.name for tensor in truncated_tensors(trained) if not tensor.vector.requires_grad} == {"stem.weight"}
    trained(IMAGES).sum().backward()
    assert truncated_tensors(trained)[0].vector.grad is None
    assert not to_dense(trained).get_parameter("stem.weight").requires_grad
    assert to_dense(trained).get_parameter("head.weight").requires_grad


def test_parameters_stay_the_same_objects(trained: ResNet) -> None:
    before = dict(trained.named_parameters())
    optimizer = torch.optim.Adam(trained.parameters(), 1e-3)
    trained(IMAGES).sum().backward()
    regularize(trained, num_kept=9)
    for tensor in truncated_tensors(trained):
        assert tensor.vector is before[tensor.name]
        assert tensor.vector.grad is None
    vector = truncated_tensors(trained)[0].vector.detach().clone()
    optimizer.zero_grad()
    trained(IMAGES).sum().backward()
    optimizer.step()
    assert not torch.equal(truncated_tensors(trained)[0].vector, vector)


def test_training_of_a_truncated_network_reaches_any_truncated_weight(truncate: Truncate) -> None:
    """Gradient descent on the vector is gradient descent on the weight within the truncated ones."""
    torch.manual_seed(0)
    layer, target = nn.Linear(8, 6, bias=False), torch.randn(6, 8)
    regularize(layer, num_kept=20)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        (layer.weight - target).square().sum().mul(0.5).backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight, truncate(target, 20), rtol=0, atol=1e-5)


@pytest.mark.parametrize("again", [{}, {"keep_ratio": 0.1}, {"include": "head.bias"}])
def test_twice_is_refused(trained: ResNet, again: dict[str, Any]) -> None:
    regularize(trained, num_kept=9)
    before = state(trained)
    with pytest.raises(StructureError, match=r"regularised already; cut it further with TailTruncation, or start from"):
        regularize(trained, **again)
    assert same_state(state(trained), before)
    with pytest.raises(StructureError, match="regularised already"):
        regularize(nn.Sequential(trained))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"keep_ratio": 0}, "stem.weight: keep_ratio must be above 0 and at most 1, got 0"),
    ({"keep_ratio": 1.01}, "keep_ratio must be above 0 and at most 1, got 1.01"),
    ({"keep_ratio": -0.5}, "keep_ratio must be above 0"),
    ({"keep_ratio": float("nan")}, "keep_ratio must be above 0 and at most 1, got nan"),
    ({"keep_ratio": "0.5"}, "keep_ratio must be above 0 and at most 1, got '0.5'"),
    ({"keep_ratio": True}, "keep_ratio must be above 0 and at most 1, got True"),
    ({"num_kept": 0}, "num_kept must be a positive integer, got 0"),
    ({"num_kept": -3}, "num_kept must be a positive integer"),
    ({"num_kept": 3.0}, "num_kept must be a positive integer, got 3.0"),
    ({"num_kept": True}, "num_kept must be a positive integer, got True"),
    ({"num_kept": "9"}, "num_kept must be a positive integer, got '9'"),
    ({"num_kept": 3, "keep_ratio": 0.5}, "give either keep_ratio or num_kept"),
    ({"num_kept": {"stem.weight": 3}, "keep_ratio": 0.5}, "give either keep_ratio or num_kept"),
    ({"num_kept": {"stem": 3}}, "num_kept: 'stem' matches no parameter; for example there are stem.weight"),
    ({"num_kept": {"stem.weight": 0}}, "stem.weight: num_kept must be a positive integer, got 0"),
    ({"num_kept": {"stem.weight": None}}, "stem.weight: give either keep_ratio or num_kept"),
    ({"num_kept": {}}, "num_kept is an empty dict: expected the count of at least one tensor, by its name"),
    ({"include": "steam.*"}, "include: 'steam.*' matches no parameter; for example there are stem.weight"),
    ({"include": ["stem.*", "nothing"]}, "include: 'nothing' matches no parameter"),
    ({"exclude": "nothing"}, "exclude: 'nothing' matches no parameter"),
    ({"include": []}, "nothing to regularise"),
    ({"include": 3}, "include must be a pattern of names or a list of patterns, got 3"),
    ({"exclude": [3]}, "exclude must be a pattern of names or a list of patterns"),
    ({"exclude": "*"}, "nothing to regularise in 17 parameters (stem.weight: excluded"),
    ({"overrides": {"nothing": {"num_kept": 3}}}, "overrides: 'nothing' matches no parameter"),
    ({"overrides": {"head.bias": {"num_kept": 3}}}, "overrides: 'head.bias' matches no parameter"),
    ({"overrides": {"head.*": {"ratio": 3}}}, "overrides['head.*']: unknown key 'ratio'; known: keep_ratio"),
    ({"overrides": {"head.*": {"num_kept": 3, "keep_ratio": 1}}}, "overrides['head.*']: give either"),
    ({"overrides": {"head.*": {"num_kept": 0}}}, "head.weight: num_kept must be a positive integer, got 0"),
    ({"overrides": {"head.*": {"axes": (0, 4)}}}, "head.weight of shape (10, 32): expected different axes"),
    ({"overrides": {"head.*": {"order_weights": (0, 1)}}}, "head.weight of shape (10, 32): expected order weights"),
    ({"overrides": {"head.*": {"precision": "int8"}}}, "head.weight: precision must be one of float32"),
    ({"overrides": {"head.*": {"min_kept": 0, "keep_ratio": 0.1}}}, "head.weight: min_kept must be a positive"),
    ({"overrides": {"head.*": 3}}, "overrides must be a dict of dicts by pattern, got 'head.*': 3"),
    ({"overrides": [3]}, "overrides must be a dict of dicts by pattern, got [3]"),
    ({"axes": "last"}, "axes must be \"all\" or a list of integers, got 'last'"),
    ({"axes": 1}, "expected a list of integers as axes, got 1"),
    ({"axes": (0.0,)}, "expected a list of integers as axes"),
    ({"axes": (0, 0)}, "stem.weight of shape (8, 3, 5, 5): expected different axes"),
    ({"axes": (2, 3)}, "head.weight of shape (10, 32): expected different axes of a tensor with 2 axes, got (2, 3)"),
    ({"order_weights": (1,)}, "expected order weights of 4 integers from 1 to 64"),
    ({"order_weights": 2}, "expected order weights of 4 integers from 1 to 64"),
    ({"order_weights": (1, 1, 1.5, 1)}, "expected order weights of 4 integers"),
    ({"order_weights": (1, 1, 65, 1)}, "expected order weights of 4 integers"),
    ({"precision": "float8"}, "stem.weight: precision must be one of float32, float16, bfloat16, got 'float8'"),
    ({"min_kept": 0}, "min_kept must be a positive integer, got 0"),
    ({"min_kept": 1.5}, "min_kept must be a positive integer, got 1.5"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: str(value)[:50])
def test_wrong_settings_change_nothing(arguments: dict[str, Any], message: str, trained: ResNet) -> None:
    before, attributes = state(trained), set(trained.__dict__)
    with pytest.raises(ArgumentError) as caught:
        regularize(trained, **arguments)
    assert message in str(caught.value)
    assert same_state(state(trained), before)
    assert set(trained.__dict__) == attributes
    assert not any("parametrizations" in name for name, _ in trained.named_modules())
    assert record_of(trained) == Record(None, [])


@pytest.mark.parametrize("model", [nn.ReLU(), nn.BatchNorm1d(3), nn.Sequential()], ids=["none", "norm", "empty"])
def test_a_network_without_weights(model: nn.Module) -> None:
    with pytest.raises(ArgumentError, match="nothing to regularise in"):
        regularize(model)


def test_weight_norm_and_spectral_norm_are_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
        nn.Linear(4, 4),
    ).eval()
    x = torch.randn(2, 4)
    expected = model(x)
    report = regularize(model)
    assert [tensor.name for tensor in report.tensors] == ["3.weight"]
    assert "parametrised by something else already" in {left.reason for left in report.skipped}
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(to_dense(model)(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.nn.utils.parametrize.is_parametrized(to_dense(model)[0])


def test_bias_of_a_layer_with_weight_norm(truncate: Truncate) -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    regularize(layer, num_kept=3, include="bias")
    torch.testing.assert_close(layer.bias, truncate(bias, 3))
    torch.testing.assert_close(layer.weight, weight)
    dense = to_dense(layer)
    torch.testing.assert_close(dense.bias, truncate(bias, 3))
    torch.testing.assert_close(dense.weight, weight)
    assert {"bias", "parametrizations.weight.original0", "parametrizations.weight.original1"} == set(dense.state_dict())


def test_a_parametrisation_on_top_is_refused() -> None:
    layer = nn.Linear(4, 4)
    regularize(layer)
    nn.utils.parametrizations.spectral_norm(layer)
    for function in (kept_counts, to_dense, regularize):
        with pytest.raises(StructureError, match=r"weight has a second parametrisation \(_SpectralNorm\) on top"):
            function(layer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("when", ["before", "after"])
def test_other_types(dtype: torch.dtype, when: str, truncate: Truncate) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 20)
    expected = truncate(layer.weight.to(dtype if when == "before" else torch.float32), 40)
    if when == "before":
        layer.to(dtype)
    regularize(layer, num_kept=40)
    layer.to(dtype)
    assert layer.weight.dtype == truncated_tensors(layer)[0].vector.dtype == dtype
    tolerance = {torch.float64: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(layer.weight, expected.to(dtype), rtol=0, atol=tolerance)
    layer(torch.ones(2, 30, dtype=dtype)).sum().backward()
    assert to_dense(layer).get_parameter("weight").dtype == dtype


def test_round_trips_between_types_and_devices_lose_no_basis() -> None:
    layer = nn.Linear(30, 20)
    regularize(layer, num_kept=40)
    x = torch.ones(2, 30)
    expected = layer(x)
    layer.double().float().half().bfloat16().float()
    vector = truncated_tensors(layer)[0].vector
    assert vector.dtype == torch.float32
    regenerated = nn.Linear(30, 20)
    regularize(regenerated, num_kept=40)
    regenerated.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), regenerated(x))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0.05)


# torch's own, about all complex modules
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
def test_complex_types_are_refused_before_the_layer_changes() -> None:
    layer = nn.Linear(30, 20)
    regularize(layer, num_kept=40)
    before = state(layer)
    with pytest.raises(ArgumentError, match=r"expected a real type .* the plain network, tailcut\.to_dense\(model\)"):
        layer.to(torch.complex64)
    assert same_state(state(layer), before)
    assert {value.dtype for value in layer.state_dict().values()} == {torch.float32}
    dense = to_dense(layer).to(torch.complex64)
    torch.testing.assert_close(dense.get_parameter("weight").real, layer.weight)


def test_under_autocast_and_inference_mode(truncate: Truncate) -> None:
    layer = nn.Linear(30, 20)
    expected = truncate(layer.weight, 40)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        regularize(layer, num_kept=40)
    torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-6)
    layer(torch.ones(2, 30)).sum().backward()


def test_default_device_and_type_do_not_matter(truncate: Truncate) -> None:
    layer = nn.Conv2d(4, 5, 3)
    expected = truncate(layer.weight, 40)
    with torch.device("meta"):
        regularize(layer, num_kept=40)
        layer.double().float()
    torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-6)


def test_assigning_a_weight_projects_it(truncate: Truncate) -> None:
    layer = nn.Linear(30, 20)
    regularize(layer, num_kept=40)
    weight = torch.randn(20, 30)
    layer.weight = weight
    torch.testing.assert_close(layer.weight, truncate(weight, 40), rtol=0, atol=1e-5)


def test_to_dense_copies(trained: ResNet) -> None:
    set_record(trained, Record(Base("resnet", {})))
    keys = list(trained.state_dict())
    attributes = set(trained.__dict__)
    order = [name for name, _ in trained.named_parameters()]
    trained.stem.requires_grad_(False)
    regularize(trained.eval(), num_kept=25, include=["*", "stem.weight"])
    before = state(trained)
    dense = to_dense(trained)
    assert type(dense) is ResNet
    assert list(dense.state_dict()) == keys
    assert [name for name, _ in dense.named_parameters()] == order
    assert not dense.training
    assert {type(module) for module in dense.modules()} == {type(module) for module in ResNet().modules()}
    assert torch.equal(dense(IMAGES), trained(IMAGES))
    assert base_of(dense) == Base("resnet", {})
    assert set(dense.__dict__) == attributes
    with torch.no_grad():
        for value in dense.state_dict().values():
            value.zero_()
    assert same_state(state(trained), before)
    assert record_of(trained).edits


def test_to_dense_says_what_cannot_be_copied() -> None:
    model = nn.Linear(4, 4)
    vars(model)["lock"] = threading.Lock()
    regularize(model)
    with pytest.raises(ArgumentError, match="the network cannot be copied: cannot pickle"):
        to_dense(model)


def test_to_dense_leaves_nothing_of_tailcut(trained: ResNet) -> None:
    plain = copy.deepcopy(trained)
    regularize(trained, num_kept=25)
    dense = to_dense(to_dense(trained))
    for ours, theirs in zip(dense.modules(), plain.modules(), strict=True):
        assert {key: type(value) for key, value in ours.__dict__.items()} == {
            key: type(value) for key, value in theirs.__dict__.items()
        }
        assert type(ours) is type(theirs)
    regularize(dense, num_kept=5, warn=False)
    assert len(record_of(dense).edits) == 1


def test_to_dense_of_a_copy_leaves_the_original(trained: ResNet) -> None:
    regularize(trained, num_kept=25)
    copied = copy.deepcopy(trained)
    expected = trained.eval()(IMAGES)
    dense = to_dense(copied)
    assert torch.equal(dense.eval()(IMAGES), expected)
    assert torch.equal(trained(IMAGES), expected)
    assert torch.equal(copied.eval()(IMAGES), expected)
    assert kept_counts(copied) == kept_counts(trained)


def test_to_dense_of_part_of_a_network(trained: ResNet) -> None:
    regularize(trained, num_kept=25)
    head = to_dense(trained.head)
    assert type(head) is nn.Linear
    assert torch.equal(head.weight, trained.head.weight)


def test_to_dense_of_a_plain_network_is_a_copy(trained: ResNet) -> None:
    dense = to_dense(trained)
    assert dense is not trained
    assert same_state(state(dense), state(trained))


def test_to_dense_in_inference_mode_can_be_trained(trained: ResNet) -> None:
    regularize(trained, num_kept=25)
    with torch.inference_mode():
        dense = to_dense(trained)
    dense(IMAGES).sum().backward()


def test_to_dense_of_a_fused_network(trained: ResNet) -> None:
    regularize(trained, num_kept=25)
    dense = to_dense(fuse(trained))
    assert type(dense) is ResNet
    assert list(dense.state_dict()) == list(to_dense(trained).state_dict())


def test_what_ddp_shall_not_send_is_reported(trained: ResNet) -> None:
    trained.__dict__["_ddp_params_and_buffers_to_ignore"] = ["blocks.0.bn1.running_mean"]
    regularize(trained, num_kept=25)
    ignored = set(trained.__dict__["_ddp_params_and_buffers_to_ignore"])
    ours = {name for name, _ in trained.named_buffers() if "parametrizations" in name}
    assert ours
    assert {name for name in ignored if "parametrizations" not in name} == {"blocks.0.bn1.running_mean"}
    assert ours <= ignored
    assert to_dense(trained).__dict__["_ddp_params_and_buffers_to_ignore"] == ["blocks.0.bn1.running_mean"]


def test_what_ddp_shall_not_send_is_told_of_loaded_networks(tmp_path: Path) -> None:
    model = create_model("lenet5")
    regularize(model, num_kept=25)
    save(model, tmp_path / "net.tailcut")
    loaded = load(tmp_path / "net.tailcut")
    name = "_ddp_params_and_buffers_to_ignore"
    assert loaded.__dict__[name] == model.__dict__[name]


def with_weight_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 4))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_weight_norm_by_hooks_is_copied_and_saved(tmp_path: Path) -> None:
    model, x = with_weight_norm(), torch.randn(3, 8)
    regularize(model, keep_ratio=0.5)
    expected = model(x)
    dense = to_dense(model)
    torch.testing.assert_close(dense(x), expected)
    assert not any("parametrizations" in name for name in dense.state_dict())
    dense(x).sum().backward()
    assert dense.get_parameter("0.weight_v").grad is not None
    assert not model[0].weight.is_leaf
    save(model, tmp_path / "wn.tailcut")
    torch.testing.assert_close(load(tmp_path / "wn.tailcut", into=with_weight_norm())(x), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([nn.Linear(2, 2)], r"expected a network \(a torch.nn.Module\), got list"),
        (nn.Linear(2, 2).state_dict(), "got OrderedDict"),
        (nn.Linear, "got its class; make one: Linear"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_network_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        regularize(given)


@pytest.mark.parametrize("function", [to_dense, fuse])
def test_other_functions_refuse_what_is_no_network(function: Any) -> None:
    with pytest.raises(ArgumentError, match=r"expected a network \(a torch.nn.Module\), got list"):
        function([nn.Linear(2, 2)])
    with pytest.raises(ArgumentError, match=r"got its class; make one: ReLU"):
        function(nn.ReLU)


def test_a_fused_view_is_not_regularised_in_place_of_its_network() -> None:
    view = fuse(nn.Sequential(nn.Linear(8, 8)))
    with pytest.raises(ArgumentError, match="the model is a FusedNetwork, which only runs another network"):
        regularize(view, num_kept=3)
    assert not truncated_tensors(view)
    assert not record_of(view).edits
    regularize(view.source, num_kept=3)
    assert kept_counts(fuse(view.source)) == {"0.weight": 3}


@pytest.mark.parametrize(
    ("num_kept", "message"),
    [({0: 3}, r"expected names of tensors as keys .*, got 0"), ({}, "num_kept is an empty dict")],
)
def test_counts_by_name_must_have_names(num_kept: Any, message: str) -> None:
    model = nn.Sequential(nn.Linear(8, 6))
    with pytest.raises(ArgumentError, match=message):
        regularize(model, num_kept=num_kept)
    assert not truncated_tensors(model)


@pytest.mark.parametrize(
    "arguments",
    [
        {"keep_ratio": np.float32(0.5)},
        {"num_kept": np.int64(24)},
        {"num_kept": {"0.weight": np.int32(24)}},
        {"overrides": {"0.*": {"keep_ratio": np.float16(0.5)}}},
    ],
    ids=str,
)
def test_numbers_of_numpy_leave_a_plain_record(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 6))
    report = regularize(model, **arguments)
    json.dumps(report.to_dict())
    (stored,) = record_of(model).edits[0].coefficient_layouts()
    assert (stored.num_kept, type(stored.num_kept)) == (24, int)
    save(model, tmp_path / "a.tailcut")
    assert kept_counts(load(tmp_path / "a.tailcut", into=nn.Sequential(nn.Linear(8, 6)))) == {"0.weight": 24}


def test_names_with_brackets_are_names() -> None:
    def model() -> nn.ModuleDict:
        return nn.ModuleDict(
            {"[z]": nn.Linear(4, 4), "z": nn.Linear(4, 4), "a*": nn.Linear(4, 4), "ab": nn.Linear(4, 4)}
        )

    name = "[z].weight"
    regularize(truncated := model(), num_kept={name: 5, "a*.weight": 3})
    assert kept_counts(truncated) == {name: 5, "a*.weight": 3}
    regularize(truncated := model(), include=[name], overrides={name: {"num_kept": 2}})
    assert kept_counts(truncated)[name] == 2
