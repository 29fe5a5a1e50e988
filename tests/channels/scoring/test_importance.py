"""Torch-Pruning's pruners with our scores."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailcut.channels import SpectralImportance, score
from tailcut.errors import ArgumentError, StructureError

tp = pytest.importorskip("torch_pruning")

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A shortcut couples conv1 and conv3; a hidden linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv3, self.bn3 = nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc1, self.fc2 = nn.Linear(8, 6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(x)))))
        x = torch.relu(x + y)
        logits: Tensor = self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))
        return logits


def relative(scores: Tensor) -> Tensor:
    return scores / scores.mean()


def group_of(model: Residual, layer: nn.Module, channels: list[int]) -> Any:
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=X[:1])
    prune = tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels
    return graph.get_pruning_group(layer, prune, idxs=channels)


def test_importance_of_a_layer_alone() -> None:
    model = Residual()
    importance = SpectralImportance([X])
    expected = score(model, [X])
    found = importance(group_of(model, model.conv2, list(range(12))))
    torch.testing.assert_close(found, relative(expected["conv2"]), rtol=1e-12, atol=0)
    assert torch.equal(importance(group_of(model, model.conv2, [2, 5, 7])), found[[2, 5, 7]])
    assert importance.scores is not None
    assert set(importance.scores) == {"conv1", "conv2", "conv3", "fc1", "fc2"}


def test_coupled_layers_count_alike() -> None:
    model = Residual()
    expected = score(model, [X])
    found = SpectralImportance([X])(group_of(model, model.conv3, list(range(8))))
    torch.testing.assert_close(found, (relative(expected["conv1"]) + relative(expected["conv3"])) / 2)


def test_settings_go_to_score() -> None:
    model = Residual()
    found = SpectralImportance([X], method="l1")(group_of(model, model.conv2, list(range(12))))
    torch.testing.assert_close(found, relative(model.conv2.weight.detach().double().abs().sum((1, 2, 3))))


def test_a_layer_of_zeros_has_no_importance() -> None:
    model = Residual()
    with torch.no_grad():
        model.conv2.weight.zero_()
    found = SpectralImportance([X], method="l1")(group_of(model, model.conv2, list(range(12))))
    assert found.tolist() == [0.0] * 12


@pytest.mark.parametrize("name", ["BasePruner", "MagnitudePruner"])
@pytest.mark.parametrize("is_global", [False, True])
def test_pruners_drop_the_lowest(name: str, is_global: bool) -> None:
    model = Residual()
    found = score(model, [X], layers=["conv1", "conv2", "conv3", "fc1"])
    scores = {name: relative(values) for name, values in found.items()}
    kept = model.conv2.weight.detach().clone()
    pruner = getattr(tp.pruner, name)(
        model,
        X[:1],
        importance=SpectralImportance([X]),
        pruning_ratio=0.5,
        global_pruning=is_global,
        ignored_layers=[model.fc2],
    )
    pruner.step()
    assert model(X).shape == (4, 10)
    ranked = torch.cat([scores["conv2"], (scores["conv1"] + scores["conv3"]) / 2, scores["fc1"]])
    border = ranked.sort().values[ranked.numel() // 2 - 1] if is_global else scores["conv2"].sort().values[5]
    expected = (scores["conv2"] > border).nonzero().flatten()
    assert model.conv2.out_channels == len(expected)
    if not is_global:
        assert model.conv1.out_channels == 4
        inputs = ((scores["conv1"] + scores["conv3"]) / 2).sort().indices[4:].sort().values
        assert torch.equal(model.conv2.weight, kept[expected][:, inputs])


def test_steps_score_the_network_as_it_is() -> None:
    model = Residual()
    importance = SpectralImportance([X])
    pruner = tp.pruner.BasePruner(
        model, X[:1], importance=importance, pruning_ratio=0.5, iterative_steps=2, ignored_layers=[model.fc2]
    )
    pruner.step()
    first = importance.scores
    pruner.step()
    second = importance.scores
    assert first is not None
    assert second is not None
    assert second is not first
    assert (len(first["conv2"]), len(second["conv2"]), model.conv2.out_channels) == (12, 9, 6)
    assert model(X).shape == (4, 10)


def test_one_step_scores_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    class Loader:
        def __iter__(self) -> Any:
            reads.append(1)
            return iter([X])

    model = Residual()
    pruner = tp.pruner.BasePruner(model, X[:1], importance=SpectralImportance(Loader()), pruning_ratio=0.5)
    pruner.step()
    assert len(reads) == 1


def test_a_loader_that_can_be_read_once_is_refused() -> None:
    with pytest.raises(ArgumentError, match="the loader is a generator, which can be read only once"):
        SpectralImportance(x for x in [X])


def test_wrong_settings_are_noticed_at_once() -> None:
    with pytest.raises(TypeError, match="block_sizes"):
        SpectralImportance([X], block_sizes=4)
    with pytest.raises(ArgumentError, match="layers cannot be chosen here"):
        SpectralImportance([X], layers=["conv1"])


def test_a_group_without_scores_is_named() -> None:
    class Unused(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.shape[0] == 1 else torch.relu(self.conv1(x)).mean((2, 3))

    model = Unused()
    group = group_of(model, model.conv2, [0, 1])
    with pytest.raises(StructureError, match="no layer of the group of conv2 has a score"):
        SpectralImportance([X])(group)
