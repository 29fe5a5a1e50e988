"""UNet in the form of the reference implementation used by the Frequency Regularization paper.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015), with padded
convolutions and batch norm. The names and the order of the modules are those of the common PyTorch
implementation (milesial/Pytorch-UNet), so that its checkpoints fit tensor by tensor.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tailcut.errors import ArgumentError
from tailcut.models.arguments import check_channels
from tailcut.structure import register_model

MAX_SCALES = 16  # a smallest image of 65,536 pixels a side


def _example_shape(*, in_channels: int, widths: tuple[int, ...], **_: object) -> tuple[int, ...]:
    side = 2 ** len(widths)
    return 1, in_channels, side, side


@register_model("unet", example_shape=_example_shape)
class UNet(nn.Module):
    """The encoder and decoder with skip connections; for 3 channels and 2 classes 31,024,960 weights.

    Input: (batch, in_channels, height, width), pixels in 0..1; any height and width from 32 (for five
    widths; 2 ** len(widths) in general). Output: (batch, num_classes, height, width), logits.

    With the defaults it has 31,043,586 parameters: 31,024,960 weights, 11,776 of batch norm and 6,850
    biases, as in the paper's Table 3. The network that the paper's authors published has `bias=False,
    affine=False, running_stats=False`: 23 weights and nothing else. Without running statistics batch norm
    uses those of the batch in evaluation too; give such a network one image at a time, or the answer for an
    image depends on its neighbours.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the output.
        widths: channels at each scale, from the full size down; each scale halves the size.
        bilinear: enlarge by bilinear interpolation, with half the channels at the lowest scale, instead of
            by learned transposed convolutions.
        bias: give every convolution, transposed or not, a bias. (Newer versions of the implementation named
            above leave out those of the 3 x 3 convolutions, which batch norm cancels; the paper counts them.)
        affine: let batch norm learn a scale and a shift per channel.
        running_stats: let batch norm collect running statistics for evaluation.

    Raises:
        ArgumentError: a count is not positive, or there are fewer than 2 widths.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 2,
        widths: tuple[int, ...] = (64, 128, 256, 512, 1024),
        bilinear: bool = False,
        bias: bool = True,
        affine: bool = True,
        running_stats: bool = True,
    ) -> None:
        super().__init__()
        _check_arguments(in_channels, num_classes, widths, bilinear)
        self.num_scales = len(widths)
        switches = (bias, affine, running_stats)
        self.inc = DoubleConv(in_channels, widths[0], widths[0], *switches)
        deep = widths[0]
        for scale in range(1, self.num_scales):
            halved = bilinear and scale == self.num_scales - 1
            shallow, deep = deep, widths[scale] // 2 if halved else widths[scale]
            self.add_module(f"down{scale}", Down(DoubleConv(shallow, deep, deep, *switches)))
        for step in range(1, self.num_scales):
            scale = self.num_scales - 1 - step
            skip = widths[scale]
            if bilinear:
                up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
                joined, out = deep + skip, widths[max(scale - 1, 0)]
                conv = DoubleConv(joined, joined // 2, out, *switches)
            else:
                up = nn.ConvTranspose2d(deep, skip, kernel_size=2, stride=2, bias=bias)
                out = skip
                conv = DoubleConv(2 * skip, out, out, *switches)
            self.add_module(f"up{step}", Up(up, conv))
            deep = out
        self.outc = OutConv(deep, num_classes, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes, height, width) of images (batch, in_channels, height, width).

        Raises:
            ArgumentError: the image is too small for the number of scales.
        """
        smallest = 2**self.num_scales
        if x.ndim != 4 or x.shape[2] < smallest or x.shape[3] < smallest:
            raise ArgumentError(
                f"unet: with {self.num_scales} scales the input must be (batch, channels, height, width), "
                f"height and width at least {smallest}; got {tuple(x.shape)}"
            )
        maps = [self.inc(x)]
        for scale in range(1, self.num_scales):
            maps.append(self.get_submodule(f"down{scale}")(maps[-1]))
        x = maps.pop()
        for step in range(1, self.num_scales):
            x = self.get_submodule(f"up{step}")(x, maps.pop())
        logits: Tensor = self.outc(x)
        return logits


class DoubleConv(nn.Module):
    """Twice: 3 x 3 convolution, batch norm, ReLU. Size unchanged."""

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        bias: bool,
        affine: bool,
        running_stats: bool,
    ) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(mid_channels, affine=affine, track_running_stats=running_stats),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(out_channels, affine=affine, track_running_stats=running_stats),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        y: Tensor = self.double_conv(x)
        return y


class Down(nn.Module):
    """Max pooling that halves the size, then two convolutions."""

    def __init__(self, conv: DoubleConv) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), conv)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height // 2, width // 2)."""
        y: Tensor = self.maxpool_conv(x)
        return y


class Up(nn.Module):
    """Enlarge by 2, pad to the size of the skip connection, join with it, then two convolutions."""

    def __init__(self, up: nn.Module, conv: DoubleConv) -> None:
        super().__init__()
        self.up = up
        self.conv = conv

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(batch, deep, h, w) and (batch, channels, height, width) to (batch, out, height, width)."""
        x = self.up(x)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        y: Tensor = self.conv(torch.cat([skip, x], dim=1))
        return y


class OutConv(nn.Module):
    """The 1 x 1 convolution to the classes."""

    def __init__(self, in_channels: int, num_classes: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, num_classes, height, width)."""
        y: Tensor = self.conv(x)
        return y


def _check_arguments(in_channels: int, num_classes: int, widths: tuple[int, ...], bilinear: bool) -> None:
    check_channels("unet", in_channels=in_channels, num_classes=num_classes)
    if not 2 <= len(widths) <= MAX_SCALES:
        raise ArgumentError(f"unet: widths must be 2 to {MAX_SCALES} numbers, got {len(widths)}: {widths}")
    for scale, width in enumerate(widths):
        check_channels("unet", **{f"widths[{scale}]": width})
    if bilinear and widths[-1] < 2:
        raise ArgumentError(f"unet: with bilinear=True the last width must be at least 2, got {widths[-1]}")
