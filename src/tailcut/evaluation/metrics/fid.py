"""Fréchet distance between generated and real images in the feature space of a network (FID).

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017), equation 6.
There the features are those of Inception, which learned ImageNet (see `inception`); here they are those of the LeNet-5
of the zoo, trained on MNIST: they separate digits, and ship with the package. Distances by different features
cannot be compared.
"""

import torch
from torch import Tensor, nn

from tailcut.errors import ArgumentError
from tailcut.format import load
from tailcut.transform.exact import exact
from tailcut.transform.resizing import resized
from tailcut.weights import to_dense

FEATURE_NETWORK = "zoo:lenet5-ref"
NUM_FEATURES = 500  # neurons of its last hidden layer
CHANNELS, SIDE = 1, 28  # of the images that it reads


class Features(nn.Module):
    """Base of networks whose features the distance compares.

    Input: (batch, channels, height, width), pixels in 0..1. Output: (batch, num_features), without gradients.

    Attributes:
        metric: what the distance by these features is called.
        title: what they are, for people.
        num_features: length of a row.
        channels: how many channels images may have.
    """

    metric: str
    title: str
    num_features: int
    channels: tuple[int, ...]


class FeatureStatistics:
    """Mean and covariance of features that come batch by batch.

    Args:
        num_features: length of a row.

    Attributes:
        state: float64 (1 + num_features + num_features ** 2,): how many rows there were, their sum, and the sum of
            their outer products. States of several processes may be added.
    """

    def __init__(self, num_features: int = NUM_FEATURES) -> None:
        self._sizes = (1, num_features, num_features**2)
        self.state = torch.zeros(sum(self._sizes), dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add the rows of a batch, (batch, num_features)."""
        rows = exact(features)
        count = torch.tensor([len(rows)], dtype=torch.float64)
        self.state += torch.cat([count, rows.sum(0).cpu(), (rows.T @ rows).flatten().cpu()])

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (num_features,) and unbiased covariance (num_features, num_features) of all rows so far, in float64.

        Raises:
            ArgumentError: there were fewer than two.
        """
        count, total, products = self.state.split(self._sizes)
        if count < 2:
            raise ArgumentError(f"a covariance needs at least 2 images, got {int(count)}")
        mean = total / count
        products = products.view(len(total), len(total))
        return mean, (products - count * torch.outer(mean, mean)) / (count - 1)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """Return the squared Fréchet distance of two normal distributions: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)).

    Args:
        mean: (n,), in float64.
        covariance: (n, n), symmetric, no eigenvalue below 0; it may be singular.
        other_mean: of the other distribution.
        other_covariance: likewise.

    Returns:
        At least 0; 0 for equal distributions, up to rounding.

    Raises:
        ArgumentError: a mean or a covariance holds what is no finite number.

    >>> one, four = torch.eye(2).double(), 4 * torch.eye(2).double()
    >>> round(frechet_distance(torch.zeros(2).double(), one, torch.tensor([3.0, 0.0]).double(), four), 9)
    11.0
    """
    if not all(bool(part.isfinite().all()) for part in (mean, covariance, other_mean, other_covariance)):
        raise ArgumentError("a distance needs means and covariances of finite numbers; some here are NaN or infinite")
    # C C' and its similar R C' R, R the root of C, have the same eigenvalues; the second is symmetric.
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    eigenvalues = torch.linalg.eigvalsh(root @ other_covariance @ root)
    common = eigenvalues.clamp(min=0).sqrt().sum()
    distance = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * common
    return max(0.0, float(distance))


class FeatureNetwork(Features):
    """The last hidden layer of `FEATURE_NETWORK`, in evaluation mode.

    Input: (batch, 1, height, width), pixels in 0..1, resized to 28 x 28. Output: (batch, 500), none below 0.
    """

    metric, title = "fid", FEATURE_NETWORK
    num_features, channels = NUM_FEATURES, (CHANNELS,)

    def __init__(self) -> None:
        super().__init__()
        self.network = to_dense(load(FEATURE_NETWORK)).eval()
        self.network.fc2 = nn.Identity()  # what it gets is the last hidden layer

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, 500) of images, without gradients."""
        with torch.inference_mode():
            features: Tensor = self.network(resized(x, SIDE, SIDE))
        return features
