"""What Tailcut gives, in a few lines for the README, each from a record."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tailcut.reports import read_records
from tailcut.runs import Result
from tailcut.training.recipe.toml_files import load_recipe
from tools.docs.byte_tables import largest_file
from tools.docs.comparisons import figure, p_value, values_of
from tools.docs.markdown import counted, markdown_table, percent
from tools.docs.recipe_tables import macs_left

PUBLISHED_UNET_BYTES = 4524  # unet_fr.tar.xz, as its authors published it
COMBINED = "imagenette-resnet18-combined"
PIXELS, FREQUENCIES = "imagenette-resnet18-rgb112", "imagenette-resnet18-dct24"
UNET = "unet-1000"
# Training for bytes: name -> what it is, and what others have with their source.
FOR_BYTES = {
    "lenet5-1500": (
        "LeNet-5 on MNIST, whole file",
        "99.04 % in 1,520 bytes, [MIRACLE](https://arxiv.org/abs/1810.00440)",
    ),
    "resnet20-9900": (
        "ResNet-20 on CIFAR-10, whole file",
        "77.52 % in 9,920 bytes with its decoder (ours are without), [tiny-cifar](https://github.com/Rome-1/tiny-cifar)",
    ),
    "resnet56-65536": (
        "ResNet-56 on CIFAR-10, whole file",
        "91.50 % in 66 KB of coded weights, ResNet-20-4 of [LilNetX](https://arxiv.org/abs/2204.02965)",
    ),
}
PRUNED = ("resnet56-tuned", "resnet56-47")


def highlights(records: Path) -> str:
    """Return one line or more for each part of the library: what there was before, and ours.

    Args:
        records: the folder of the records, see `tailcut.reports.records_folder`.
    """
    results = read_records(records)
    rows = [
        _file(records),
        *_bytes(results),
        *_masks(records, results),
        _speed(records),
        _reading(records),
        _inputs(results),
        *_pruning(records, results),
        *_combined(results),
    ]
    return markdown_table(["what", "compared with", "Tailcut"], rows, "<<<")


def _file(records: Path) -> list[str]:
    stored = _json(records / "published-unet" / "inspect-float16.json")
    measured = _json(records / "published-unet" / "evaluate-float16-all.json")
    dice, photos = percent(measured["metrics"]["dice"]), measured["num_images"]
    what = f"The paper's UNet, {stored['num_kept']} coefficients for {stored['num_parameters']:,} weights"
    page = "[results](docs/results.md#the-published-unet)"
    ours = (
        f"**{stored['file_bytes']:,} bytes**, the same Dice: {dice} on the {photos} photos published with it ({page})"
    )
    return [what, f"{PUBLISHED_UNET_BYTES:,} bytes", ours]


def _bytes(results: Sequence[Result]) -> list[list[str]]:
    """Return a row of each network that is trained for bytes: the mean of its seeds, and the largest file."""
    page, rows = "[accuracy per byte](docs/accuracy-per-byte.md)", []
    for name, (what, before) in FOR_BYTES.items():
        values = values_of(results, name)
        if values:
            runs = [result for result in results if result.name == name]
            rows.append([what, before, f"**{figure(values)}, {_in_bytes(runs)}** ({page})"])
    return rows


def _masks(records: Path, results: Sequence[Result]) -> list[list[str]]:
    published = _json(records / "published-unet" / "evaluate-float16-val.json")
    published_count = _json(records / "published-unet" / "inspect-float16.json")["num_kept"]
    before = f"{percent(published['metrics']['dice'])}, the published UNet, {published_count:,} coefficients"
    return [
        [
            f"Dice on {published['num_images']} photos of cars; ours is trained on 240 of other cars, on a CPU",
            before,
            f"**{percent(result.metrics['dice'])}**, {result.num_kept:,} coefficients in {result.file_bytes:,} bytes "
            "([trained for bytes](docs/accuracy-per-byte.md#trained-for-bytes))",
        ]
        for result in results
        if result.name == UNET
    ]


def _speed(records: Path) -> list[str]:
    table, machine = _bench(records, "execution", 0), _json(records / "bench-execution.json")["machine"]
    fused, dense = (_row(table, "way", way) for way in ("fused, compiled", "dense, channels last"))
    faster, memory = (
        f"{fused['times faster']:.0f} times faster",
        f"{100 * fused['peak MB'] / dense['peak MB']:.0f} % of the memory",
    )
    ours = f"**{fused['ms'] / 1000:.2f} s**, {faster}, in {memory} ([run it fast](docs/run-fast.md))"
    return [
        f"The same UNet on one image of 640 x 959, {counted(machine['num_threads'], 'CPU thread')}",
        f"{dense['ms'] / 1000:.1f} s, dense weights at their fastest",
        ours,
    ]


def _reading(records: Path) -> list[str]:
    table = _bench(records, "inputs", 0)
    published, ours = (_row(table, "way", f"{way}, 24 channels") for way in ("published", "tailcut"))
    return [
        "A photo as 24 frequency channels, one core",
        f"{published['ms']:.0f} ms, the published pipeline",
        f"**{ours['ms']:.1f} ms**, decoded and transformed ([inputs](docs/frequency-inputs.md#loading-speed))",
    ]


def _inputs(results: Sequence[Result]) -> list[str]:
    here, there = (values_of(results, name) for name in (PIXELS, FREQUENCIES))
    pixels, frequencies = figure(here), figure(there)
    return [
        "ResNet-18 on a part of Imagenette, about equal MACs",
        f"{pixels}, pixels",
        f"**{frequencies}**, 24 frequency channels (p = {p_value(there, here)}: "
        "[inputs](docs/frequency-inputs.md#trainings))",
    ]


def _pruning(records: Path, results: Sequence[Result]) -> list[list[str]]:
    before = percent(_json(records / "parents" / "resnet56.json")["metrics"]["accuracy"])
    rows = []
    for name in PRUNED:
        values = values_of(results, name)
        if values:
            what = f"ResNet-56 on CIFAR-10 with {100 * macs_left(load_recipe(name)):.0f} % of its MACs"
            rows.append([what, f"{before}, all MACs", f"**{figure(values)}** ([pruning](docs/channel-pruning.md))"])
    return rows


def _combined(results: Sequence[Result]) -> list[list[str]]:
    """Return a row of the network by all three papers, beside the dense one on pixels: the largest files of each."""
    dense, ours = ([result for result in results if result.name == name] for name in (PIXELS, COMBINED))
    if not ours:
        return []
    return [
        [
            "ResNet-18 on a part of Imagenette by all three papers",
            f"{figure(values_of(results, PIXELS))}, {_in_bytes(dense)}, pixels, {dense[0].epochs} epochs",
            f"**{figure(values_of(results, COMBINED))}, {_in_bytes(ours)}**, {ours[0].epochs} epochs, most with a "
            "teacher ([combined](docs/combined.md))",
        ]
    ]


def _in_bytes(runs: Sequence[Result]) -> str:
    """Return the bytes of a run's file; of several runs those that no file of theirs has more of."""
    return f"in {'at most ' if len(runs) > 1 else ''}{largest_file(runs):,} bytes"


def _bench(records: Path, topic: str, number: int) -> Mapping[str, Any]:
    tables: Sequence[Mapping[str, Any]] = _json(records / f"bench-{topic}.json")["topics"][topic]
    return tables[number]


def _row(table: Mapping[str, Any], key: str, value: str) -> Mapping[str, Any]:
    (found,) = (row for row in table["rows"] if row[key] == value)
    return dict(found)


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
