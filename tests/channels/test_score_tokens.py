"""Linear layers over tokens: scored unasked, and pruned where a group has no other scores."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.channels.transcription import paper
from torch import Tensor, nn
from torch.nn import functional

import tailcut
from tailcut.channels import Scores, score
from tailcut.channels.graph.groups import find_groups
from tailcut.channels.pruning.selection import check_scores, importance_of
from tailcut.errors import StructureError


def images(*sizes: int) -> list[Tensor]:
    noise = torch.Generator().manual_seed(0)
    return [torch.rand(size, 3, 12, 12, generator=noise, dtype=torch.float64) for size in sizes]


class Block(nn.Module):
    """A transformer block over patches: one head of attention, an MLP, layer norm before each, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc1, self.fc2, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v))
        x = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


class Mixer(nn.Module):
    """An MLP over tokens, one over features, no convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(48, 8)
        self.tokens1, self.tokens2 = nn.Linear(9, 12), nn.Linear(12, 9)
        self.fc1, self.fc2, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(functional.unfold(x, 4, stride=4).transpose(1, 2))
        x = x + self.tokens2(functional.gelu(self.tokens1(x.transpose(1, 2)))).transpose(1, 2)
        x = x + self.fc2(functional.gelu(self.fc1(x)))
        logits: Tensor = self.head(x.mean(1))
        return logits


OF_BLOCK = ("patches", "qkv", "proj", "fc1", "fc2")
OF_MIXER = ("embed", "tokens1", "tokens2", "fc1", "fc2")


@pytest.mark.parametrize(("make", "names"), [(Block, OF_BLOCK), (Mixer, OF_MIXER)])
@pytest.mark.parametrize("method", ["spectral", "apoz", "l1", "random"])
def test_linear_layers_over_tokens_are_scored_unasked_as_they_are_by_name(
    make: type[nn.Module], names: tuple[str, ...], method: Any
) -> None:
    model, loader = make(), [batch.float() for batch in images(3, 2)]
    found, named = score(model, loader, method=method), score(model, loader, method=method, layers=names)
    assert list(found) == list(named) == list(names)
    assert found.skipped == {}
    assert found.fallback == set(names) - {"patches"}
    assert named.fallback == frozenset()
    assert all(torch.equal(found[name], named[name]) for name in names)


def test_maps_of_linear_layers_lie_along_the_tokens() -> None:
    model, (batch,) = Mixer().double(), images(2)
    with torch.no_grad():
        x = model.embed(functional.unfold(batch, 4, stride=4).transpose(1, 2))
        hidden = functional.gelu(model.tokens1(x.transpose(1, 2)))  # (batch, features, hidden tokens)
    expected = [[sum(paper(image[None, :, channel].numpy())[:1]) for channel in range(12)] for image in hidden]
    found = score(model, [batch]).parts["tokens1"].spectral
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64).mean(0), rtol=1e-11, atol=0)


def test_without_a_forward_linear_layers_are_scored_by_name_only() -> None:
    assert list(score(Block(), method="l1")) == ["patches"]
    with pytest.raises(StructureError, match=r"Mixer has no convolution.*score\(layers=\['embed', 'tokens1'\]\)"):
        score(Mixer(), method="l1")


@pytest.mark.parametrize("method", ["spectral", "l1"])
def test_a_linear_layer_of_single_features_stays_unscored(method: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    with pytest.raises(StructureError, match="no linear layer that was seen to give tokens"):
        score(model, [torch.rand(3, 6)], method=method)
    assert list(score(model, [torch.rand(3, 7, 6)], method=method)) == ["0", "2"]


def test_linear_layers_do_not_change_the_maps_of_convolutions() -> None:
    class Meeting(nn.Module):
        """Maps of a convolution and of a linear layer over positions are added, then pooled; or put side by side."""

        def __init__(self, joined: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.joined = joined
            self.conv, self.linear = nn.Conv1d(3, 4, 1), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.conv(x), self.linear(x[:, :1].expand(-1, 4, -1))
            return functional.relu(torch.cat([a, b], 1) if self.joined else functional.max_pool1d(a + b, 2))

    batch = torch.rand(2, 3, 8)
    for joined in (False, True):
        model = Meeting(joined)
        found, alone = score(model, [batch]), score(model, [batch], layers=["conv"])
        assert set(found) == {"conv", "linear"}
        assert torch.equal(found["conv"], alone["conv"])


@pytest.mark.parametrize(
    ("make", "shortcut", "hidden"),
    [(Block, "patches", {"fc1": 16}), (Mixer, "embed", {"fc1": 16})],
)
def test_hidden_layers_of_mlps_are_narrowed_by_one_rate(
    make: type[nn.Module], shortcut: str, hidden: dict[str, int]
) -> None:
    model = make().double().eval()
    dense, (batch,) = copy.deepcopy(model), images(3)
    scores = score(model, [batch])
    # Channels of the shortcut stay: layer norm takes means over them, so zeros are not the same as none.
    report = tailcut.prune(model, batch[:1], scores, 0.25, ignore=shortcut)
    rows = {layer.name: layer for layer in report.layers if layer.removed}
    assert {name: (row.before, row.after) for name, row in rows.items()} == {
        name: (width, width * 3 // 4) for name, width in hidden.items()
    }
    for name, row in rows.items():
        assert set(row.removed) == set(scores[name].argsort()[: hidden[name] // 4].tolist())
        with torch.no_grad():
            dense.get_parameter(name.replace("1", "2.weight"))[:, list(row.removed)] = 0
    torch.testing.assert_close(model(batch), dense(batch), rtol=1e-12, atol=1e-12)


def test_nothing_is_left_for_want_of_scores() -> None:
    for make in (Block, Mixer):
        model, (batch,) = make().double().eval(), images(2)
        report = tailcut.prune(model, batch[:1], score(model, [batch]), 0.25)
        assert not [row for row in report.skipped if "no scores were given" in row.reason]
        assert model(batch).shape == (2, 5)


def test_a_convolution_decides_for_the_linear_layers_that_go_with_it() -> None:
    model, (batch,) = Block().double().eval(), images(2)
    graph = find_groups(model, (batch[:1],))
    group = graph.group_of("patches")
    assert group is not None
    assert {"patches", "proj", "fc2"} <= set(group.layers)
    scores = score(model, [batch])
    checked, convolution = check_scores(scores, model, graph), {"patches": scores["patches"]}
    assert importance_of(graph, group, checked) == importance_of(graph, group, convolution)
    named = score(model, [batch], layers=["patches", "proj", "fc2"])
    checked_names = check_scores(named, model, graph)
    assert importance_of(graph, group, checked_names) != importance_of(graph, group, convolution)
    assert importance_of(graph, group, checked, "fc2") == importance_of(graph, group, {"fc2": scores["fc2"]})


def test_the_file_of_scores_keeps_which_layers_nobody_named(tmp_path: Path) -> None:
    model, loader = Block().double(), images(2)
    scores = score(model, loader)
    scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json").fallback == scores.fallback == {"qkv", "proj", "fc1", "fc2"}
