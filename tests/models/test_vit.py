from typing import Any

import pytest
import torch
from tests.models.by_hand import ByHand, image, on_meta
from torch import Tensor
from torch.nn import functional as f

from tailcut.counting import count_macs, count_parameters
from tailcut.errors import ArgumentError
from tailcut.models import VisionTransformer
from tailcut.models.vit import without_patches


def test_counts_of_frequency_regularization() -> None:
    """Table 2's ViT-ref: 9,500,672."""
    model = on_meta(VisionTransformer)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.ndim > 1}
    assert sizes.pop("class_token") + sizes.pop("position") == 33_792
    assert sum(sizes.values()) == 9_466_880 == 9_500_672 - 33_792
    norms = sum(parameter.numel() for name, parameter in model.named_parameters() if "norm" in name)
    assert norms == 13_312
    assert count_parameters(model) == 9_500_672 + 9_738 + norms


def test_macs_by_hand() -> None:
    per_block = 65 * (4 * 512 * 512 + 2 * 512 * 512) + 2 * 65 * 65 * 512
    expected = 64 * 48 * 512 + 6 * per_block + 512 * 10
    counted = count_macs(on_meta(VisionTransformer), torch.empty(1, 3, 32, 32))
    assert counted.total == expected
    assert counted.layers["blocks.3.attention"] == 2 * 65 * 65 * 512


def attention(by: ByHand, x: Tensor, name: str, num_heads: int) -> Tensor:
    """The oracle: a loop over heads and a softmax."""
    width = x.shape[2]
    size = width // num_heads
    queries, keys, values = by.linear(x, f"{name}.qkv").split(width, dim=2)
    mixed = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        scores = queries[:, :, part] @ keys[:, :, part].transpose(1, 2) / size**0.5
        mixed.append(scores.softmax(-1) @ values[:, :, part])
    return by.linear(torch.cat(mixed, 2), f"{name}.projection")


def test_forward() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=12, patch_size=3, width=10, depth=2, num_heads=5, mlp_width=7, num_classes=4, dropout=0.3
    )
    by, x = ByHand(model), image(2, 3, 12, 12)
    weight = by.numbers["patch_embedding.weight"].flatten(1)
    rows = x.unfold(2, 3, 3).unfold(3, 3, 3).permute(0, 2, 3, 1, 4, 5).reshape(2, 16, 27)  # patches, row by row
    patches = rows @ weight.T + by.numbers["patch_embedding.bias"]
    tokens = torch.cat([by.numbers["class_token"].expand(2, -1, -1), patches], 1) + by.numbers["position"]
    for block in ("blocks.0", "blocks.1"):
        tokens = tokens + attention(by, by.layer_norm(tokens, f"{block}.norm1"), f"{block}.attention", 5)
        hidden = f.gelu(by.linear(by.layer_norm(tokens, f"{block}.norm2"), f"{block}.mlp.0"))
        tokens = tokens + by.linear(hidden, f"{block}.mlp.3")
    expected = by.linear(by.layer_norm(tokens, "norm")[:, 0], "head")
    torch.testing.assert_close(model(x), expected)
    assert not torch.equal(model.train()(x), model(x)), "dropout is drawn in training"


def test_patch_dropout_keeps_the_class_token_and_whole_patches() -> None:
    torch.manual_seed(0)
    tokens = torch.arange(9.0).expand(50, 9).unsqueeze(2).repeat(1, 1, 3) + torch.tensor([0.0, 0.25, 0.5])
    kept = without_patches(tokens, 0.7)
    assert kept.shape == (50, 3, 3)  # the class token and 30 % of eight patches
    places = kept[:, :, 0]
    assert torch.equal(kept, places.unsqueeze(2) + torch.tensor([0.0, 0.25, 0.5]))
    assert (places[:, 0] == 0).all()
    assert (places.diff(dim=1) > 0).all(), "each patch once, in order"
    assert set(places[:, 1:].flatten().tolist()) == set(range(1, 9)), "each image draws its own"
    assert without_patches(tokens, 0.99).shape == (50, 2, 3), "one patch is left at least"


def test_patch_dropout_is_of_training_alone() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(width=8, num_heads=2, depth=2, mlp_width=4, patch_dropout=0.5)
    tokens: list[int] = []
    model.blocks.register_forward_hook(lambda _module, args, _output: tokens.append(args[0].shape[1]))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        model.train()(x)
        assert torch.equal(model.eval()(x), model(x))
    assert tokens == [33, 65, 65]


def test_class_token_and_position_are_trained() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(width=8, num_heads=2, depth=1, mlp_width=4)
    model(torch.rand(2, 3, 32, 32)).square().sum().backward()
    for parameter in (model.class_token, model.position):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be"),
        ({"depth": 0}, "depth must be"),
        ({"image_size": 30}, "image_size must be a multiple of patch_size, got image_size=30, patch_size=4"),
        ({"num_heads": 7}, "width must be a multiple of num_heads, got width=512, num_heads=7"),
        ({"patch_size": 0}, "patch_size must be"),
        ({"dropout": -1}, "dropout must be"),
        ({"patch_dropout": 1}, "patch_dropout must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"vit: {message}"):
        VisionTransformer(**arguments)
