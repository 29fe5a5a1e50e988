"""The scores of a file's network on a data set, written as JSON and drawn."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailcut.channels import Scores, draw_scores, score
from tailcut.channels.score import NUM_BATCHES, SPECTRAL, needs_loader
from tailcut.channels.scores import ScoredLayer, layer_table
from tailcut.data import Dataset, Roots, open_dataset
from tailcut.errors import ArgumentError
from tailcut.files import check_place
from tailcut.printing import Report
from tailcut.training.evaluation import PROGRESS_INTERVAL, choose_device
from tailcut.training.opening import open_network
from tailcut.training.progress import Progress, live_progress
from tailcut.training.reading import reader_of

BATCH_SIZE = 128  # the paper's
SPLIT = "train"


@dataclass
class ScoreReport(Report):
    """What was scored, how, and where the scores are.

    Attributes:
        model: the file, as it was given.
        data: name of the data set; None for a method of weights only.
        split: its split; likewise.
        method: how channels were scored.
        settings: the settings of the method.
        num_images: on how many pictures.
        out: the JSON file of all scores.
        plot: the picture of the sorted scores; None if none was wanted.
        layers: every scored layer in short.
        left: layers that were not scored, and why.
    """

    model: str
    data: str | None
    split: str | None
    method: str
    settings: dict[str, Any]
    num_images: int
    out: str
    plot: str | None
    layers: list[ScoredLayer]
    left: dict[str, str]

    def __str__(self) -> str:
        """One row per layer."""
        on = f", on {self.num_images:,} pictures of {self.data}, {self.split}" if self.data else ""
        return f"{layer_table(self.layers, self.left)}\n\n{self.out}: scores by {self.method}{on}"


def score_file(
    source: str | Path,
    out: str | Path,
    data: str | None = None,
    *,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    plot: str | Path | None = None,
    split: str = SPLIT,
    roots: Roots = None,
    download: bool = False,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    **settings: Any,
) -> ScoreReport:
    """Score the channels of a file's network and write the scores.

    Args:
        source: see `open_network`.
        out: the JSON file to write; `Scores.load` reads it.
        data: name of the data set to run the network on; not needed for the methods that look at weights only.
        model: see `open_network`.
        arguments: likewise.
        plot: a PNG of the sorted scores.
        split: the part of the data set.
        roots: data roots to try first.
        download: fetch the data set if it lies nowhere.
        batch_size: pictures per forward.
        seed: chooses the pictures; and the numbers of the method `random`.
        device: see `choose_device`.
        progress: show on standard error how far it is.
        settings: further arguments of `tailcut.channels.score`: `method`, `num_batches`, `variant`, ...

    Raises:
        ArgumentError: an argument is out of range, `data` is missing, or a file cannot be written.
        DataNotFoundError: the data set lies nowhere.
    """
    for path in (out, plot):
        if path is not None:
            check_place(path)
    place = choose_device(device)
    method, num_batches = settings.get("method", SPECTRAL), settings.get("num_batches", NUM_BATCHES)
    if needs_loader(method) and data is None:
        raise ArgumentError(f"the method {method} looks at feature maps: name a data set with --data")
    network = open_network(source, model=model, arguments=arguments, device=place)
    dataset = None
    if data is not None and needs_loader(method):
        dataset = open_dataset(data, split, roots=roots, download=download)
    with live_progress(progress, "pictures", num_batches * batch_size, interval=PROGRESS_INTERVAL) as bar:
        loader = None if dataset is None else network_inputs(network, dataset, batch_size, num_batches, seed, bar)
        scores = score(network, loader, seed=seed, **settings)
    return _write(scores, source, dataset, out, plot)


def random_batches(
    dataset: Dataset, batch_size: int, num_batches: int, seed: int, bar: Progress | None = None
) -> Iterator[Tensor]:
    """Batches of pictures drawn without repetition: the same for the same seed.

    Args:
        dataset: where they come from.
        batch_size: pictures per batch; the last has fewer where the data set ends.
        num_batches: the most batches.
        seed: of the order.
        bar: shown how many were given.

    Raises:
        ArgumentError: a count is not positive.
    """
    if min(batch_size, num_batches) < 1:
        raise ArgumentError(f"batch size and number of batches must be at least 1, got {batch_size} and {num_batches}")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    for number, indices in enumerate(order[: batch_size * num_batches].split(batch_size)):
        if bar is not None:
            bar.show(number * batch_size)
        yield dataset.batch(indices)[0]


def network_inputs(
    network: nn.Module,
    dataset: Dataset,
    batch_size: int,
    num_batches: int,
    seed: int,
    bar: Progress | None = None,
) -> Iterator[Tensor]:
    """The same pictures as the network reads them: through its transform, if it has one; see `random_batches`."""
    read = reader_of(network)
    parameter = next(network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    for pictures in random_batches(dataset, batch_size, num_batches, seed, bar):
        yield read(pictures.to(device))


def _write(
    scores: Scores, source: str | Path, dataset: Dataset | None, out: str | Path, plot: str | Path | None
) -> ScoreReport:
    if plot is not None:
        draw_scores(scores, plot)
    scores.save(out)
    return ScoreReport(
        model=str(source),
        data=None if dataset is None else dataset.name,
        split=None if dataset is None else dataset.split,
        method=scores.method,
        settings=scores.settings,
        num_images=scores.num_images,
        out=str(out),
        plot=None if plot is None else str(plot),
        layers=scores.summary(),
        left=scores.left,
    )
