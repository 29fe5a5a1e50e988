import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import idctn
from torch import Tensor

from tailcut.data import open_dataset
from tailcut.errors import ArgumentError
from tailcut.models import UNet
from tailcut.structure import base_of, create_model, family

PUBLISHED: dict[str, Any] = {"bias": False, "affine": False, "running_stats": False}


def count(**arguments: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet(**arguments).parameters())


def test_counts_of_the_paper() -> None:
    assert count() == 31_043_586 == 31_024_960 + 11_776 + 6_850
    assert count(**PUBLISHED) == 31_024_960
    assert count(bias=False, affine=True) == 31_024_960 + 11_776
    assert count(bias=True, affine=False) == 31_024_960 + 6_850


def test_counts_of_the_reference_with_bilinear_enlarging() -> None:
    # what torchsummary prints for milesial's UNet(3, 1), bilinear, with biases
    assert count(bilinear=True, num_classes=1) == 17_267_393


def test_running_stats_are_buffers() -> None:
    with torch.device("meta"):
        with_stats, without = UNet(), UNet(running_stats=False)
    assert len(list(with_stats.buffers())) == 18 * 3
    assert not list(without.buffers())


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (63, 34), (50, 97)])
@pytest.mark.parametrize("widths", [(2, 3, 4, 5, 6), (4, 4, 4, 4, 4), (8, 2, 5, 1, 7), (1, 1, 1, 1, 2)])
def test_output_has_the_size_of_the_input(bilinear: bool, size: tuple[int, int], widths: tuple[int, ...]) -> None:
    model = UNet(in_channels=2, num_classes=5, widths=widths, bilinear=bilinear)
    assert model(torch.rand(2, 2, *size)).shape == (2, 5, *size)
    assert model.eval()(torch.rand(1, 2, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize(("widths", "smallest"), [((3, 4), 4), ((2, 3, 4), 8), ((2,) * 6, 64)])
def test_smallest_image(widths: tuple[int, ...], smallest: int) -> None:
    model = UNet(widths=widths, **PUBLISHED)
    assert model(torch.rand(1, 3, smallest, smallest)).shape == (1, 2, smallest, smallest)
    for shape in ((1, 3, smallest - 1, smallest), (1, 3, smallest, smallest - 1), (3, smallest, smallest)):
        with pytest.raises(ArgumentError, match=f"height and width at least {smallest}; got"):
            model(torch.rand(shape))


def test_forward_of_the_smallest_network_by_hand() -> None:
    """Two scales, every convolution written out with torch's functions in float64."""
    torch.manual_seed(0)
    f = torch.nn.functional
    model = UNet(in_channels=1, widths=(2, 4), running_stats=False).double()
    numbers = dict(model.named_parameters())

    def double_conv(x: Tensor, name: str) -> Tensor:
        for conv, norm in (("0", "1"), ("3", "4")):
            x = f.conv2d(x, numbers[f"{name}.{conv}.weight"], numbers[f"{name}.{conv}.bias"], padding=1)
            x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
            x = x * numbers[f"{name}.{norm}.weight"].view(1, -1, 1, 1) + numbers[f"{name}.{norm}.bias"].view(
                1, -1, 1, 1
            )
            x = x.clamp(min=0)
        return x

    with torch.no_grad():
        for name, parameter in numbers.items():
            if name.endswith(("1.weight", "4.weight", "1.bias", "4.bias")):
                parameter.add_(torch.rand_like(parameter))  # else batch norm's scale and shift would be 1 and 0
    image = torch.rand(2, 1, 7, 5, dtype=torch.float64)
    skip = double_conv(image, "inc.double_conv")
    deep = double_conv(f.max_pool2d(skip, 2), "down1.maxpool_conv.1.double_conv")
    up = f.conv_transpose2d(deep, numbers["up1.up.weight"], numbers["up1.up.bias"], stride=2)
    padded = torch.zeros(2, 2, 7, 5, dtype=torch.float64)
    padded[:, :, :6, :4] = up
    joined = double_conv(torch.cat([skip, padded], dim=1), "up1.conv.double_conv")
    expected = f.conv2d(joined, numbers["outc.conv.weight"], numbers["outc.conv.bias"])
    torch.testing.assert_close(model(image), expected)
    torch.testing.assert_close(model.eval()(image), expected, msg="no running statistics: evaluation is the same")


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = UNet(widths=(4, 4, 4), **PUBLISHED)
    model(torch.rand(2, 3, 21, 18)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_registered() -> None:
    arguments: dict[str, Any] = {"widths": (4, 8), "bilinear": True, "running_stats": False}
    model = create_model("unet", **arguments)
    assert isinstance(model, UNet)
    base = base_of(model)
    assert base is not None
    assert (base.name, dict(base.arguments)) == ("unet", arguments)
    order = ["in_channels", "num_classes", "widths", "bilinear", "bias", "affine", "running_stats"]
    assert list(family("unet").defaults) == order, "the order is stored"
    assert family("unet").example_shape() == (1, 3, 32, 32)
    shape = family("unet").example_shape(widths=(4, 8), in_channels=1)
    assert shape == (1, 1, 4, 4)
    assert create_model("unet", widths=(4, 8), in_channels=1)(torch.zeros(shape)).shape == (1, 2, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels"),
        ({"num_classes": -2}, "num_classes"),
        ({"widths": (4,)}, "2 to 16 numbers, got 1"),
        ({"widths": ()}, "2 to 16 numbers, got 0"),
        ({"widths": (1,) * 17}, "2 to 16 numbers, got 17"),
        ({"widths": (4, 0, 4)}, r"widths\[1\]"),
        ({"widths": (4, 2**40)}, r"widths\[1\]"),
        ({"widths": (1, 1), "bilinear": True}, "last width must be at least 2"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"unet: .*{message}"):
        UNet(**arguments)


@pytest.fixture(scope="module")
def published_coefficients(carvana_root: Path) -> dict[str, Tensor]:
    """The authors' checkpoint: 23 sparse tensors of orthonormal DCT coefficients."""
    with tarfile.open(carvana_root / "carvana" / "published" / "unet_fr.tar.xz") as archive:
        file = archive.extractfile("unet_fr.pt")
        assert file is not None
        stored: dict[str, Tensor] = torch.load(io.BytesIO(file.read()), weights_only=True)
    return stored


def test_published_checkpoint_fits_tensor_by_tensor(published_coefficients: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        model = UNet(**PUBLISHED)
    expected = [(name, value.shape) for name, value in published_coefficients.items()]
    assert [(name, value.shape) for name, value in model.state_dict().items()] == expected
    assert len(expected) == 23


@pytest.mark.slow
def test_published_network_has_the_published_dice(
    carvana_root: Path, published_coefficients: dict[str, Tensor]
) -> None:
    """Independent of our transform: SciPy decodes the weights.

    On one photo, which takes some seconds; tests/docs/test_results.py has the mean of all of them.
    """
    model = create_model("unet", **PUBLISHED).eval()
    weights = {
        name: torch.from_numpy(idctn(value.to_dense().numpy(), norm="ortho").astype(np.float32))
        for name, value in published_coefficients.items()
    }
    model.load_state_dict(weights)
    image, mask = open_dataset("carvana", "published", roots=carvana_root)[2]
    with torch.inference_mode():
        predicted = model(image[None])[0].argmax(dim=0)
    dice = 2 * int((predicted & mask).sum()) / int(predicted.sum() + mask.sum())
    assert dice == pytest.approx(0.9747, abs=5e-5)
