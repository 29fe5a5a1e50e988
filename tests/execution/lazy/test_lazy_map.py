from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.execution.networks import STRATEGIES, between, full_of, fused_as, lazy_map
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.execution.ir.expression import Affine
from tailcut.execution.lazy.context import Context, UnsupportedError
from tailcut.execution.lazy.lazy_map import LazyMap, project_full


@pytest.mark.usefixtures("context")
def test_it_passes_for_a_tensor() -> None:
    x = lazy_map()
    assert isinstance(x, Tensor)
    assert x.shape == (3, 6, 4, 5)
    assert x.ndim == x.dim() == 4
    assert (x.size(1), x.numel(), x.dtype, x.device.type) == (6, 360, torch.float64, "cpu")
    assert not x.is_cuda
    assert x._full is None
    assert lazy_map(axis=3).shape == (3, 4, 5, 6)


def test_unknown_functions_get_the_whole_map(context: Context) -> None:
    x = lazy_map()
    context.record("conv", "fused", "no full map is written")
    total = torch.sort(x, dim=2).values
    assert type(total) is Tensor
    assert torch.equal(total, full_of(x).sort(dim=2).values)
    assert context.records["conv"].strategy == "factored"
    assert context.records["conv"].reasons[-1] == "sort needs the whole map"


@pytest.mark.usefixtures("context")
def test_functions_in_place_change_the_map_itself() -> None:
    x = lazy_map()
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
    x = lazy_map()
    expected = full_of(x).relu()
    nn.ReLU(inplace=True)(x)
    torch.testing.assert_close(full_of(x), expected)


@pytest.mark.usefixtures("context")
def test_operators_of_python_work() -> None:
    x = lazy_map()
    torch.testing.assert_close(full_of(1 - x.like(x.parts) / 2), 1 - full_of(x) / 2)
    assert len(x) == 3
    assert "from conv" in repr(x)


def test_projection_of_ordinary_tensors() -> None:
    matrix = torch.randn(2, 6)
    images, rows = torch.randn(3, 6, 4, 5), torch.randn(3, 4, 6)
    torch.testing.assert_close(project_full(images, matrix, 1), torch.einsum("oc,bchw->obhw", matrix, images))
    torch.testing.assert_close(project_full(rows, matrix, 2), torch.einsum("oc,btc->obt", matrix, rows))


@pytest.mark.usefixtures("context")
def test_projection_is_the_same_before_and_after_writing() -> None:
    x, matrix = lazy_map(), torch.randn(2, 6).double()
    before = x.project(matrix)
    x.materialize("a test reads it")
    torch.testing.assert_close(x.project(matrix), before)


def test_settling_keeps_the_values(context: Context) -> None:
    x = lazy_map()
    expected = full_of(x)
    x.write_parts("too long a chain")
    torch.testing.assert_close(full_of(x), expected)


VECTOR, OTHER = torch.rand(6).double() + 0.5, torch.randn(6).double()
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
    x = lazy_map()
    expected = SPELLINGS[number](full_of(x))
    torch.testing.assert_close(full_of(SPELLINGS[number](x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("context")
def test_wrong_arguments_are_refused_as_by_torch() -> None:
    with pytest.raises(TypeError):
        functional.max_pool2d(lazy_map(), kernel_size="full")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        torch.relu(lazy_map(), slope=2)  # type: ignore[call-arg]


@pytest.mark.usefixtures("context")
def test_named_arguments_are_written_to_as_others_are() -> None:
    x = lazy_map()
    expected = full_of(x)
    view = x[:, :1]
    functional.relu(input=x, inplace=True)
    torch.testing.assert_close(view, expected[:, :1].relu())
    torch.testing.assert_close(full_of(x + 0), expected.relu())
    torch.floor(expected, out=x)
    torch.testing.assert_close(full_of(x + 0), expected.floor())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripts_spoil_a_forward_that_needs_their_gradients(context: Context) -> None:
    doubled: Any = torch.jit.script(twice)
    doubled(lazy_map())
    assert not context.spoiled
    source = torch.randn(2, 3, 4, 5, requires_grad=True)
    x = LazyMap([Affine(6, source, torch.randn(6, 2), None)], 1, ["conv"])
    torch.testing.assert_close(full_of(doubled(x)), 2 * full_of(x))
    with pytest.raises(UnsupportedError, match="records no gradients"):
        context.check()


def twice(x: Tensor) -> Tensor:
    return x + x


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
    for strategy in STRATEGIES:
        fused = fused_as(model, strategy)
        fused(model.x).sum().backward()
        assert all(parameter.grad is None for parameter in model.network.a.parameters())
        assert all(parameter.grad is not None for parameter in model.network.b.parameters())


def test_facts_about_gradients() -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def looks(y: Tensor, _: nn.Module) -> Tensor:
        seen.append((y.requires_grad, y.is_leaf, y.grad_fn is None))
        return torch.relu(y)

    model, x = between(looks)
    fused = fused_as(model, "low_rank")
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
    fused = fused_as(model, "low_rank")
    total = fused(x).sum()
    with pytest.raises(StructureError, match="grad asks for the gradient of a map"):
        torch.autograd.grad(total, kept[0])
    with pytest.raises(StructureError, match="within the forward"):
        kept[0].register_hook(lambda gradient: gradient)
