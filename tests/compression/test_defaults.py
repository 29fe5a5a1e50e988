"""Defaults of torch that a user's script may set, for types and devices: tables of our own do not follow them.

The meta device stands for a GPU: what is made on it by accident has no numbers, or meets a tensor of another device.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import tailcut
from tailcut.channels import score


def network(num_kept: int | None) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(6 * 16, 5))
    if num_kept is not None:
        tailcut.regularize(model, num_kept=num_kept)
    return model


@pytest.fixture(params=["float64", "meta"])
def images(request: pytest.FixtureRequest) -> Iterator[Tensor]:
    """Float32 images on the CPU, while torch's default is another type or device."""
    found = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    if request.param == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(torch.float64)
    yield found
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def made(num_kept: int | None) -> nn.Module:
    with torch.device("cpu"):
        return network(num_kept).float()


@pytest.mark.parametrize("num_kept", [None, 20])
def test_compress_and_save(num_kept: int | None, images: Tensor, tmp_path: Path) -> None:
    model, path = made(num_kept).eval(), tmp_path / "a.tailcut"
    tailcut.compress(model, path, [images], step=0.001, num_gradients=20)
    torch.testing.assert_close(tailcut.load(path, into=made(None))(images), model(images), rtol=0, atol=0.05)
    tailcut.save(model, path, step=0.001)
    torch.testing.assert_close(tailcut.load(path, into=made(None))(images), model(images), rtol=0, atol=0.05)


def test_train_for_bytes_and_for_levels(images: Tensor, tmp_path: Path) -> None:
    model, labels = made(20), torch.arange(16, device="cpu") % 5
    nested = tailcut.NestedLevels(model, levels=(0.5,))
    with nested.drawn():
        cross_entropy(model(images), labels).backward()
    rate_loss = tailcut.RateLoss(model, target_bytes=600, num_steps=3)
    optimizer = rate_loss.optimizer(torch.optim.Adam, lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        with rate_loss.rounded():
            (cross_entropy(model(images), labels) + rate_loss()).backward()
        optimizer.step()
    rate_loss.remeasure([images])
    assert rate_loss.save(tmp_path / "a.tailcut", [images]).file_bytes <= 600


@pytest.mark.parametrize("method", ["spectral", "l1", "fpgm", "apoz", "bn_scale", "hrank", "random"])
def test_score_and_prune(method: Any, images: Tensor) -> None:
    model = made(None)
    scores = score(model, [images], method=method)
    tailcut.prune(model, images, scores, rates=0.25)
    assert model.get_submodule("0").get_parameter("weight").shape[0] == 6
