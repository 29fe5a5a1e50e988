"""Inception features for the Fréchet distance, as in the papers on generative networks (extra `inception`).

The network and its weights are those of torch-fidelity: Inception v3 of December 2015 with TensorFlow's own resizing,
which Heusel et al. (2017) used. The weights (91 MB) do not come with any package.
"""

import tempfile
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from tailcut.errors import ArgumentError, DataError, importing_torchvision
from tailcut.evaluation.metrics.fid import Features
from tailcut.format.conversion.checkpoints import load_plain

NUM_FEATURES = 2048
_NAME, _COLORS, _GREY = "inception-v3-compat", 3, 1


class InceptionFeatures(Features):
    """The 2,048 pooled features of Inception v3, in evaluation mode.

    Input: (batch, 1 or 3, height, width), pixels in 0..1, of any size. Output: (batch, 2048), none below 0. Images
    are rounded to 8 bits, one channel is taken as grey, and the network resizes them to 299 x 299.

    Args:
        download: fetch the weights into torch's cache where they are not there.

    Raises:
        MissingExtraError: torch-fidelity is not installed, or its torchvision cannot be imported beside this torch.
        DataError: the weights are not there, cannot be fetched, or are damaged.
    """

    metric, title = "fid_inception", "Inception v3 (torch-fidelity)"
    num_features, channels = NUM_FEATURES, (_GREY, _COLORS)

    def __init__(self, *, download: bool = False) -> None:
        super().__init__()
        with importing_torchvision("Inception's features", "torch-fidelity", "inception"):
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
        file = _weights(URL_INCEPTION_V3, download)
        arguments = {"feature_extractor_weights_path": str(file)}
        try:
            # torch-fidelity unpickles anything; what is read here first, as tensors only, holds nothing else.
            load_plain(file, "meta")
            self.network = FeatureExtractorInceptionV3(_NAME, [str(NUM_FEATURES)], **arguments)
        except Exception as error:  # torch.load and load_state_dict raise of all kinds for a damaged file
            raise DataError(f"{file} does not hold the weights of Inception v3: {error}") from error

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, 2048) of images, without gradients."""
        if x.ndim != 4 or x.shape[1] not in self.channels:
            raise ArgumentError(f"Inception reads images (batch, 1 or 3, height, width), got {tuple(x.shape)}")
        with torch.inference_mode():
            pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, _COLORS, -1, -1)
            features: Tensor = self.network(pixels)[0]
        return features


def _weights(url: str, download: bool) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / url.rpartition("/")[2]
    if file.is_file():
        return file
    if not download:
        raise DataError(f"the weights of Inception v3 are not at {file}: allow the download, or put {url} there")
    folder.mkdir(parents=True, exist_ok=True)
    digest = file.stem.rpartition("-")[2]  # torch's custom: the hash's first digits end the name
    try:
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            part = Path(beside) / file.name
            torch.hub.download_url_to_file(url, str(part), hash_prefix=digest, progress=False)
            part.replace(file)
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(f"the weights of Inception v3 cannot be fetched from {url}: {error}") from error
    return file
