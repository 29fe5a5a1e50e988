"""Linear layers that hold their weight as (in, out), as GPT-2's do: whatever prunes an nn.Linear prunes them alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance.torch_networks import Conv1D
from tests import torchvision_operators
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.channels import prune, score
from tailcut.errors import ArgumentError

assert torchvision_operators  # before transformers, which imports torchvision


class Block(nn.Module):
    """Words through an MLP with a shortcut; `linear` makes its layers."""

    def __init__(self, linear: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(11, 8), nn.LayerNorm(8)
        self.c_fc, self.c_proj, self.head = linear(8, 24), linear(24, 8), nn.Linear(8, 11)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        x = x + self.c_proj(functional.gelu(self.c_fc(self.norm(x))))
        logits: Tensor = self.head(x)
        return logits


def transposed(num_in: int, num_out: int) -> nn.Module:
    return Conv1D(num_out, num_in)


def twins() -> tuple[Block, Block]:
    """Return two networks of the same numbers: with torch's linear layers, and with GPT-2's."""
    torch.manual_seed(0)
    usual, turned = Block(nn.Linear).eval(), Block(transposed).eval()
    state = usual.state_dict()
    turned.load_state_dict({name: x.t() if name.startswith("c_") else x for name, x in state.items()})
    return usual, turned


WORDS = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["spectral", "l1", "l2", "fpgm", "apoz", "hrank"])
def test_it_is_scored_and_narrowed_as_a_linear_layer_is(method: Any, tmp_path: Path) -> None:
    usual, turned = twins()
    torch.testing.assert_close(turned(WORDS), usual(WORDS))
    scores, expected = (score(model, [WORDS], method=method) for model in (turned, usual))
    assert sorted(scores) == sorted(expected)
    for name in expected:
        torch.testing.assert_close(scores[name], expected[name])
    assert str(prune(turned, WORDS, scores, 0.5)) == str(prune(usual, WORDS, expected, 0.5))
    assert [(vars(layer)["nx"], vars(layer)["nf"]) for layer in (turned.c_fc, turned.c_proj)] == [(4, 12), (12, 4)]
    torch.testing.assert_close(turned(WORDS), usual(WORDS))
    tailcut.save(turned, tmp_path / "a.tailcut")
    loaded = tailcut.load(tmp_path / "a.tailcut", into=Block(transposed)).eval()
    assert torch.equal(loaded(WORDS), turned(WORDS))


def test_one_with_a_forward_of_its_own_is_kept_whole() -> None:
    class Doubled(Conv1D):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    torch.manual_seed(0)
    model = Block(lambda num_in, num_out: Doubled(num_out, num_in)).eval()
    scores = score(model, [WORDS], method="l1")
    assert not {"c_fc", "c_proj"} & set(scores)
    with pytest.raises(ArgumentError, match=r"nothing can be pruned: words: .* in c_fc; head"):
        prune(model, WORDS, scores, 0.5)


def test_gpt2_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=11, n_positions=9, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    report = prune(model, WORDS, score(model, [WORDS], method="l1"), 0.5)
    kept = {layer.name: layer.after for layer in report.layers}
    assert (kept["transformer.h.0.mlp.c_fc"], kept["transformer.h.1.mlp.c_proj"]) == (64, 16)
    assert report.num_parameters_after == sum(x.numel() for x in model.parameters())
    tailcut.save(model, tmp_path / "a.tailcut")
    loaded = tailcut.load(tmp_path / "a.tailcut", into=transformers.GPT2LMHeadModel(config)).eval()
    assert torch.equal(loaded(WORDS).logits, model(WORDS).logits)
