"""Attention in a program: queries, keys and values are written side by side, and what comes out over the queries."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from tailcut.errors import StructureError
from tailcut.export_c.lowering.heads.join import HEADS, Heads
from tailcut.export_c.lowering.lowering import Handlers, Lowering
from tailcut.export_c.lowering.sequences import ATTENTION
from tailcut.export_c.program.program import (
    MAX_LEAVES,
    Attention,
    Kind,
    Leaf,
    Map,
    Op,
    Operation,
    Segment,
    Stage,
    Table,
    Value,
    joined_channels,
    of_leaf,
)
from tailcut.export_c.program.weights import Weight

HANDLERS = Handlers()

# Scores that shall have no weight; a power of two, so that a mask takes a byte for each.
HIDDEN = -(2.0**100)
# Masks of less than this hide.
LEAST = -1e6


@HANDLERS.register(ATTENTION)
def _attention(low: Lowering, node: fx.Node, query: fx.Node, key: fx.Node, value: fx.Node, *_: Any) -> Value:
    heads: Heads = node.meta[HEADS]
    num_keys, num_values = len(heads.keys), len(heads.values)
    read = [
        _channels(low, query, heads.queries, heads.num).then(Op(Operation.SCALE, low=heads.factor)),
        _channels(low, key, heads.keys, heads.num),
        _channels(low, value, heads.values, heads.num),
    ]
    tokens = read[0].size[0]
    if num_values > num_keys:  # so that what comes out has room
        zeros = Segment(num_values - num_keys, (Op(Operation.ZERO),))
        read[0] = replace(read[0], segments=(*read[0].segments, zeros))
    joined = _joined(low, read)
    out = Map(joined.channels, tokens, 1)
    mask, is_causal = _mask(heads, tokens)
    attention = Attention(heads.num, num_keys, num_values, is_causal)
    table = None if mask is None else Table(mask)
    low.add(Stage(Kind.ATTENTION, joined, out, table=table, attention=attention, may_replace=True))
    return of_leaf(Leaf(out, out.channels, tokens, 1)).of_channels(0, num_values)


def _channels(low: Lowering, node: fx.Node, channels: list[int], num_heads: int) -> Value:
    """Return some channels of a sequence in any order."""
    value, parts, begin = low.plain(node), [], 0
    for place in range(1, len(channels) + 1):
        if place == len(channels) or channels[place] != channels[place - 1] + 1:
            parts.append(value.of_channels(channels[begin], channels[place - 1] + 1))
            begin = place
    if len(parts) > num_heads:
        raise StructureError("heads whose channels are not side by side; C code knows heads one behind the other")
    return _joined(low, parts)


def _joined(low: Lowering, parts: list[Value]) -> Value:
    """Return the channels of plain values one behind the other, from memory if they are of too many maps."""
    while sum(len(part.leaves()) for part in parts) > MAX_LEAVES:
        count = 1
        while count < len(parts) and sum(len(part.leaves()) for part in parts[: count + 1]) <= MAX_LEAVES:
            count += 1
        parts = [low.stored(joined_channels(parts[:count])), *parts[count:]]
    return joined_channels(parts)


def _mask(heads: Heads, tokens: int) -> tuple[Weight | None, bool]:
    """Return what is added to the scores, None for nothing; and whether no token reads a later one."""
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    mask = torch.zeros(1, tokens, tokens, dtype=torch.float64) if heads.mask is None else heads.mask
    mask = torch.where(mask < LEAST, HIDDEN, mask)
    if heads.is_causal:
        mask = mask.masked_fill(later, HIDDEN)
    if ((mask <= HIDDEN).all(-1)).any():
        raise StructureError("a mask that hides all tokens from one; C code knows those that leave each token one")
    hidden = torch.zeros(tokens, tokens, dtype=mask.dtype).masked_fill(later, HIDDEN)
    is_causal = tokens > 1 and bool((mask[:, later] == HIDDEN).all())
    if torch.equal(mask, (hidden if is_causal else torch.zeros_like(hidden)).expand_as(mask)):
        return None, is_causal
    return _table(mask, tokens), is_causal


def _table(mask: Tensor, tokens: int) -> Weight:
    if mask.shape[0] > 1 and torch.equal(mask, mask[:1].expand_as(mask)):
        mask = mask[:1]
    sizes = (mask.shape[0] * tokens, tokens, 1, 1)
    return Weight("the mask", np.ascontiguousarray(mask.numpy().astype(np.float32)).reshape(-1), sizes, sizes)
