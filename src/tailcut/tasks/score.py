"""Channel scores of a file's network on a data set, as JSON and as a plot."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailcut.channels import Scores, draw_scores, score
from tailcut.channels.scoring.score import NUM_BATCHES, SPECTRAL, needs_loader
from tailcut.channels.scoring.scores import ScoredLayer, layer_table
from tailcut.data import Dataset, Roots, open_dataset
from tailcut.errors import ArgumentError
from tailcut.evaluation.evaluate import PROGRESS_INTERVAL, choose_device
from tailcut.evaluation.random_batches import BATCH_SIZE, SPLIT, network_inputs
from tailcut.files import check_output_path
from tailcut.format.open_network import open_network
from tailcut.plotting import check_figure_path
from tailcut.printing import Report
from tailcut.runtime.progress import live_progress


@dataclass
class ScoreReport(Report):
    """Report of the channel scores of a file.

    Attributes:
        source: the file, as it was given.
        data: name of the data set; None for a method of weights only.
        split: its split; likewise.
        method: how channels were scored.
        settings: the settings of the method.
        num_images: on how many images.
        out: the JSON file of all scores.
        plot: the image of the sorted scores; None if none was wanted.
        layers: every scored layer in short.
        skipped: layers that were not scored, and why.
    """

    source: str
    data: str | None
    split: str | None
    method: str
    settings: dict[str, Any]
    num_images: int
    out: str
    plot: str | None
    layers: list[ScoredLayer]
    skipped: dict[str, str]

    def __str__(self) -> str:
        """Return one row per layer."""
        on = f", on {self.num_images:,} images of {self.data}, {self.split}" if self.data and self.num_images else ""
        return f"{layer_table(self.layers, self.skipped)}\n\n{self.out}: scores by {self.method}{on}"


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
    **settings: Any,
) -> ScoreReport:
    """Score the channels of a file's network and write the scores.

    Args:
        source: see `open_network`.
        out: the JSON file to write; `Scores.load` reads it.
        data: name of the data set to run the network on; for methods that use weights only it is not needed, but
            shows which linear layers run over tokens.
        model: see `open_network`.
        arguments: likewise.
        plot: a PNG of the sorted scores.
        split: the part of the data set.
        roots: data roots to try first.
        download: fetch the data set if it lies nowhere.
        batch_size: images per forward.
        seed: chooses the images; and the numbers of the method `random`.
        device: see `choose_device`.
        settings: further arguments of `tailcut.channels.score`: `method`, `num_batches`, `variant`, ...

    Raises:
        ArgumentError: an argument is out of range, `data` is missing, or a file cannot be written.
        DataNotFoundError: the data set lies nowhere.
    """
    check_output_path(out)
    if plot is not None:
        check_figure_path(plot, "a plot of the scores")
    place = choose_device(device)
    method, num_batches = settings.get("method", SPECTRAL), settings.get("num_batches", NUM_BATCHES)
    if needs_loader(method) and data is None:
        raise ArgumentError(f"the method {method} runs the network: name a data set with --data")
    network = open_network(source, model=model, arguments=arguments, device=place)
    dataset = None if data is None else open_dataset(data, split, roots=roots, download=download)
    count = num_batches if needs_loader(method) else 1  # which shows the layers over tokens
    with live_progress(True, "images", count * batch_size, interval=PROGRESS_INTERVAL) as bar:
        loader = None if dataset is None else network_inputs(network, dataset, batch_size, count, seed, bar)
        scores = score(network, loader, seed=seed, **settings)
    return _write(scores, source, dataset, out, plot)


def _write(
    scores: Scores, source: str | Path, dataset: Dataset | None, out: str | Path, plot: str | Path | None
) -> ScoreReport:
    if plot is not None:
        draw_scores(scores, plot)
    scores.save(out)
    return ScoreReport(
        source=str(source),
        data=None if dataset is None else dataset.name,
        split=None if dataset is None else dataset.split,
        method=scores.method,
        settings=scores.settings,
        num_images=scores.num_images,
        out=str(out),
        plot=None if plot is None else str(plot),
        layers=scores.summary(),
        skipped=scores.skipped,
    )
