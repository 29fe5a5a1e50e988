"""Attention in the words of many projects beside torch, and what of it has no form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export_c.lowering.heads.written import HEADS, SIZE, TOKENS, WIDTH, Written, all_written, four_layers
from tests.export_c.lowering.many import compare_all
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.heads import join

CLOSE = 2e-6


def test_attention_as_people_write_it(tmp_path: Path) -> None:
    assert join.PRODUCTS
    torch.manual_seed(0)
    assert compare_all(tmp_path, nn.Linear(5, WIDTH), (TOKENS, 5), all_written()) < CLOSE


def of_maps(own: Any, x: Tensor) -> Tensor:
    """Attention between the places of a map, channels first and last."""
    _, channels, height, width = x.shape
    queries, keys, values = (
        part.view(1, HEADS, -1, height * width).transpose(-1, -2) for part in own.qkv(x).chunk(3, 1)
    )
    y = (
        functional.scaled_dot_product_attention(queries, keys, values)
        .transpose(-1, -2)
        .reshape(1, channels, height, width)
    )
    last = own.norm(y.permute(0, 2, 3, 1))
    places = last.reshape(1, height * width, channels)
    z: Tensor = own.attention(places, places, places)[0].mT.reshape(1, channels, height, width) + x
    return z


def test_places_of_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = Written(
        of_maps,
        qkv=nn.Conv2d(WIDTH, 3 * WIDTH, 1),
        norm=nn.LayerNorm(WIDTH),
        attention=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
    )
    assert compare_all(tmp_path, nn.Conv2d(3, WIDTH, 3), (3, 5, 6), [made]) < CLOSE


def _heads(x: Tensor) -> Tensor:
    return x.view(1, -1, HEADS, SIZE).transpose(1, 2)


def product(change: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Attention whose scores are changed."""

    def function(own: Any, x: Tensor) -> Tensor:
        scores = _heads(own.one(x)) @ _heads(own.two(x)).mT
        y: Tensor = own.out((change(scores).softmax(-1) @ _heads(own.three(x))).transpose(1, 2).flatten(2))
        return y

    return function


def attention(**settings: Any) -> Callable[[Any, Tensor], Tensor]:
    def function(own: Any, x: Tensor) -> Tensor:
        queries, keys, values = (_heads(layer(x)) for layer in (own.one, own.two, own.three))
        made = {name: value(x) if callable(value) else value for name, value in settings.items()}
        mixed = functional.scaled_dot_product_attention(queries, keys, values, **made)
        y: Tensor = own.out(mixed.transpose(1, 2).flatten(2))
        return y

    return function


def interleaved(own: Any, x: Tensor) -> Tensor:
    parts = [layer(x).view(1, -1, SIZE, HEADS).permute(0, 3, 1, 2) for layer in (own.one, own.two, own.three)]
    y: Tensor = own.out(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
    return y


def multi_head(*tokens: Callable[[Tensor], Tensor], **settings: Any) -> Written:
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **settings)
    return Written(lambda own, x: own.layer(*(one(x) for one in tokens))[0], layer=layer)


def same(x: Tensor) -> Tensor:
    return x


def padded(x: Tensor) -> Tensor:
    return x[:, :, 0] > 0.5


REFUSED: list[tuple[nn.Module, str]] = [
    (
        multi_head(lambda x: x[:, :2], same, same),
        r"scaled_dot_.* \(layer\): queries of 2 tokens and keys of 6|matmul|bmm",
    ),
    (
        Written(lambda own, x: own.layer(x, x, x), layer=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)),
        r"^softmax \(layer\): gives out the weights of attention; C code keeps none of them",
    ),
    (
        Written(
            lambda own, x: own.layer(x, x, x, key_padding_mask=padded(x), need_weights=False)[0],
            layer=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
        ),
        r"^scaled_dot_product_attention \(layer\): a mask that depends on the input; C code knows constant ones",
    ),
    (multi_head(same, same, same, add_zero_attn=True), "queries of 6 tokens and keys of 7"),
    (Written(attention(attn_mask=lambda x: x[:, :, 0] > 0.5), **four_layers()), "a mask that depends on the input"),
    (Written(attention(dropout_p=0.2), **four_layers()), "dropout_p=0.2; C code drops nothing"),
    (
        Written(attention(attn_mask=torch.zeros(TOKENS, TOKENS).bool()), **four_layers()),
        "a mask that hides all tokens from one",
    ),
    (Written(interleaved, **four_layers()), "heads whose channels are not side by side"),
    (Written(product(torch.tanh), **four_layers()), r"^tanh \(function\)|^tanh .*: changes the scores of attention"),
    (
        Written(product(lambda x: x * torch.linspace(1, 2, HEADS)[:, None, None]), **four_layers()),
        "^mul .*: changes the scores of attention",
    ),
    (Written(product(lambda x: x.masked_fill(x > 0, -1e9)), **four_layers()), "^masked_fill .*: changes the scores"),
    (Written(lambda own, x: own.one(x).mT @ own.two(x), **four_layers()), r"C code has no form of matmul \(Written"),
    (
        Written(lambda own, x: torch.einsum("bnd,bnd->bn", x, own.one(x)), **four_layers()),
        "C code has no form of einsum",
    ),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_has_no_form_is_named(case: int, tmp_path: Path) -> None:
    model, message = REFUSED[case]
    with pytest.raises(StructureError, match=message):
        export_c(model.eval(), tmp_path / "c", example_input=torch.rand(1, TOKENS, WIDTH))
    assert not (tmp_path / "c").exists()


def test_several_sequences_are_no_heads(tmp_path: Path) -> None:
    """(length, batch, features) that torch reads where people mean (batch, length, features)."""
    layer = nn.MultiheadAttention(WIDTH, HEADS)
    model = Written(lambda own, x: own.layer(x, x, x)[0], layer=layer).eval()
    with pytest.raises(StructureError, match=r"^bmm \(layer\): heads of \(1, 6, 24\); C code knows channels of the"):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, TOKENS, WIDTH))


def test_what_is_changed_in_place_is_refused(tmp_path: Path) -> None:
    def function(own: Any, x: Tensor) -> Tensor:
        y: Tensor = own.qkv(x)
        y[:, :, :WIDTH].mul_(0.5)
        queries, keys, values = (_heads(part.contiguous()) for part in y.chunk(3, 2))
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        z: Tensor = own.out(mixed.transpose(1, 2).flatten(2))
        return z

    model = Written(function, qkv=nn.Linear(WIDTH, 3 * WIDTH), out=nn.Linear(WIDTH, WIDTH))
    assert model(torch.rand(1, TOKENS, WIDTH)).shape == (1, TOKENS, WIDTH)
    with pytest.raises(StructureError, match="changes in place a map that is read by another name"):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, TOKENS, WIDTH))
