"""Static selection of frequency channels from a network with a trained gate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tailcut.data import Dataset, Roots, open_dataset
from tailcut.errors import ArgumentError, MissingExtraError
from tailcut.evaluation.evaluate import PROGRESS_INTERVAL, choose_device
from tailcut.files import check_output_path
from tailcut.format import load
from tailcut.inputs.plots import draw_heat_maps
from tailcut.inputs.selection.gate import FrequencyGate
from tailcut.inputs.stem.edit import transform_of
from tailcut.plotting import check_figure_path
from tailcut.printing import Report
from tailcut.runs import Run, packed_network
from tailcut.runtime.progress import live_progress

BATCH_SIZE = 32


@dataclass
class SelectReport(Report):
    """The channels that a gate opens most often.

    Attributes:
        source: the file or run, as it was given.
        data: name of the data set.
        split: name of the split.
        num_images: how many images the gate saw.
        num_open: channels that were open for an image, in the mean.
        num_channels: channels selected.
        selection: row-major frequencies 8 v + u by component.
        probability: mean probability of each channel that the gate reads, by channel number of 0 to 191.
        out: the file of the selection.
        heat_maps: the image, None if none was asked for.
    """

    source: str
    data: str
    split: str
    num_images: int
    num_open: float
    num_channels: int
    selection: dict[str, tuple[int, ...]]
    probability: dict[int, float]
    out: str
    heat_maps: str | None

    def __str__(self) -> str:
        """Return the report as a few lines."""
        counts = " + ".join(str(len(part)) for part in self.selection.values())
        lines = [
            f"{self.out}: {self.num_channels} channels ({counts}) by {self.num_images:,} images of {self.data}, "
            f"split {self.split}; open in the mean: {self.num_open:.1f} of {len(self.probability)}"
        ]
        lines += [f"  {name:<12} {' '.join(map(str, part)) or '-'}" for name, part in self.selection.items()]
        return "\n".join([*lines, *([self.heat_maps] if self.heat_maps else [])])


def select_channels(
    source: str | Path,
    out: str | Path,
    *,
    num_channels: int | Sequence[int] | None = None,
    data: str | None = None,
    split: str | None = None,
    roots: Roots = None,
    download: bool = False,
    heat_maps: str | Path | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
) -> SelectReport:
    """Run the gate of a network over a data set and write the channels that are open most often.

    Args:
        source: a .tailcut file of a registered model with a gate, or a run folder that holds one.
        out: the JSON file to write; `Selection.load` reads it.
        num_channels: how many, or three counts for Y, Cb and Cr; those more likely open than closed when None.
        data: name of a data set (`imagenette@448` for its images at 448 pixels); a run's own when None.
        split: one of its splits; its test split when None.
        roots: data roots to try first.
        download: fetch the data set if it lies nowhere.
        heat_maps: draw the probabilities as a PNG.
        batch_size: images at a time.
        device: see `choose_device`.

    Raises:
        ArgumentError: the network has no gate or no transform, there is no data set, the numbers do not fit, or a file
            cannot be written.
        FormatError: the file cannot be loaded.
        DataNotFoundError: the data set lies nowhere.
        MissingExtraError: heat maps without matplotlib.
    """
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1, got {batch_size}")
    place = choose_device(device)
    model = load(_packed(source), device=place)
    gate = next((module for module in model.modules() if isinstance(module, FrequencyGate)), None)
    transform = transform_of(model)
    if gate is None or transform is None:
        raise ArgumentError(f"{source}: the network has no trained gate; train one with replace_stem(..., gate=True)")
    check_output_path(out)
    if heat_maps is not None:
        check_figure_path(heat_maps, "heat maps")
    gate.check_num_channels(num_channels)
    dataset = open_dataset(data or _data_of(source), split, roots=roots, download=download)
    activity = gate.measure(_batches(dataset, batch_size), transform=transform)
    selection = activity.top(num_channels)
    if heat_maps is not None:
        draw_heat_maps(activity, heat_maps, selection=selection)
    selection.save(out)
    return SelectReport(
        str(source),
        dataset.name,
        dataset.split,
        activity.num_images,
        sum(activity.open_ratio),
        selection.num_channels,
        selection.components(),
        dict(zip(activity.channels, activity.probability, strict=True)),
        str(out),
        None if heat_maps is None else str(heat_maps),
    )


def _packed(source: str | Path) -> str | Path:
    """Return the file itself, or the packed network of a run folder."""
    packed = packed_network(source)
    if Path(source).is_dir() and not Path(packed).is_file():
        raise ArgumentError(f"{source} holds no {Path(packed).name}: finish the run, or pack it with tailcut pack")
    return packed


def _data_of(source: str | Path) -> str:
    run = Run(Path(source))
    if not run.exists():
        raise ArgumentError(f"{source} is no run folder, so its data set is unknown: give --data")
    try:
        from tailcut.training.recipe.toml_files import load_recipe
    except MissingExtraError as error:
        raise ArgumentError(f"the recipe of {source} cannot be read ({error}): give --data") from error
    return load_recipe(run.recipe).data.name


def _batches(dataset: Dataset, batch_size: int) -> Iterator[Tensor]:
    with live_progress(True, "images", len(dataset), interval=PROGRESS_INTERVAL) as bar:
        positions = dataset.in_order(batch_size)
        for place, (images, _) in zip(positions, dataset.batches(positions), strict=True):
            yield images
            bar.show(place.stop)
