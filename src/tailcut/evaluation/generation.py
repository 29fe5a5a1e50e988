"""Evaluation of generative networks: their samples, and the distance of these from a data set.

A variational autoencoder (`vae`) makes images with its decoder, a GAN with its generator (`dcgan_generator`). Both
turn codes of normal random numbers into images.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from tailcut.data import Dataset, Roots, open_dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.evaluate import (
    PROGRESS_INTERVAL,
    EvaluateReport,
    file_at_level,
    own_share,
    run_in_processes,
    runnable,
)
from tailcut.evaluation.metrics.class_metrics import StreamingMean
from tailcut.evaluation.metrics.elbo import negative_elbo
from tailcut.evaluation.metrics.fid import FeatureNetwork, Features, FeatureStatistics, frechet_distance
from tailcut.evaluation.metrics.inception import InceptionFeatures
from tailcut.format import load
from tailcut.models import VAE, DCGANGenerator
from tailcut.runtime.progress import live_progress
from tailcut.runtime.share import Share
from tailcut.structure import source_of
from tailcut.transform.resizing import resized
from tailcut.weights import to_dense

if TYPE_CHECKING:  # it needs an extra, which one process does without
    from tailcut.runtime.devices import Devices

NUM_SAMPLES = 10_000
BATCH_SIZE = 250
FEATURES = ("lenet5", "inception")
MAX_SEED = 2**64 - 1  # of torch
GENERATORS = (VAE, DCGANGenerator)


@dataclass
class GenerationReport(EvaluateReport):
    """The figures of a network that makes images; `metrics` are those of `evaluate_generator`.

    Attributes:
        num_generated: how many images it made.
        seed: of their codes.
        features: the network whose features the Fréchet distance compares.
    """

    num_generated: int
    seed: int
    features: str

    def __str__(self) -> str:
        """Return one row, and the data that the distance compares."""
        distance = next(iter(self.metrics))
        return (
            f"{super().__str__()}\n\n{distance}: {self.num_generated:,} made images (seed {self.seed}) against the "
            f"{self.num_images:,} real ones, by the features of {self.features}"
        )


class ImagesOfCodes(nn.Module):
    """Images (batch, channels, height, width) of 0 to 1 that a generative network makes of codes (batch, code_size)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> Tensor:
        """Return the images of these codes."""
        if isinstance(source_of(self.model), VAE):
            return cast(VAE, self.model).decode(codes).sigmoid()
        images: Tensor = (self.model(codes) + 1) / 2
        return images


class Sampler:
    """Sampler of a generative network. The model is not changed: a copy of it runs, in evaluation mode.

    Args:
        model: a `VAE` or a `DCGANGenerator`, regularised or not.
        device: where to run.
        dense: see `runnable`; a VAE runs with dense weights always.

    Attributes:
        code_size: how many random numbers an image is made of.
        vae: the whole network that runs, if it is a VAE.

    Raises:
        ArgumentError: another kind of network.
    """

    vae: VAE | None = None

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu", *, dense: bool = False) -> None:
        source = source_of(model)
        network: nn.Module
        if isinstance(source, VAE):
            network = self.vae = to_dense(source).to(device).eval()
            self.code_size = self.vae.mean.out_features
        elif isinstance(source, DCGANGenerator):
            network = runnable(source, device, dense=dense)
            self.code_size = cast(nn.ConvTranspose2d, source.main[0]).in_channels
        else:
            raise ArgumentError(f"{type(source).__name__} makes no images; vae and dcgan_generator do")
        self._device, self._decode = device, ImagesOfCodes(network)
        self._dtype = next(network.parameters()).dtype

    def __call__(self, codes: Tensor) -> Tensor:
        """Images (batch, channels, height, width) in 0..1 of codes (batch, code_size), on the sampler's device."""
        with torch.inference_mode():
            images: Tensor = self._decode(codes.to(self._device, self._dtype))
        return images.float()


def latent_codes(sampler: Sampler, num_samples: int, seed: int) -> Tensor:
    """Return standard normal latent codes (num_samples, code_size) on the CPU; the same for the same seed.

    Raises:
        ArgumentError: there are no samples or more than memory holds, or the seed is negative or above `MAX_SEED`.
    """
    if num_samples < 1 or seed < 0:
        raise ArgumentError(f"num_samples must be at least 1 and seed at least 0, got {num_samples} and {seed}")
    if seed > MAX_SEED:
        raise ArgumentError(f"seed must be at most {MAX_SEED}, got {seed}")
    try:
        return torch.randn(num_samples, sampler.code_size, generator=torch.Generator().manual_seed(seed))
    except (RuntimeError, TypeError) as error:  # of the allocator; of a number above 64 bits
        raise ArgumentError(
            f"num_samples: the memory does not hold {num_samples:,} codes of {sampler.code_size} numbers; ask for fewer"
        ) from error


def evaluate_generator(
    model: nn.Module,
    dataset: Dataset,
    *,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    features: Features | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    share: Share | None = None,
    dense: bool = False,
    progress: bool = False,
) -> dict[str, float]:
    """Return the metrics of a generative network. The model is not changed: a copy of it is evaluated.

    Real images are brought to the size of the made ones first: all that the network could have learned from.

    Args:
        model: a `VAE` or a `DCGANGenerator`, regularised or not.
        dataset: the real images, of as many channels as the made ones.
        num_samples: how many images are made.
        seed: of their codes.
        features: what the distance compares, on the same device: `InceptionFeatures` or another of
            `fid.Features`; `fid.FeatureNetwork` when None.
        batch_size: images per forward; 250 when None.
        device: where to run: `auto`, or a device that torch knows; where the model is when None.
        share: instead of `device`, in one process of several: where to run, and which part of the work.
        dense: see `Sampler`.
        progress: show on standard error how far it is.

    Returns:
        `{"fid": ...}`, the Fréchet distance (at least 0) of made and real images by the features (under their
        `metric`, `fid_inception` by Inception's); of a VAE also `elbo`, the mean bound on the logarithm of a real
        image's likelihood in nats (at most 0; see `elbo.negative_elbo`). Both do not depend on batches and
        processes, up to rounding.

    Raises:
        ArgumentError: the model makes no images, they do not fit the data set's, they are no numbers, or there is no
            such device.
    """
    share = own_share(model, device, share)
    sampler = Sampler(model, share.device, dense=dense)
    size = BATCH_SIZE if batch_size is None else batch_size
    if size < 1 or num_samples < 2:
        raise ArgumentError(f"batch_size must be at least 1 and num_samples at least 2, got {size} and {num_samples}")
    codes = latent_codes(sampler, num_samples, seed)
    noise = latent_codes(sampler, len(dataset), (seed + 1) % (MAX_SEED + 1))
    network = FeatureNetwork().to(share.device) if features is None else features
    shape = _check_images(sampler, dataset, network)
    made, real = FeatureStatistics(network.num_features), FeatureStatistics(network.num_features)
    elbo = StreamingMean()
    with live_progress(progress, "images", num_samples + len(dataset), interval=PROGRESS_INTERVAL) as bar:
        for start in range(0, num_samples, size)[share.rank :: share.num_processes]:
            made.update(network(sampler(codes[start : start + size])))
            bar.show(min(start + size, num_samples))
        positions = dataset.in_order(size)[share.rank :: share.num_processes]
        for place, (pixels, _) in zip(positions, dataset.batches(positions), strict=True):
            start, stop = place.start, place.stop
            images = resized(pixels.to(share.device), *shape)
            real.update(network(images))
            if sampler.vae is not None:
                elbo.update(-_with_drawn_code(sampler.vae, images, noise[start:stop]))
            bar.show(num_samples + stop)
    for state in (made, real, elbo):
        state.state = share.total(state.state)
    if not bool(made.state.isfinite().all()):
        raise ArgumentError(
            "the network's images are not numbers (NaN or infinite), so they have no distance to real ones; its "
            "training diverged or its file is damaged"
        )
    distance = frechet_distance(*made.moments(), *real.moments())
    return {network.metric: distance} | ({} if sampler.vae is None else {"elbo": elbo.value()})


def evaluate_generator_file(
    path: str | Path,
    data: str,
    split: str | None = None,
    *,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    features: str = FEATURES[0],
    roots: Roots = None,
    batch_size: int | None = None,
    device: str = "auto",
    devices: "Devices | None" = None,
    download: bool = False,
    dense: bool = False,
    progress: bool = False,
    level: int | None = None,
) -> GenerationReport:
    """Evaluate the .tailcut file of a network that makes images; see `evaluate_generator` and `evaluate_file`.

    `features` is one of `FEATURES`; `download` fetches Inception's weights too.
    """
    if features not in FEATURES:
        raise ArgumentError(f"features must be one of {', '.join(FEATURES)}, got {features!r}")

    def measure(share: Share) -> GenerationReport:
        network: Features = FeatureNetwork() if features == FEATURES[0] else InceptionFeatures(download=download)
        model = load(path, device=str(share.device), level=level)
        dataset = open_dataset(data, split, roots=roots, download=download)
        begin = time.perf_counter()
        metrics = evaluate_generator(
            model,
            dataset,
            num_samples=num_samples,
            seed=seed,
            features=network.to(share.device),
            batch_size=batch_size,
            share=share,
            dense=dense,
            progress=progress and share.rank == 0,
        )
        seconds = time.perf_counter() - begin
        facts = (file_at_level(path, level), dataset.name, dataset.split, len(dataset), metrics, seconds)
        return GenerationReport(*facts, num_samples, seed, network.title)

    return run_in_processes(measure, device, devices)


def _with_drawn_code(vae: VAE, images: Tensor, noise: Tensor) -> Tensor:
    """`negative_elbo` of each image (batch,), with the codes that this noise (batch, code_size) gives."""
    with torch.inference_mode():
        dtype = next(vae.parameters()).dtype
        mean, log_variance = (part.float() for part in vae.encode(images.to(dtype)))
        code = mean + torch.exp(log_variance / 2) * noise.to(mean.device)
        return negative_elbo((vae.decode(code.to(dtype)).float(), mean, log_variance), images)


def _check_images(sampler: Sampler, dataset: Dataset, features: Features) -> tuple[int, int]:
    """Height and width of what is made; `ArgumentError` if features cannot be taken of it and of the data set."""
    _, made, height, width = sampler(torch.zeros(1, sampler.code_size)).shape
    real = dataset.image_shape[0]
    if made != real or made not in features.channels:
        raise ArgumentError(
            f"the Fréchet distance is measured by the features of {features.title}, which reads images of "
            f"{' or '.join(map(str, features.channels))} channel{'s' * (features.channels != (1,))}; the network makes "
            f"images of {made}, {dataset.name} has {real}"
        )
    return height, width
