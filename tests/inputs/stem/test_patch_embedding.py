import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from tests import torchvision_operators
from torch import Tensor, nn

from tailcut import models as models
from tailcut.errors import ArgumentError, StructureError
from tailcut.format import load, save
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.stem.edit import transform_of
from tailcut.inputs.stem.patch_embedding import convert_patch_embedding, converted
from tailcut.inputs.stem.replace import describe_stem
from tailcut.inputs.transform.block_dct import BlockDCT
from tailcut.structure import create_model
from tailcut.weights import regularize

operators = torchvision_operators.supplied  # torchvision imports with them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TINY = {"image_size": 32, "patch_size": 16, "width": 12, "depth": 1, "num_heads": 2, "mlp_width": 8}


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, dtype=images.dtype)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def channels_by_hand(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """All 192 normalised channels of (batch, 3, h, w) in 0..1, chroma in full, by SciPy."""
    red, green, blue = np.moveaxis(images * 255, 1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = np.stack([luma - 128, (blue - luma) / 1.772, (red - luma) / 1.402], axis=1)
    batch, _, height, width = planes.shape
    blocks = planes.reshape(batch, 3, height // 8, 8, width // 8, 8)
    spectrum = dctn(blocks, axes=(3, 5), norm="ortho").transpose(0, 1, 3, 5, 2, 4)
    channels: np.ndarray = spectrum.reshape(batch, 192, height // 8, width // 8)
    scaled: np.ndarray = (channels - mean[:, None, None]) / std[:, None, None]
    return scaled


def statistics(transform: BlockDCT) -> BlockDCT:
    generator = torch.Generator().manual_seed(5)
    transform.mean.copy_(torch.randn(transform.num_channels, generator=generator) * 40)
    transform.std.copy_(torch.rand(transform.num_channels, generator=generator) * 90 + 1)
    return transform


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_the_same_tokens(size: int, bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 20, size, size, bias=bias, dtype=dtype)
    transform = statistics(BlockDCT(192, chroma="full").to(dtype))
    new = convert_patch_embedding(convolution, transform, mean=MEAN, std=STD)
    assert isinstance(new, nn.Conv2d)
    assert (new.kernel_size, new.stride, new.weight.dtype) == ((size // 8,) * 2, (size // 8,) * 2, dtype)
    assert convolution.in_channels == 3
    images = torch.rand(3, 3, 64, 96, dtype=dtype)
    expected = convolution(normalized(images))
    torch.testing.assert_close(new(transform(images)), expected, atol=tolerance, rtol=0)
    hand = channels_by_hand(images.double().numpy(), *(t.double().numpy() for t in (transform.mean, transform.std)))
    torch.testing.assert_close(new(torch.from_numpy(hand).to(dtype)), expected, atol=tolerance, rtol=0)


def test_two_scale_chroma_is_exact_for_flat_colours_and_grey_images() -> None:
    convolution = nn.Conv2d(3, 6, 16, 16, dtype=torch.float64)
    transform = statistics(BlockDCT(192).double())
    new = convert_patch_embedding(convolution, transform)
    grey = torch.rand(2, 1, 32, 32, dtype=torch.float64).expand(2, 3, 32, 32) * 0.5
    tinted = grey + torch.tensor([0.1, 0.0, 0.3], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(new(transform(tinted)), convolution(tinted), atol=1e-10, rtol=0)
    coloured = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert float((new(transform(coloured)) - convolution(coloured)).detach().abs().max()) > 1e-3


def test_frequencies_that_are_not_selected_count_as_zero() -> None:
    convolution = nn.Conv2d(3, 6, 16, 16, dtype=torch.float64)
    transform = statistics(BlockDCT(24, chroma="full").double())
    new = convert_patch_embedding(convolution, transform, mean=MEAN, std=STD)
    channels = transform(torch.rand(2, 3, 32, 32, dtype=torch.float64))
    expected = convolution(normalized(transform.inverse(channels)))
    torch.testing.assert_close(new(channels), expected, atol=1e-10, rtol=0)


def test_a_network_gives_the_same_and_is_restored_from_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("vit", **TINY).eval()
    images = torch.rand(4, 3, 32, 32)
    expected = model(normalized(images))
    transform = BlockDCT(192, chroma="full").fit([images])
    assert convert_patch_embedding(model, transform, mean=MEAN, std=STD) is model
    torch.testing.assert_close(model(transform(images)), expected, atol=2e-5, rtol=1e-4)
    save(model, tmp_path / "a.tailcut")
    restored = load(tmp_path / "a.tailcut")
    own = transform_of(restored)
    assert own is not None
    torch.testing.assert_close(restored(own(images)), expected, atol=2e-5, rtol=1e-4)
    assert describe_stem(restored).map_size == (4, 4)
    assert "patch_embedding" in str(describe_stem(restored))


def test_torchvisions_counts_of_pixels_are_divided(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision.models", reason="needs the extra detection")

    def build() -> Any:
        return torchvision.VisionTransformer(32, 16, 1, 2, 12, 8, num_classes=3).eval()

    model = build()
    nn.init.normal_(model.heads.head.weight)
    images = torch.rand(4, 3, 32, 32)
    expected = model(images)
    convert_patch_embedding(model)
    own = transform_of(model)
    assert own is not None
    torch.testing.assert_close(model(own(images)), expected, atol=1e-4, rtol=1e-4)
    assert (model.image_size, model.patch_size) == (4, 2)
    save(model, tmp_path / "a.tailcut")
    restored = load(tmp_path / "a.tailcut", into=build())
    torch.testing.assert_close(restored(own(images)), expected, atol=1e-4, rtol=1e-4)
    uneven = torchvision.VisionTransformer(36, 12, 1, 2, 12, 8)
    with pytest.raises(StructureError, match=r"conv_proj: expected a convolution .* multiples of 8, got Conv2d\(3, 12"):
        convert_patch_embedding(uneven)


class Patches(nn.Module):
    """A patch embedding that checks the size of its input by two numbers, as timm's does."""

    def __init__(self, img_size: Any, patch_size: Any) -> None:
        super().__init__()
        self.img_size, self.patch_size = img_size, patch_size
        self.proj = nn.Conv2d(3, 4, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        assert tuple(x.shape[2:]) == tuple(self.img_size)
        tokens: Tensor = self.proj(x).flatten(2)
        return tokens


class Backbone(nn.Module):
    def __init__(self, img_size: Any = (32, 32), patch_size: Any = (16, 16)) -> None:
        super().__init__()
        self.patch_embed = Patches(img_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.patch_embed(x)
        return tokens


@pytest.mark.parametrize("pair", [tuple, list])
def test_sizes_of_two_numbers_are_divided(pair: Callable[[Any], Any], tmp_path: Path) -> None:
    model, other = (Backbone(pair((32, 32)), pair((16, 16))) for _ in range(2))
    images = torch.rand(2, 3, 32, 32)
    expected = model(images)
    convert_patch_embedding(model)
    own = transform_of(model)
    assert own is not None
    torch.testing.assert_close(model(own(images)), expected, atol=1e-4, rtol=1e-4)
    assert model.patch_embed.img_size == pair((4, 4))
    assert model.patch_embed.patch_size == pair((2, 2))
    save(model, tmp_path / "a.tailcut")
    restored = load(tmp_path / "a.tailcut", into=other)
    torch.testing.assert_close(restored(own(images)), expected, atol=1e-4, rtol=1e-4)


def test_sizes_that_have_no_form_are_refused_unchanged() -> None:
    for sizes, message in (((32, 16), r"img_size=\(32, 16\); expected one number"), ((36, 36), "img_size=36")):
        model = Backbone(sizes)
        with pytest.raises(StructureError, match=message):
            convert_patch_embedding(model, example_input=torch.rand(1, 3, 32, 32))
        assert model.patch_embed.img_size == sizes
    two = nn.ModuleDict({"a": Backbone(), "b": Backbone()})
    with pytest.raises(ArgumentError, match=r"a\.patch_embed\.proj and b\.patch_embed\.proj: give the name"):
        convert_patch_embedding(two)


@pytest.mark.parametrize("kind", ["ViT", "CLIPVision", "Dinov2", "SiglipVision"])
def test_those_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model, other = (getattr(transformers, f"{kind}Model")(config).eval() for _ in range(2))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images).last_hidden_state
        convert_patch_embedding(model)
        own = transform_of(model)
        assert own is not None
        torch.testing.assert_close(model(own(images)).last_hidden_state, expected, atol=1e-4, rtol=1e-4)
        save(model, tmp_path / "a.tailcut")
        restored = load(tmp_path / "a.tailcut", into=other)
        torch.testing.assert_close(restored(own(images)).last_hidden_state, expected, atol=1e-4, rtol=1e-4)


def test_positions_in_pixels_are_refused_unchanged() -> None:
    """DINOv3's rotations count patches by `config.patch_size`: on channels it would see another number of them."""
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.DINOv3ViTConfig(**sizes, image_size=128, patch_size=8)
    model = transformers.DINOv3ViTModel(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(StructureError, match="keeps a patch size or positions in pixels"):
        convert_patch_embedding(model, name="embeddings.patch_embeddings")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert transform_of(model) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_type_takes_what_its_transform_gives(dtype: torch.dtype) -> None:
    model = Wrapped().to(dtype)
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    expected = model(images.to(dtype) / 255)
    convert_patch_embedding(model, statistics(BlockDCT(192, chroma="full")), name="tokens")
    transform = transform_of(model)
    assert transform is not None
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(model(transform(images)), expected, atol=tolerance, rtol=tolerance)


class Wrapped(nn.Module):
    """A patch embedding of its own name, with something before it or not."""

    def __init__(self, size: int = 8, *, early: bool = False) -> None:
        super().__init__()
        self.early = nn.BatchNorm2d(3) if early else None
        self.tokens = nn.Conv2d(3, 4, size, size)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.tokens(x if self.early is None else self.early(x)).flatten(2)
        return tokens


def test_own_names() -> None:
    model = Wrapped().double()
    images = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    expected = model(images)
    with pytest.raises(ArgumentError, match="give the name"):
        convert_patch_embedding(copy.deepcopy(model))
    convert_patch_embedding(model, name="tokens")
    transform = transform_of(model)
    assert transform is not None
    torch.testing.assert_close(model(transform(images)), expected, atol=1e-6, rtol=0)
    with pytest.raises(StructureError, match="early runs first; tokens must be the first module"):
        convert_patch_embedding(Wrapped(early=True), name="tokens")
    with pytest.raises(StructureError, match="runs all its children"):
        convert_patch_embedding(nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten()), name="0")


class Bright(Wrapped):
    """Looks at its input once more."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = super().forward(x)
        return tokens + 10 * x.mean(dim=(1, 2, 3))[:, None, None]


class Sized(Wrapped):
    """Gives a map as large as its input."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.tokens(x), x.shape[2:])


def test_a_second_look_at_the_input_is_refused_and_another_size_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StructureError, match="looks at its input elsewhere"):
        convert_patch_embedding(Bright(), name="tokens")
    assert not caplog.messages
    convert_patch_embedding(Sized(), name="tokens")
    assert "gives outputs of (1, 4, 28, 28), before of (1, 4, 224, 224)" in caplog.text


def test_a_network_without_numbers_is_converted() -> None:
    with torch.device("meta"):
        model, numbers = create_model("vit", **TINY), Sized()
    for network, name in ((model, None), (numbers, "tokens")):
        convert_patch_embedding(network, name=name)
        assert all(tensor.is_meta for tensor in network.parameters())
        assert transform_of(network) is not None


class Changing(Wrapped):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = super().forward(x)
        x.mul_(1.5)
        return tokens


def test_an_example_of_several_images_is_left_as_it_is() -> None:
    example = torch.rand(2, 3, 32, 32)
    model = Changing()
    expected = model(example.clone())
    convert_patch_embedding(model, name="tokens", example_input=example.clone())
    transform = transform_of(model)
    assert transform is not None
    torch.testing.assert_close(model(transform(example)), expected, atol=1e-4, rtol=1e-4)


class Placed(Wrapped):
    """Has places for the tokens of images of 16 x 24 pixels alone."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.places


def test_a_network_of_its_own_image_size(tmp_path: Path) -> None:
    model = Placed()
    images = torch.rand(2, 3, 16, 24)
    expected = model(images)
    with pytest.raises(StructureError, match=r"image of shape \(1, 3, 224, 224\) .*; give pixels that it takes"):
        convert_patch_embedding(model, name="tokens")
    with pytest.raises(ArgumentError, match=r"multiples of 8, got \(1, 3, 16, 20\)"):
        convert_patch_embedding(model, name="tokens", example_input=torch.rand(1, 3, 16, 20))
    convert_patch_embedding(model, name="tokens", example_input=images)
    transform = transform_of(model)
    assert transform is not None
    torch.testing.assert_close(model(transform(images)), expected, atol=1e-5, rtol=1e-5)
    assert describe_stem(model).map_size == (2, 3)
    save(model, tmp_path / "a.tailcut")
    restored = load(tmp_path / "a.tailcut", into=Placed())
    torch.testing.assert_close(restored(transform(images)), expected, atol=1e-5, rtol=1e-5)


def test_a_normalisation_in_the_forward_is_refused() -> None:
    class Normalised(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x - 0.5) / 0.5)

    model = Normalised()
    with pytest.raises(StructureError, match="between the input and tokens the forward does more than call modules"):
        convert_patch_embedding(model, name="tokens")
    assert isinstance(model.tokens, nn.Conv2d)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 4, 7, 7),
        nn.Conv2d(3, 4, 12, 12),
        nn.Conv2d(3, 4, 16, 8),
        nn.Conv2d(3, 4, (8, 16), (8, 16)),
        nn.Conv2d(1, 4, 8, 8),
        nn.Conv2d(3, 3, 8, 8, groups=3),
        nn.Conv2d(3, 4, 8, 8, padding=1),
        nn.Conv2d(3, 4, 8, 8, dilation=2),
    ],
    ids=str,
)
def test_what_is_no_patch_embedding(convolution: nn.Conv2d) -> None:
    with pytest.raises(StructureError, match="kernel and stride are equal and multiples of 8"):
        convert_patch_embedding(convolution)


def test_bad_arguments() -> None:
    for options in ({"mean": (0.5,)}, {"std": (1.0, 1.0)}, {"std": (1.0, 0.0, 1.0)}):
        with pytest.raises(ArgumentError, match="three numbers each, std above 0"):
            convert_patch_embedding(nn.Conv2d(3, 4, 8, 8), **options)
    with pytest.raises(ArgumentError, match=r"transform must be a BlockDCT, .*; got 'tokens'"):
        convert_patch_embedding(Wrapped(), "tokens")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="name: the model has no module 'x'"):
        convert_patch_embedding(Wrapped(), name="x")
    model = create_model("vit", **TINY)
    with pytest.raises(StructureError, match="blocks is a Sequential, not a convolution"):
        convert_patch_embedding(model, name="blocks")
    regularize(model, keep_ratio=0.5)
    with pytest.raises(StructureError, match="replace the stem first"):
        convert_patch_embedding(model)


def test_the_numbers_are_computed_in_double() -> None:
    convolution = nn.Conv2d(3, 4, 8, 8).half()
    weight, bias = converted(convolution, BlockDCT(Selection.of(24)), MEAN, STD)
    assert (weight.dtype, bias.dtype, weight.shape) == (torch.float64, torch.float64, (4, 24, 1, 1))


@pytest.mark.parametrize("trains", [False, True])
def test_a_frozen_embedding_stays_frozen(trains: bool) -> None:
    model = create_model("vit", **TINY).requires_grad_(trains)
    convert_patch_embedding(model)
    assert {parameter.requires_grad for parameter in model.parameters()} == {trains}
    alone = convert_patch_embedding(nn.Conv2d(3, 4, 16, 16).requires_grad_(trains))
    assert {parameter.requires_grad for parameter in alone.parameters()} == {trains}
