"""Transformers beside torch: torch's own layers, small ones for sound and sensors, and the ViT of the project."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.export_c.lowering.many import SMALL, compare_all
from tests.export_c.networks import enliven, lively
from tests.export_c.running import compare
from torch import Tensor, nn

import tailcut
from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.operations import attention

CLOSE = 5e-6
TOKENS, WIDTH, HEADS = 7, 8, 2


class Multihead(nn.Module):
    """A layer of torch over (1, tokens, width), its tokens or its batch first."""

    def __init__(self, mask: Tensor | None = None, *, is_batch_first: bool = True, **settings: Any) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=is_batch_first, bias=settings.pop("bias", True))
        self.settings, self.is_batch_first = settings, is_batch_first
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.is_batch_first else x.transpose(0, 1)
        y: Tensor = self.layer(x, x, x, attn_mask=self.mask, **self.settings)[0]
        return y if self.is_batch_first else y.transpose(0, 1)


class Spotter(nn.Module):
    """A keyword spotter, as KWT: a class token, positions, blocks of torch, one token of what comes out or the mean."""

    def __init__(self, takes: str = "first", *, is_batch_first: bool = True, depth: int = 2, **settings: Any) -> None:
        super().__init__()
        self.takes, self.is_batch_first = takes, is_batch_first
        self.embed, self.token = nn.Linear(5, WIDTH), nn.Parameter(torch.randn(1, 1, WIDTH))
        places = (1, TOKENS + 1, WIDTH) if is_batch_first else (TOKENS + 1, 1, WIDTH)
        self.position = nn.Parameter(torch.randn(places))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, batch_first=is_batch_first, **settings)
        self.blocks, self.head = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        length = 1 if self.is_batch_first else 0
        x = self.embed(x) if self.is_batch_first else self.embed(x).transpose(0, 1)
        parts = [x, self.token] if self.takes == "last" else [self.token.expand(1, -1, -1), x]
        x = self.blocks(torch.cat(parts, length) + self.position)
        y: Tensor = x.mean(length) if self.takes == "mean" else x.select(length, -1 if self.takes == "last" else 0)
        z: Tensor = self.head(y)
        return z


def test_layers_of_torch(tmp_path: Path) -> None:
    """All in one program, with masks that torch takes as numbers and as truth values."""
    torch.manual_seed(0)
    assert attention.HANDLERS
    later = nn.Transformer.generate_square_subsequent_mask(TOKENS)
    layers: list[nn.Module] = [
        Multihead(),
        Multihead(bias=False, need_weights=False),
        Multihead(is_batch_first=False),
        Multihead(later, need_weights=False, is_causal=True),
        Multihead(torch.eye(TOKENS, dtype=torch.bool)),
        Multihead((later + torch.randn(TOKENS, TOKENS)).expand(HEADS, -1, -1).clone(), need_weights=False),
        nn.TransformerEncoderLayer(WIDTH, HEADS, 12, batch_first=True),
        nn.TransformerEncoderLayer(WIDTH, HEADS, 12, batch_first=True, activation="gelu", norm_first=True),
    ]
    made = [layer if isinstance(layer, Multihead) else nn.Sequential(layer) for layer in layers]
    assert compare_all(tmp_path, nn.Linear(5, WIDTH), (TOKENS, 5), made) < CLOSE


def check(model: nn.Module, folder: Path, shape: tuple[int, ...], options: tuple[str, ...] = ()) -> int:
    difference, report = compare(model, folder, options=options, example_input=torch.rand(1, *shape))
    assert difference < CLOSE
    return report.arena_bytes


@pytest.mark.parametrize("is_batch_first", [True, False])
def test_a_small_transformer_truncated(is_batch_first: bool, tmp_path: Path) -> None:
    """Its position too, which stays coefficients."""
    torch.manual_seed(0)
    model = lively(Spotter(is_batch_first=is_batch_first, norm_first=True, activation="gelu"))
    tailcut.regularize(model, keep_ratio=0.4, include=["*weight", "token", "position"])
    check(enliven(model), tmp_path / "c", (TOKENS, 5))
    assert export_c(model, tmp_path / "c", example_input=torch.rand(1, TOKENS, 5)).flash_bytes["dense weights"] == 0


@pytest.mark.parametrize("options", [(), SMALL])
def test_the_vit_of_the_project(options: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(tailcut.create_model("vit", image_size=16, width=12, depth=2, num_heads=3, mlp_width=20))
    tailcut.regularize(model, keep_ratio=0.3, include=["*weight", "class_token", "position"])
    check(enliven(model), tmp_path, (3, 16, 16), options)


@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_random_transformers(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    model = Spotter(
        data.draw(st.sampled_from(["first", "last", "mean"])),
        is_batch_first=data.draw(st.booleans()),
        depth=data.draw(st.integers(1, 2)),
        norm_first=data.draw(st.booleans()),
        bias=data.draw(st.booleans()),
    )
    axes = data.draw(st.sampled_from([None, (0, 1), (0,), (1,)]))
    lively(model)
    if axes is not None:
        tailcut.regularize(model, keep_ratio=data.draw(st.sampled_from([0.3, 1.0])), axes=axes)
        enliven(model)
    check(model, tmp_path_factory.mktemp("c"), (TOKENS, 5), data.draw(st.sampled_from([(), SMALL])))


def test_memory_is_that_of_one_block(tmp_path: Path) -> None:
    """What blocks add takes the rows of what it is added to; one row of scores is there at a time."""
    torch.manual_seed(0)
    arenas = [
        export_c(Spotter(depth=depth, norm_first=True), tmp_path, example_input=torch.rand(1, TOKENS, 5)).arena_bytes
        for depth in (1, 4)
    ]
    assert arenas[0] == arenas[1]
    # The sum of the blocks so far, its norm, queries, keys and values; a row of the layer between.
    assert arenas[0] <= 4 * (5 * (TOKENS + 1) * WIDTH + 4 * WIDTH)


def test_integers_name_the_layer(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"bmm \(layer\): integers have no form of attention; exp"):
        export_c(Multihead(), tmp_path / "c", example_input=torch.rand(1, TOKENS, WIDTH), arithmetic="integer")
