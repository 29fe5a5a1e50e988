"""The three papers in one network: it reads frequency channels, loses channels, keeps coefficients; then it runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import tailcut
from tailcut import channels, inputs
from tailcut.cli import main
from tailcut.structure import record_of

NUM_CLASSES = 4


@pytest.fixture
def images() -> Tensor:
    """Four classes that differ in their colour, (40, 3, 64, 64)."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(NUM_CLASSES, 3, 1, 1, generator=generator)
    noise = torch.rand(40, 3, 64, 64, generator=generator)
    return 0.7 * colours.repeat(10, 1, 1, 1) + 0.3 * noise


def fit(model: Callable[[Tensor], Tensor], parameters: Any, x: Tensor, classes: Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), classes)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def made(images: Tensor, classes: Tensor) -> tuple[nn.Module, Tensor]:
    """The network after all three steps, trained a little, and its input."""
    torch.manual_seed(0)
    model = tailcut.create_model("resnet18", width=8, num_classes=NUM_CLASSES)
    transform = inputs.BlockDCT(channels=6).fit(images.split(10))
    inputs.replace_stem(model, transform, image_size=64)
    x = transform(images)
    fit(model, model.parameters(), x, classes, steps=3)

    dense = sum(parameter.numel() for parameter in model.parameters())
    tailcut.prune(model, x[:1], channels.score(model, x.split(20)), rates=0.25)
    channels.recalibrate(model, x.split(20))
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.7 * dense

    tailcut.regularize(model, keep_ratio=0.2)
    schedule = tailcut.TailTruncation(model, keep_ratio=0.02, num_steps=2)
    fused = tailcut.fuse(model.train())
    for _ in range(2):
        losses = fit(fused, model.parameters(), x, classes, steps=8)
        schedule.step()
    schedule.finish()
    assert losses[-1] < losses[0]
    return model.eval(), x


def test_prune_regularise_pack_and_run(images: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = torch.arange(40) % NUM_CLASSES
    model, x = made(images, classes)
    assert [edit.kind for edit in record_of(model).edits] == ["replace_stem", "prune", "regularize"]

    file = tmp_path / "all.tailcut"
    tailcut.save(model, file)
    again = tailcut.load(file)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(again(x), expected)
        torch.testing.assert_close(tailcut.fuse(again)(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tailcut.to_dense(again)(x), expected, rtol=1e-4, atol=1e-4)
    own = inputs.transform_of(again)
    assert own is not None
    torch.testing.assert_close(own(images), x)

    photo = tmp_path / "photo.png"
    Image.fromarray((255 * images[1]).byte().permute(1, 2, 0).numpy()).save(photo)
    assert main(["predict", str(file), str(photo)]) == 0
    assert "photo.png" in capsys.readouterr().out
