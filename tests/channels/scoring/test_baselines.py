"""Baselines against NumPy and SciPy, and against Torch-Pruning where it has them."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from tailcut.channels.scoring.baselines import (
    filters,
    l1_norms,
    l2_norms,
    map_ranks,
    median_distances,
    nonzero_ratios,
    norm_scales,
    random_importance,
)
from tailcut.errors import StructureError
from tailcut.model_inputs import ModelInputs
from tailcut.weights import regularize, to_dense

LAYERS = [
    nn.Conv2d(6, 8, 3),
    nn.Conv2d(6, 8, 3, groups=2),
    nn.Conv1d(6, 8, 3),
    nn.Conv3d(6, 8, 2),
    nn.ConvTranspose2d(6, 8, 3),
    nn.ConvTranspose2d(6, 8, 3, groups=2),
    nn.Linear(6, 8),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_filters_make_their_channel(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn({3: (2, 6, 9), 5: (2, 6, 4, 4, 4), 2: (2, 6)}.get(next(layer.parameters()).ndim, (2, 6, 9, 9)))
    for channel, row in enumerate(filters(layer)):
        # The gradient of a channel's sum by the weights is non-zero only at its own filter.
        with torch.enable_grad():
            output = layer(x)
            axis = -1 if isinstance(layer, nn.Linear) else 1
            (gradient,) = torch.autograd.grad(output.select(axis, channel).sum(), next(layer.parameters()))
        weight = next(layer.parameters()).detach()
        own = weight[gradient != 0].double().sort().values
        torch.testing.assert_close(row.detach().sort().values, own)


def test_norms_of_filters() -> None:
    layer = nn.Conv2d(3, 8, 3)
    rows = layer.weight.detach().double().numpy().reshape(8, -1)
    np.testing.assert_allclose(l1_norms(layer).detach(), np.abs(rows).sum(axis=1))
    np.testing.assert_allclose(l2_norms(layer).detach(), np.linalg.norm(rows, axis=1))
    np.testing.assert_allclose(median_distances(layer).detach(), cdist(rows, rows).sum(axis=1))


def test_norms_agree_with_torch_pruning() -> None:
    tp = pytest.importorskip("torch_pruning")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.rand(1, 3, 8, 8))
    group = graph.get_pruning_group(model[0], tp.prune_conv_out_channels, idxs=list(range(8)))
    for p, ours in ((1, l1_norms(model[0])), (2, l2_norms(model[0]))):
        theirs = tp.importance.GroupMagnitudeImportance(p=p, group_reduction="first", normalizer=None)(group)
        torch.testing.assert_close(ours.detach() ** p, theirs.double(), rtol=1e-5, atol=0)


def test_equal_filters_have_no_distance() -> None:
    layer = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight.copy_(1000 * layer.weight[:1].expand(4, -1, -1, -1))
    assert median_distances(layer).tolist() == [0.0] * 4


def test_regularised_layers_count_by_their_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    regularize(model, num_kept=20)
    dense = to_dense(model)
    torch.testing.assert_close(l1_norms(model[0]).detach(), l1_norms(dense.get_submodule("0")).detach())


def test_a_layer_without_weight_is_refused() -> None:
    with pytest.raises(StructureError, match="ReLU has no weight"):
        filters(nn.ReLU())


def test_nonzero_ratio_is_one_minus_apoz() -> None:
    maps = torch.tensor([[[[0.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, -1.0], [1.0, 1.0]]]])
    assert nonzero_ratios(maps)[0].tolist() == [[0.5, 0.0, 1.0]]
    maps[0, 1, 0, 0] = float("nan")
    assert nonzero_ratios(maps)[0].isnan().tolist() == [[False, True, False]]


def test_ranks_are_numpy_s() -> None:
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(2, 3, 8, 8)).astype(np.float32)
    maps[0, 1] = np.outer(maps[0, 1, 0], maps[0, 1, 1])
    maps[1, 0] = 0
    maps[1, 2, :4] = 0
    expected = [[np.linalg.matrix_rank(one) for one in image] for image in maps]
    found = map_ranks(torch.from_numpy(maps))[0]
    assert found.tolist() == expected
    assert found.tolist() == [[8, 1, 8], [0, 8, 4]]
    assert map_ranks(torch.from_numpy(maps).half())[0].dtype == torch.float64


def test_ranks_of_maps_that_are_not_finite() -> None:
    maps = torch.ones(1, 2, 4, 4)
    maps[0, 1, 2, 2] = float("inf")
    assert map_ranks(maps)[0].isnan().tolist() == [[False, True]]


def test_random_numbers_follow_the_seed() -> None:
    layers = {"a": nn.Conv2d(3, 5, 3), "b": nn.Linear(4, 6)}
    first, again, other = (random_importance(layers, seed) for seed in (1, 1, 2))
    state = torch.get_rng_state()
    assert all(torch.equal(first[name], again[name]) for name in layers)
    assert not torch.equal(first["a"], other["a"])
    assert {name: len(values) for name, values in first.items()} == {"a": 5, "b": 6}
    assert torch.equal(torch.get_rng_state(), state)


class Blocks(nn.Module):
    """A batch norm behind a convolution, one behind a concatenation, and none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(6, 5, 1)
        self.joined, self.norm = nn.BatchNorm2d(6), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        y: Tensor = self.third(torch.relu(self.joined(torch.cat([x, self.second(x)], dim=1))))
        return y


def test_scales_of_the_batch_norm_that_follows() -> None:
    model = Blocks()
    for norm in (model.joined, model.norm):
        nn.init.normal_(norm.weight)
    layers = {"first": model.first, "second": model.second, "third": model.third}
    found, left = norm_scales(model, layers, ModelInputs((torch.rand(2, 3, 4, 4),)))
    assert found["first"].tolist() == model.norm.weight.abs().tolist()
    assert found["second"].tolist() == model.joined.weight[4:].abs().tolist()
    assert left == {"third": "no batch norm with a scale follows it"}
    assert len(model.norm._forward_pre_hooks) == 0


def test_of_two_batch_norms_the_first_behind_the_layer_counts() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    for norm in (model[1], model[2]):
        nn.init.normal_(norm.get_parameter("weight"))
    found, _ = norm_scales(model, {"0": model[0]}, ModelInputs((torch.rand(2, 3, 4, 4),)))
    assert found["0"].tolist() == model[1].get_parameter("weight").abs().tolist()
