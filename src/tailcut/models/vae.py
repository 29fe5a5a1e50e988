"""Variational autoencoder for digits: Kingma and Welling, "Auto-Encoding Variational Bayes" (2014)."""

import torch
from torch import Tensor, nn

from tailcut.models.arguments import check_channels
from tailcut.structure import register_model

SIDE = 28


@register_model("vae", example_shape=(1, 1, SIDE, SIDE))
class VAE(nn.Module):
    """784 - 400 - 400 - (20, 20) and 20 - 400 - 400 - 784, with ReLU between; 971,200 weights and 2,424 biases.

    Input: (batch, 1, 28, 28), pixels in 0..1. Output: three tensors: the reconstruction (batch, 1, 28, 28) as
    logits of the pixels, and the mean and the logarithm of the variance of the code, (batch, latent_size) each.

    The code is drawn in training only; in evaluation it is the mean, so that an image has one reconstruction.
    971,200 is the count of Frequency Regularization's Table 4.

    Args:
        latent_size: length of the code.
        hidden: neurons of each hidden layer.
        bias: give each layer a bias.
        convolutional: make the first layer a convolution, and the last a transposed one, whose kernels are the whole
            image. The maps and the parameters' names are the same; but these two weights have shape (hidden, 1, 28,
            28), so that their transform sees the two axes of the image, and the last bias is one number for all
            pixels.

    Raises:
        ArgumentError: a count is not from 1 to 65,536.
    """

    def __init__(
        self, *, latent_size: int = 20, hidden: int = 400, bias: bool = True, convolutional: bool = False
    ) -> None:
        super().__init__()
        check_channels("vae", latent_size=latent_size, hidden=hidden)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, hidden, SIDE, bias=bias) if convolutional else nn.Linear(SIDE**2, hidden, bias=bias),
            nn.Sequential(nn.Flatten(), nn.ReLU()) if convolutional else nn.ReLU(),
            nn.Linear(hidden, hidden, bias=bias),
            nn.ReLU(),
        )
        self.mean = nn.Linear(hidden, latent_size, bias=bias)
        self.log_variance = nn.Linear(hidden, latent_size, bias=bias)
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, hidden, bias=bias),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=bias),
            nn.Sequential(nn.ReLU(), nn.Unflatten(1, (hidden, 1, 1))) if convolutional else nn.ReLU(),
            nn.ConvTranspose2d(hidden, 1, SIDE, bias=bias) if convolutional else nn.Linear(hidden, SIDE**2, bias=bias),
        )
        self.convolutional = convolutional

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction logits, mean and log variance of images (batch, 1, 28, 28)."""
        mean, log_variance = self.encode(x)
        code = mean
        if self.training:
            code = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        return self.decode(code), mean, log_variance

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the codes, (batch, latent_size) each, of images (batch, 1, 28, 28)."""
        features = self.encoder(x if self.convolutional else x.flatten(1))
        return self.mean(features), self.log_variance(features)

    def decode(self, code: Tensor) -> Tensor:
        """Logits of pixels (batch, 1, 28, 28) of codes (batch, latent_size)."""
        logits: Tensor = self.decoder(code)
        return logits if self.convolutional else logits.unflatten(1, (1, SIDE, SIDE))
