"""From a file to a slimmer one: score the channels of its network, prune it, save it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailcut.channels import Scores, score
from tailcut.channels.prune import prune
from tailcut.channels.prune_report import PruneReport
from tailcut.channels.score import NUM_BATCHES, SPECTRAL, needs_loader
from tailcut.data import Roots, open_dataset
from tailcut.errors import ArgumentError
from tailcut.format import save
from tailcut.printing import Report
from tailcut.structure import example_shape
from tailcut.training.evaluation import PROGRESS_INTERVAL, choose_device
from tailcut.training.opening import open_network
from tailcut.training.progress import live_progress
from tailcut.training.scoring import BATCH_SIZE, SPLIT, random_batches


@dataclass
class PruneFileReport(Report):
    """What was pruned, and where it is.

    Attributes:
        model: the file, as it was given.
        out: the .tailcut file that was written.
        file_bytes: its size.
        method: how channels were scored.
        num_images: on how many pictures.
        pruning: what was removed, and what could not be.
    """

    model: str
    out: str
    file_bytes: int
    method: str
    num_images: int
    pruning: PruneReport

    def __str__(self) -> str:
        """The pruning, then one line on the file."""
        on = f", on {self.num_images:,} pictures" if self.num_images else ""
        return f"{self.pruning}\n\n{self.out}: {self.file_bytes:,} bytes; scores by {self.method}{on}"


def prune_file(
    source: str | Path,
    out: str | Path,
    data: str | None = None,
    *,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    scores: str | Path | None = None,
    method: str = SPECTRAL,
    split: str = SPLIT,
    roots: Roots = None,
    download: bool = False,
    num_batches: int = NUM_BATCHES,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    codec: str | None = None,
    device: str = "auto",
    progress: bool = False,
    **settings: Any,
) -> PruneFileReport:
    """Prune a file's network and write the narrower one.

    Args:
        source: see `open_network`.
        out: the .tailcut file to write.
        data: name of the data set to score on; not needed with `scores`, nor for methods that look at weights only.
        model: see `open_network`.
        arguments: likewise.
        scores: the JSON file of `tailcut score`; the network is scored now when None.
        method: see `tailcut.channels.score`, as for `num_batches` and `seed`.
        split: the part of the data set.
        roots: data roots to try first.
        download: fetch the data set if it lies nowhere.
        num_batches: how many batches to score on.
        batch_size: pictures in each.
        seed: chooses the pictures.
        codec: number type of the file; the network's own when None.
        device: see `choose_device`.
        progress: show on standard error how far it is.
        settings: further arguments of `tailcut.prune`: `rates`, `macs_ratio`, `min_channels`, ...

    Raises:
        ArgumentError: an argument is out of range or does not fit the network, or `data` is missing.
        StructureError: the network is regularised, or does not run once it is pruned.
    """
    place = choose_device(device)
    network = open_network(source, model=model, arguments=arguments, device=place)
    example = torch.zeros(_example_shape(network, source), device=place)
    if scores is not None:
        found = Scores.load(scores)
    else:
        if needs_loader(method) and data is None:
            raise ArgumentError(f"the method {method} looks at feature maps: name a data set with --data, or --scores")
        dataset = None
        if data is not None and needs_loader(method):
            dataset = open_dataset(data, split, roots=roots, download=download)
        with live_progress(progress, "pictures", num_batches * batch_size, interval=PROGRESS_INTERVAL) as bar:
            loader = None if dataset is None else random_batches(dataset, batch_size, num_batches, seed, bar)
            found = score(network, loader, method=method, num_batches=num_batches, seed=seed)  # type: ignore[arg-type]
    pruning = prune(network, example, found, **settings)
    written = save(network, out, codec=codec or "float32", other_codec=codec)
    return PruneFileReport(str(source), str(out), written.file_bytes, found.method, found.num_images, pruning)


def _example_shape(network: nn.Module, source: str | Path) -> tuple[int, ...]:
    shape = example_shape(network)
    if shape is None:
        raise ArgumentError(f"{source} holds a network of a user's own class, whose inputs are not known here")
    return shape
