from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.execution.networks import assert_same_gradients, between
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.execution import fuse
from tailcut.execution.ir.expression import Affine
from tailcut.execution.lazy.context import Context, UnsupportedError
from tailcut.execution.lazy.lazy_map import LazyMap, as_tensor, project_full


def low_rank(*, channel_axis: int = 1) -> LazyMap:
    source, matrix, shift = torch.randn(2, 3, 4, 5), torch.randn(6, 2), torch.randn(6)
    return LazyMap([Affine(6, source, matrix, shift)], channel_axis, ["conv"])


def full_of(tensor: Tensor) -> Tensor:
    result = as_tensor(tensor, "a test reads it")
    assert type(result) is Tensor
    return result


@pytest.mark.usefixtures("context")
def test_it_passes_for_a_tensor() -> None:
    x = low_rank()
    assert isinstance(x, Tensor)
    assert x.shape == (3, 6, 4, 5)
    assert x.ndim == x.dim() == 4
    assert (x.size(1), x.numel(), x.dtype, x.device.type) == (6, 360, torch.float32, "cpu")
    assert not x.is_cuda
    assert x._full is None
    assert low_rank(channel_axis=3).shape == (3, 4, 5, 6)


def test_unknown_functions_get_the_whole_map(context: Context) -> None:
    x = low_rank()
    context.record("conv", "fused", "no full map is written")
    total = torch.sort(x, dim=2).values
    assert type(total) is Tensor
    assert torch.equal(total, full_of(x).sort(dim=2).values)
    assert context.records["conv"].strategy == "factored"
    assert context.records["conv"].reasons[-1] == "sort needs the whole map"


@pytest.mark.usefixtures("context")
def test_functions_in_place_change_the_map_itself() -> None:
    x = low_rank()
    expected = full_of(x).clone()
    y = x
    y[:, 0] = 7.0
    y.floor_()
    expected[:, 0] = 7.0
    assert torch.equal(full_of(x), expected.floor_())
    z = torch.relu(x)
    assert torch.equal(full_of(z), expected.relu())


@pytest.mark.usefixtures("context")
def test_relu_in_place_is_seen_by_all_readers() -> None:
    x = low_rank()
    expected = full_of(low_rank_copy(x)).relu()
    nn.ReLU(inplace=True)(x)
    torch.testing.assert_close(full_of(x), expected)


def low_rank_copy(x: LazyMap) -> LazyMap:
    return x.like(x.parts)


@pytest.mark.usefixtures("context")
def test_operators_of_python_work() -> None:
    x = low_rank()
    torch.testing.assert_close(full_of(1 - low_rank_copy(x) / 2), 1 - full_of(x) / 2)
    assert len(x) == 3
    assert "from conv" in repr(x)


def test_projection_of_ordinary_tensors() -> None:
    matrix = torch.randn(2, 6)
    images, rows = torch.randn(3, 6, 4, 5), torch.randn(3, 4, 6)
    torch.testing.assert_close(project_full(images, matrix, 1), torch.einsum("oc,bchw->obhw", matrix, images))
    torch.testing.assert_close(project_full(rows, matrix, 2), torch.einsum("oc,btc->obt", matrix, rows))


@pytest.mark.usefixtures("context")
def test_projection_is_the_same_before_and_after_writing() -> None:
    x, matrix = low_rank(), torch.randn(2, 6)
    before = x.project(matrix)
    x.materialize("a test reads it")
    torch.testing.assert_close(x.project(matrix), before)


def test_settling_keeps_the_values(context: Context) -> None:
    x = low_rank()
    expected = full_of(low_rank_copy(x))
    x.write_parts("too long a chain")
    torch.testing.assert_close(full_of(x), expected)


VECTOR, OTHER = torch.rand(6) + 0.5, torch.randn(6)
SPELLINGS: list[Callable[[Tensor], Tensor]] = [
    lambda x: torch.add(x, other=x),
    lambda x: torch.sub(x, other=1.0),
    lambda x: x.mul(other=2.0),
    lambda x: torch.mul(input=x, other=VECTOR[:, None, None]),
    lambda x: torch.dropout(x, p=0.5, train=False),
    lambda x: torch.swapaxes(x.flatten(2), axis0=1, axis1=2),
    lambda x: torch.batch_norm(x, VECTOR, OTHER, OTHER, VECTOR, False, 0.1, 1e-5, False),
    lambda x: torch.layer_norm(x.flatten(2).transpose(1, 2), (6,), VECTOR, OTHER, 1e-5, False),
    lambda x: torch.group_norm(x, 2, VECTOR, OTHER, 1e-5, False),
    lambda x: torch.group_norm(x, 1, VECTOR, OTHER),
    lambda x: torch.instance_norm(x, VECTOR, OTHER, None, None, True, 0.1, 1e-5, False),
    lambda x: torch.instance_norm(x[:1], VECTOR, OTHER, OTHER, VECTOR, False, 0.1, 1e-5, False),
]


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("number", range(len(SPELLINGS)))
def test_all_spellings_of_torch_are_taken(number: int) -> None:
    x = low_rank()
    expected = SPELLINGS[number](full_of(low_rank_copy(x)))
    torch.testing.assert_close(full_of(SPELLINGS[number](x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("context")
def test_wrong_arguments_are_refused_as_by_torch() -> None:
    with pytest.raises(TypeError):
        functional.max_pool2d(low_rank(), kernel_size="full")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        torch.relu(low_rank(), slope=2)  # type: ignore[call-arg]


@pytest.mark.usefixtures("context")
def test_named_arguments_are_written_to_as_others_are() -> None:
    x = low_rank()
    expected = full_of(low_rank_copy(x))
    view = x[:, :1]
    functional.relu(input=x, inplace=True)
    torch.testing.assert_close(view, expected[:, :1].relu())
    torch.testing.assert_close(full_of(x + 0), expected.relu())
    torch.floor(expected, out=x)
    torch.testing.assert_close(full_of(x + 0), expected.floor())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripts_spoil_a_forward_that_needs_their_gradients(context: Context) -> None:
    doubled: Any = torch.jit.script(twice)
    doubled(low_rank())
    assert not context.spoiled
    source = torch.randn(2, 3, 4, 5, requires_grad=True)
    x = LazyMap([Affine(6, source, torch.randn(6, 2), None)], 1, ["conv"])
    torch.testing.assert_close(full_of(doubled(x)), 2 * full_of(x))
    with pytest.raises(UnsupportedError, match="records no gradients"):
        context.check()


def twice(x: Tensor) -> Tensor:
    return x + x


def shrinks_gradients(y: Tensor, _: nn.Module) -> Tensor:
    if y.requires_grad and not y.is_leaf:
        y.register_hook(lambda gradient: 0.1 * gradient)
    return torch.relu(y)


def shrinks_gradients_by_its_node(y: Tensor, _: nn.Module) -> Tensor:
    if y.grad_fn is not None:
        y.grad_fn.register_prehook(lambda gradients: (0.1 * gradients[0],))
    return torch.relu(y)


def shrinks_gradients_after_a_use(y: Tensor, _: nn.Module) -> Tensor:
    z = torch.relu(y)
    y.register_hook(lambda gradient: 0.1 * gradient)
    return z


def used_within_no_grad(y: Tensor, _: nn.Module) -> Tensor:
    with torch.no_grad():
        z = torch.relu(y)
    return z + y


def changed_within_no_grad(y: Tensor, _: nn.Module) -> Tensor:
    z = 1.5 * y
    with torch.no_grad():
        z.mul_(0.5)
        z.floor_()
    return 2 * z


WATCHERS = [
    shrinks_gradients,
    shrinks_gradients_by_its_node,
    shrinks_gradients_after_a_use,
    used_within_no_grad,
    changed_within_no_grad,
]


@pytest.mark.parametrize("watcher", WATCHERS)
def test_gradients_pass_as_in_the_network_itself(watcher: Callable[..., Tensor]) -> None:
    model, x = between(watcher)
    assert_same_gradients(fuse(model), model, x)


def test_a_layer_without_gradients_gets_none() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.x = between()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = self.network.a(x)
            result: Tensor = self.network.b(y)
            return result

    model = Frozen()
    for strategy in ("low_rank", "auto"):
        fused = fuse(model)
        fused.strategy = strategy
        fused(model.x).sum().backward()
        assert all(parameter.grad is None for parameter in model.network.a.parameters())
        assert all(parameter.grad is not None for parameter in model.network.b.parameters())


def test_gradients_of_maps_are_retained() -> None:
    kept: list[Tensor] = []

    def retains(y: Tensor, _: nn.Module) -> Tensor:
        y.retain_grad()
        kept.append(y)
        return torch.relu(y)

    model, x = between(retains)
    fused = fuse(model)
    fused.strategy = "low_rank"
    for called in (model, fused):
        called(x).square().sum().backward()
    assert kept[0].grad is not None
    assert kept[1].grad is not None
    torch.testing.assert_close(kept[1].grad, kept[0].grad)


def test_facts_about_gradients() -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def looks(y: Tensor, _: nn.Module) -> Tensor:
        seen.append((y.requires_grad, y.is_leaf, y.grad_fn is None))
        return torch.relu(y)

    model, x = between(looks)
    fused = fuse(model)
    fused.strategy = "low_rank"
    fused(x)
    with torch.no_grad():
        fused(x)
    model.requires_grad_(requires_grad=False)
    fused(x)
    assert seen == [(True, False, False), (False, True, True), (False, True, True)]


def test_gradients_with_respect_to_a_map() -> None:
    kept: list[Tensor] = []

    def keeps(y: Tensor, _: nn.Module) -> Tensor:
        kept.append(y)
        return torch.relu(y)

    model, x = between(keeps)
    fused = fuse(model)
    fused.strategy = "low_rank"
    total = fused(x).sum()
    with pytest.raises(StructureError, match="after its use"):
        torch.autograd.grad(total, kept[0])
    with pytest.raises(StructureError, match="within the forward"):
        kept[0].register_hook(lambda gradient: gradient)


def test_maps_are_tensors_after_the_forward() -> None:
    kept: list[Tensor] = []
    model, x = between()
    model.a.register_forward_hook(lambda module, inputs, output: kept.append(output))
    fused = fuse(model)
    fused.strategy = "low_rank"
    results: list[Tensor] = []
    for called in (model, fused):
        kept.clear()
        called(x)
        called(x + 1)
        first, second = kept
        results.append((first - second).abs())
        results.append(functional.batch_norm(first + 2 * second, None, None, training=True).square())
        results.append(first.mul_(second))
        results.append(torch.relu(first))
    for found, expected in zip(results[4:], results[:4], strict=True):
        torch.testing.assert_close(as_tensor(found, "a test"), expected)
