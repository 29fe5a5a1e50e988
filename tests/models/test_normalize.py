import numpy as np
import torch

from tailcut.models.normalize import Normalize


def test_normalisation_is_imagenets() -> None:
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    mean, spread = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (x.numpy() - mean[:, None, None]) / spread[:, None, None]
    np.testing.assert_allclose(Normalize()(x).numpy(), expected, rtol=1e-14)
    assert not list(Normalize().state_dict())
