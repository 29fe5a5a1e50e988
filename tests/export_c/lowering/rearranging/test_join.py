"""Channel shuffle, pixel shuffle and other permutations of more axes than a map has, beside torch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.export_c.integers import check_same
from tests.export_c.lowering.many import Many, compare_all
from tests.export_c.networks import lively
from torch import Tensor, nn
from torch.nn import functional

from tailcut.errors import StructureError
from tailcut.export_c import export_c

CLOSE = 2e-6


def shuffled(x: Tensor, groups: int) -> Tensor:
    """As torchvision's ShuffleNet writes it."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, channels, height, width)


def halves(x: Tensor) -> Tensor:
    """As the original ShuffleNetV2 takes every other channel."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
    x = x.reshape(2, -1, channels // 2, height, width)
    return x[0] + 2 * x[1].relu()


def blocks(x: Tensor) -> Tensor:
    """Space to depth with the channels last in each block, as YOLOv2's reorganisation has it."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(batch, 4 * channels, height // 2, width // 2)


def patches(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    x = x.unflatten(2, (height // 2, 2)).unflatten(4, (width // 2, 2)).permute(0, 2, 4, 1, 3, 5)
    return x.flatten(3).flatten(1, 2)


def functions() -> list[Callable[[Tensor], Tensor] | nn.Module]:
    return [
        lambda x: shuffled(x, 2),
        lambda x: shuffled(torch.cat([x[:, :4].relu(), x[:, 4:] * 2], 1), 3),
        lambda x: functional.channel_shuffle(x.sigmoid(), 4),
        lambda x: functional.pixel_shuffle(x, 2),
        lambda x: functional.pixel_shuffle(x[:, :9], 3),
        nn.Sequential(nn.Conv2d(12, 8, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(2, 3, 3)),
        nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(48, 3, 1)),
        lambda x: functional.pixel_unshuffle(functional.avg_pool2d(x, 2), 2),
        halves,
        blocks,
        patches,
        lambda x: functional.pixel_shuffle(functional.interpolate(x, scale_factor=2), 2),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.PixelShuffle(2)),
    ]


def test_shuffles_and_patches(tmp_path: Path) -> None:
    assert compare_all(tmp_path, nn.Conv2d(3, 12, 3, padding=1), (3, 8, 12), functions()) < CLOSE


def test_of_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(Many(nn.Conv2d(3, 12, 3, padding=1), functions()))
    check_same(model, tmp_path, example_input=torch.rand(1, 3, 8, 12))


@pytest.mark.parametrize(
    "function",
    [lambda x: functional.pixel_shuffle(x, 2), lambda x: shuffled(x, 4), lambda x: functional.pixel_unshuffle(x, 2)],
)
def test_of_the_input_itself(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    assert compare_all(tmp_path, nn.Identity(), (8, 4, 6), [function]) < CLOSE


class Patched(nn.Module):
    """Patches become tokens of a linear layer, tokens an image again, as in masked autoencoders."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(12, 8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.outer(self.inner(patches(x)).relu())
        image: Tensor = tokens.reshape(1, 3, 4, 3, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return image.reshape(1, 3, 6, 8)


def test_patches_become_tokens_and_an_image_again(tmp_path: Path) -> None:
    assert compare_all(tmp_path, nn.Identity(), (3, 6, 8), [Patched()]) < CLOSE


def test_channels_of_sequences(tmp_path: Path) -> None:
    layer = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ChannelShuffle(2), nn.ReLU(), nn.Conv1d(6, 4, 3, groups=2))
    assert compare_all(tmp_path, layer, (3, 12), [lambda x: x.relu()]) < CLOSE


def test_images_without_a_batch_are_refused(tmp_path: Path) -> None:
    model = Many(nn.Conv2d(3, 4, 1), [lambda x: functional.pixel_shuffle(x[0], 2)])
    with pytest.raises(StructureError, match="C code"):
        export_c(model, tmp_path, example_input=torch.rand(1, 3, 4, 4))
