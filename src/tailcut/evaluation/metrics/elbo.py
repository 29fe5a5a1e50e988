"""Evidence lower bound (ELBO) of variational autoencoders."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def negative_elbo(outputs: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
    """Return the bound that a variational autoencoder minimises: reconstruction error plus divergence of the code.

    Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), equation 10, with one drawn code per image: the
    binary cross entropy of all pixels, plus the Kullback-Leibler divergence of the code's normal distribution from the
    standard one.

    Args:
        outputs: logits of the pixels (batch, channels, height, width), and mean and logarithm of the variance of the
            code, (batch, latent_size) each.
        images: (batch, channels, height, width), pixels in 0..1.

    Returns:
        (batch,), in nats.
    """
    logits, mean, log_variance = (output.float() for output in outputs)
    errors = binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(dim=1)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
    return errors + divergence
