"""Attention of (1, tokens, 8) as people write it, each with layers of its own."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, TOKENS = 8, 2, 6
SIZE = WIDTH // HEADS


class Written(nn.Module):
    """A function of a module's layers and its input; `settings` are layers, parameters and buffers."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **settings: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in settings.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def joined(own: Any, x: Tensor) -> Tensor:
    """timm: one layer for all three, an axis for them."""
    count, tokens, width = x.shape
    queries, keys, values = own.qkv(x).reshape(count, tokens, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (queries * SIZE**-0.5 @ keys.transpose(-2, -1)).softmax(-1)
    y: Tensor = own.out((weights @ values).transpose(1, 2).reshape(count, tokens, width))
    return y


def causal(own: Any, x: Tensor) -> Tensor:
    """nanoGPT: a buffer of ones below the diagonal."""
    count, tokens, width = x.shape
    parts = [part.view(count, tokens, HEADS, SIZE).transpose(1, 2) for part in own.qkv(x).split(width, dim=2)]
    scores = (parts[0] @ parts[1].transpose(-2, -1)) * (1.0 / math.sqrt(SIZE))
    scores = scores.masked_fill(own.below[:, :, :tokens, :tokens] == 0, float("-inf"))
    y = functional.softmax(scores, dim=-1) @ parts[2]
    made: Tensor = own.out(y.transpose(1, 2).contiguous().view(count, tokens, width))
    return made


def by_heads(own: Any, x: Tensor) -> Tensor:
    """GPT-NeoX: queries, keys and values of a head side by side."""
    parts = own.qkv(x).view(*x.shape[:2], HEADS, 3 * SIZE).permute(0, 2, 1, 3).chunk(3, -1)
    y: Tensor = own.out(functional.scaled_dot_product_attention(*parts).permute(0, 2, 1, 3).reshape(x.shape))
    return y


def rows(own: Any, x: Tensor) -> Tensor:
    """Linear layers over (tokens, width), keys transposed from the start."""
    count, tokens, width = x.shape
    y = x.reshape(-1, width)
    queries = own.one(y).view(count, tokens, HEADS, -1).transpose(1, 2)
    keys = own.two(y).view(count, tokens, HEADS, -1).permute(0, 2, 3, 1)
    values = own.three(y).view(count, tokens, HEADS, -1).transpose(1, 2)
    mixed = ((queries @ keys * 0.3).softmax(-1) @ values).transpose(1, 2)
    z: Tensor = own.out(mixed.reshape(-1, width)).view(count, tokens, width)
    return z


def masked(own: Any, x: Tensor) -> Tensor:
    """BERT: a mask that is added, dropout."""

    def heads(y: Tensor) -> Tensor:
        return y.view(*y.shape[:-1], HEADS, SIZE).permute(0, 2, 1, 3)

    scores = torch.matmul(heads(own.one(x)), heads(own.two(x)).transpose(-1, -2)) / math.sqrt(SIZE) + own.mask
    weights = functional.dropout(functional.softmax(scores, -1), 0.1, training=False)
    y = torch.matmul(weights, heads(own.three(x))).permute(0, 2, 1, 3).contiguous()
    made: Tensor = own.out(y.view(*y.shape[:-2], WIDTH))
    return made


def single(own: Any, x: Tensor) -> Tensor:
    """One head, by products of batches; queries are not scaled, but scores."""
    weights = torch.softmax(torch.bmm(own.one(x), own.two(x).transpose(1, 2)) / math.sqrt(WIDTH), -1)
    y: Tensor = own.out(torch.bmm(weights, own.three(x)))
    return y


def with_bias(own: Any, x: Tensor) -> Tensor:
    """Swin: a number for each distance and head."""
    tokens = x.shape[1]
    queries, keys, values = own.qkv(x).reshape(1, tokens, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
    bias = own.table[own.places.view(-1)].view(tokens, tokens, HEADS).permute(2, 0, 1)
    weights = (queries * 0.4 @ keys.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
    y: Tensor = own.out((weights @ values).transpose(1, 2).flatten(2))
    return y


def by_letters(own: Any, x: Tensor) -> Tensor:
    queries, keys, values = (part.view(1, -1, HEADS, SIZE) for part in own.qkv(x).chunk(3, -1))
    scores = torch.einsum("bnhd,bmhd->bhnm", queries, keys) / 2
    y: Tensor = own.out(torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), values).reshape(x.shape))
    return y


def of_groups(own: Any, x: Tensor) -> Tensor:
    """Two heads of keys and values for four of queries."""
    queries = own.one(x).view(1, -1, 4, 2).transpose(1, 2)
    keys, values = (layer(x).view(1, -1, 2, 2).transpose(1, 2) for layer in (own.two, own.three))
    mixed = functional.scaled_dot_product_attention(queries, keys, values, enable_gqa=True)
    y: Tensor = own.out(mixed.transpose(1, 2).flatten(2))
    return y


def wide(own: Any, x: Tensor) -> Tensor:
    """Values of more channels than queries and keys; a scale of its own."""
    queries, keys = (layer(x).view(1, -1, HEADS, 2).transpose(1, 2) for layer in (own.one, own.two))
    values = own.three(x).view(1, -1, HEADS, 5).transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=0.8)
    y: Tensor = own.out(mixed.transpose(1, 2).flatten(2))
    return y


def turned(own: Any, x: Tensor) -> Tensor:
    """SAGAN: channels first, the transposed weights behind the values."""
    y = x.transpose(1, 2)
    weights = torch.softmax(torch.bmm(own.one(y).permute(0, 2, 1), own.two(y)), dim=-1)
    z: Tensor = own.gain * torch.bmm(own.three(y), weights.permute(0, 2, 1)) + y
    return z


def two_layers() -> dict[str, Any]:
    return {"qkv": nn.Linear(WIDTH, 3 * WIDTH), "out": nn.Linear(WIDTH, WIDTH)}


def four_layers(one: int = WIDTH, two: int = WIDTH, three: int = WIDTH, mixed: int = WIDTH) -> dict[str, Any]:
    sizes = {"one": (WIDTH, one), "two": (WIDTH, two), "three": (WIDTH, three), "out": (mixed, 5)}
    return {name: nn.Linear(*pair) for name, pair in sizes.items()}


def all_written() -> list[Written]:
    square = {**four_layers(), "out": nn.Linear(WIDTH, WIDTH)}
    hidden = torch.zeros(1, 1, 1, TOKENS).masked_fill(torch.arange(TOKENS) > 3, -1e4)
    distances = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS) + TOKENS - 1
    below = torch.tril(torch.ones(TOKENS, TOKENS)).view(1, 1, TOKENS, TOKENS)
    lines = {name: nn.Conv1d(WIDTH, count, 1) for name, count in (("one", 3), ("two", 3), ("three", WIDTH))}
    return [
        Written(joined, **two_layers()),
        Written(causal, below=below, **two_layers()),
        Written(by_heads, **two_layers()),
        Written(rows, **square),
        Written(masked, mask=hidden, **square),
        Written(single, **square),
        Written(with_bias, table=nn.Parameter(torch.randn(2 * TOKENS - 1, HEADS)), places=distances, **two_layers()),
        Written(by_letters, **two_layers()),
        Written(of_groups, **four_layers(8, 4, 4)),
        Written(wide, **four_layers(4, 4, 10, 10)),
        Written(turned, gain=nn.Parameter(torch.rand(1)), **lines),
    ]
