import torch
from torch import nn

import tailcut
from tailcut.execution.ir.cost import Costs
from tailcut.execution.ir.geometry import geometry_of
from tailcut.execution.layers.factorization import TruncatedWeight
from tailcut.execution.layers.strategies import Strategy, choose, possible_strategies
from tailcut.execution.lazy.context import Context
from tailcut.weights import truncation_of


def strategies_for(num_kept: int, context: Context, size: int = 64) -> list[Strategy]:
    layer, x = nn.Conv2d(128, 128, 3, padding=1), torch.empty(1, 128, size, size)
    tailcut.regularize(layer, num_kept=num_kept)
    geometry = geometry_of(layer, tuple(x.shape), ())
    assert geometry is not None
    return possible_strategies(geometry, TruncatedWeight(truncation_of(layer, "weight"), layer), x, context)


def new_context(strategy: str) -> Context:
    return Context("torch", strategy, Costs.of("cpu", with_gradients=False))


def test_few_coefficients_are_low_rank_and_all_are_dense() -> None:
    context = new_context("auto")
    assert [(strategy.project, strategy.low_rank) for strategy in strategies_for(12, context)] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    best = choose(strategies_for(12, context), context)
    assert best is not None
    assert best.low_rank
    assert len(strategies_for(128 * 128 * 9, context)) == 1


def test_the_way_may_be_prescribed() -> None:
    tiny = choose(strategies_for(12, new_context("auto"), 1), new_context("auto"))
    forced = choose(strategies_for(12, new_context("low_rank"), 1), new_context("low_rank"))
    assert tiny is not None
    assert forced is not None
    assert forced.project or forced.low_rank
    assert choose([], new_context("auto")) is None
