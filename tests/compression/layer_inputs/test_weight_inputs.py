"""Inputs of weights, of attention's too, against the same attention written as four linear layers."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailcut.compression.layer_inputs.multiplications import is_packed_attention, multiplications
from tailcut.compression.layer_inputs.weight_inputs import listening_after_attention, listening_before
from tailcut.compression.sensitivity.moments import input_blocks
from tailcut.format.encoder.sensitivity import Block
from tailcut.model_inputs import ModelInputs


class Written(nn.Module):
    """Attention of two heads as four linear layers, with the numbers of torch's."""

    def __init__(self, own: nn.MultiheadAttention) -> None:
        super().__init__()
        size = own.embed_dim
        self.inputs, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.inputs.load_state_dict({"weight": own.in_proj_weight, "bias": own.in_proj_bias})
        self.out.load_state_dict(own.out_proj.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        parts = [part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.inputs(x).chunk(3, -1)]
        y: Tensor = self.out(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return y


class Attending(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.own = nn.MultiheadAttention(8, 2, batch_first=True, **settings)
        for parameter in self.own.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.own(x, x, x, need_weights=False)[0]
        return y


X = torch.randn(5, 7, 8, generator=torch.Generator().manual_seed(1))


def test_attention_has_the_blocks_of_its_linear_layers() -> None:
    model = Attending().eval().double()
    written, x = Written(model.own).eval().double(), X.double()
    torch.testing.assert_close(written(x), model(x))
    names = ("own.in_proj_weight", "own.out_proj.weight", "inputs.weight", "out.weight")
    found: dict[str, Block] = {}
    for network in (model, written):
        blocks = input_blocks(network, [ModelInputs((x,))], set(names), torch.Generator())
        found |= {block.names[0]: block for block in blocks}
    assert set(found) == set(names)
    for one, other in zip(names[:2], names[2:], strict=True):
        torch.testing.assert_close(found[one].curvature, found[other].curvature)
        torch.testing.assert_close(found[one].upper, found[other].upper, rtol=1e-3, atol=1e-4)
    assert "forward" not in vars(model.own)


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}])
@pytest.mark.parametrize("with_mask", [False, True])
def test_outputs_are_those_of_the_module(settings: dict[str, Any], with_mask: bool) -> None:
    model = Attending(**settings).own.eval()
    mask = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1) if with_mask else None
    wanted = model(X, X, X, attn_mask=mask, average_attn_weights=False)
    seen: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}
    with (
        torch.no_grad(),
        listening_before(model, ("in_proj_weight", "out_proj.weight"), seen.__setitem__),
        listening_after_attention(model, "", given.__setitem__),
    ):
        found = model(query=X, key=X, value=X, attn_mask=mask, average_attn_weights=False)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert sorted(seen) == ["in_proj_weight", "out_proj.weight"]
    assert seen["in_proj_weight"] is X
    torch.testing.assert_close(
        functional.linear(seen["out_proj.weight"], model.out_proj.weight, model.out_proj.bias), found[0]
    )
    assert sorted(given) == ([] if settings == {"bias": False} else ["", "out_proj"])
    again = model(X, X, X, attn_mask=mask, average_attn_weights=False)
    assert torch.equal(again[0], wanted[0])


class Crossing(nn.Module):
    """Attention whose keys and values are of fewer places than its queries."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Attending().own

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.own(x, x[:, :4].sin(), x[:, :4].cos())[0]
        return y


def test_queries_keys_and_values_of_their_own_have_blocks_of_their_own() -> None:
    model = Crossing().eval()
    name = "own.in_proj_weight"
    (block,) = [
        found for found in input_blocks(model, [ModelInputs((X,))], {name}, torch.Generator()) if found.names == (name,)
    ]
    assert block.upper.shape == (3, 8, 8)
    parts = X, X[:, :4].sin(), X[:, :4].cos()
    keys = torch.cat([parts[1].reshape(-1, 8)[torch.arange(35) % 20], parts[2].reshape(-1, 8)[torch.arange(35) % 20]])
    for found, part in zip(block.upper, (parts[0].reshape(-1, 8), *keys.chunk(2)), strict=True):
        (alone,) = input_blocks(nn.Sequential(nn.Linear(8, 4)), [ModelInputs((part,))], {"0.weight"}, torch.Generator())
        torch.testing.assert_close(found, alone.upper * float(alone.curvature.mean().sqrt()), rtol=1e-3, atol=1e-4)


def test_products_of_other_keys_are_shown() -> None:
    model, inputs = Crossing().own.eval(), (X, X[:, :4], X[:, :4].cos())
    given: dict[str, Tensor] = {}
    with torch.no_grad(), listening_after_attention(model, "", given.__setitem__):
        model(*inputs)
    weights, biases = model.in_proj_weight.chunk(3), model.in_proj_bias.chunk(3)
    for found, x, weight, bias in zip(given[""].chunk(3, -1), inputs, weights, biases, strict=True):
        wanted = functional.linear(x, weight, bias).reshape(-1, 8)
        torch.testing.assert_close(found[: len(wanted)], wanted)


def test_attention_once_with_other_keys_has_no_block_of_its_first_product() -> None:
    class Both(Crossing):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.own(x, x, x)[0]
            return super().forward(y)

    names = {"own.in_proj_weight", "own.out_proj.weight"}
    blocks = input_blocks(Both().eval(), [ModelInputs((X,))], names, torch.Generator())
    assert [block.names for block in blocks] == [("own.out_proj.weight",)]


def test_no_keys_at_all_show_nothing_of_the_first_product() -> None:
    model, seen = Crossing().own.eval(), list[str]()
    with torch.no_grad(), listening_before(model, multiplications(model), lambda name, _: seen.append(name)):
        model(X, X[:, :0], X[:, :0])
    assert seen == ["out_proj.weight"]


def test_what_a_listener_changes_is_used_at_once() -> None:
    model, x = Attending().eval().double(), X.double()
    wanted = copy.deepcopy(model)
    with torch.no_grad():
        wanted.own.get_parameter("in_proj_weight").mul_(2)
        wanted.own.get_parameter("out_proj.weight").mul_(3)
    weights = {name: multiplied.weight for name, multiplied in multiplications(model).items()}

    def change(name: str, _: Tensor) -> None:
        weights[name].detach().mul_(3 if "out" in name else 2)

    with torch.no_grad(), listening_before(model, weights, change):
        found = model(x)
    torch.testing.assert_close(found, wanted(x))


def test_a_forward_of_its_own_is_left_alone() -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    assert not is_packed_attention(Own(8, 2))
    assert not is_packed_attention(nn.MultiheadAttention(8, 2, kdim=4, vdim=4))
    assert sorted(multiplications(Own(8, 2))) == ["out_proj.weight"]
