"""Random networks: fused as they are, and the comparison finds what is wrong."""

import pytest
import torch
from torch import Tensor

from fuzz import graphs

SEEDS = range(300)


@pytest.mark.parametrize("seed", SEEDS)
def test_fused_networks_answer_as_the_network_itself(seed: int) -> None:
    graphs.compare(seed)


def test_a_seed_is_one_network_and_all_kinds_of_steps_occur() -> None:
    state = torch.random.get_rng_state()
    (first, x), (again, same) = graphs.network(3), graphs.network(3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(x, same)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
    models = [graphs.RandomNetwork(seed) for seed in range(100)]
    assert {type(module) for model in models for module in model.modules()} >= {
        *graphs.STEPS,
        *graphs.TRANSPOSED.values(),
    }
    assert {model.axes for model in models} == {1, 2, 3}


@pytest.mark.parametrize("what", ["output", "input", "head.weight.grad"])
def test_a_difference_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = graphs._results

    def wrong(runner: torch.nn.Module, model: torch.nn.Module, x: Tensor) -> dict[str, Tensor | None]:
        found = results(runner, model, x)
        name = (
            what if what in found else next(name for name in found if name.startswith("head") and name.endswith("grad"))
        )
        tensor = found[name]
        assert tensor is not None
        return found if runner is model else found | {name: tensor * 1.001}

    monkeypatch.setattr(graphs, "_results", wrong)
    with pytest.raises(AssertionError, match="differs by"):
        graphs.compare(3)
