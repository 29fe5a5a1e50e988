"""Networks whose outputs are large numbers: their gradients are, and so are the steps that round anything away."""

from pathlib import Path

import pytest
import torch
from torch import nn

import tailcut


def prices() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A trained regressor of prices in dollars, with its inputs and answers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    inputs = torch.randn(512, 13)
    answers = 250_000 + 80_000 * inputs[:, :3].sum(1, keepdim=True)
    with torch.no_grad():
        model[4].weight.mul_(5e4)  # type: ignore[operator]
        model[4].bias.fill_(250_000)  # type: ignore[operator]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        ((model(inputs) - answers) / 1e5).square().mean().backward()
        optimizer.step()
    return model, inputs, answers


@pytest.mark.parametrize("max_bytes", [1500, 700])
def test_files_may_be_small(max_bytes: int, tmp_path: Path) -> None:
    model, inputs, _ = prices()
    report = tailcut.compress(model, tmp_path / "a.tailcut", [inputs], max_bytes=max_bytes)
    assert 0.5 * max_bytes < report.file_bytes <= max_bytes


def test_a_metric_may_fall_far(tmp_path: Path) -> None:
    model, inputs, answers = prices()

    def explained(network: nn.Module) -> float:
        with torch.no_grad():
            return 1 - float((network(inputs) - answers).square().mean() / answers.var())

    sizes = []
    for drop in (0.02, 0.3):
        report = tailcut.compress(model, tmp_path / "a.tailcut", [inputs], max_drop=drop, evaluate=explained)
        assert report.after is not None
        assert report.before is not None
        assert report.after >= report.before - drop
        sizes.append(report.file_bytes)
    assert sizes[1] < sizes[0]
