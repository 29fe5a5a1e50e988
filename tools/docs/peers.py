"""Accuracy per byte beside the figures of others, for docs/accuracy-per-byte.md: a table and a plot."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tools.docs.byte_tables import FOLDER, largest_file, trained_runs
from tools.docs.corner_images import new_figure
from tools.docs.markdown import markdown_table, percent

PEERS = "peers.json"
OURS = "Tailcut"
TRAINED = "trained for bytes"
COMPRESSED = "compressed after the training"
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
LOWEST = {"mnist": 0.978, "cifar10": 0.70}
LARGEST = 200_000
"""Accuracy from which on, and bytes up to which, networks are shown."""


class Point(NamedTuple):
    """A network in a file.

    Attributes:
        method: what made the file.
        url: its source, "" for our own.
        network: its architecture.
        data: the data set.
        accuracy: on the test images, 0 to 1.
        file: bytes of the file; None if only those with its decoder are known.
        with_decoder: bytes of the file and the program that decodes it; None if unknown.
    """

    method: str
    url: str
    network: str
    data: str
    accuracy: float
    file: int | None
    with_decoder: int | None

    @property
    def num_bytes(self) -> int:
        """The bytes that are known."""
        return self.file or self.with_decoder or 0


def points(results: Path) -> list[Point]:
    """Return all networks on MNIST and CIFAR-10, by data set and bytes."""
    peers = [
        Point(peer.pop("name"), peer.pop("url"), **peer)
        for peer in json.loads((results / PEERS).read_text(encoding="utf-8"))
    ]
    found = [point for point in [*peers, *_ours(results)] if point.data in TITLES]
    near = [point for point in found if point.accuracy >= LOWEST[point.data] and point.num_bytes <= LARGEST]
    return sorted(near, key=lambda point: (list(TITLES).index(point.data), point.num_bytes))


def _ours(results: Path) -> Iterator[Point]:
    for path in sorted((results / FOLDER).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        network = path.stem.rpartition("-")[0]
        if record["metric"] == "accuracy":
            how = f"{OURS}, {COMPRESSED}"
            yield Point(how, "", network, record["data"], record["after"], record["file_bytes"], None)
    for runs in trained_runs(results).values():
        recipe = runs[0].recipe
        if "accuracy" in runs[0].metrics:
            accuracy = statistics.fmean(run.metrics["accuracy"] for run in runs)
            data, network = recipe["data"]["name"], recipe["model"]["name"]
            yield Point(f"{OURS}, {TRAINED}", "", network, data, accuracy, largest_file(runs), None)


def peer_table(results: Path) -> str:
    """Return one row for each network, ours in bold."""
    rows = []
    for point in points(results):
        is_ours, accuracy = not point.url, percent(point.accuracy)
        rows.append(
            (
                TITLES[point.data],
                f"**{point.method}**" if is_ours else f"[{point.method}]({point.url})",
                f"`{point.network}`" if is_ours else point.network,
                "" if point.file is None else f"{point.file:,}",
                "" if point.with_decoder is None else f"{point.with_decoder:,}",
                f"**{accuracy}**" if is_ours else accuracy,
            )
        )
    return markdown_table(("data", "method", "network", "file", "file + decoder", "accuracy"), rows, align="<<<>>>")


def accuracy_per_byte(found: list[list[Any]]) -> Figure:
    """Draw accuracy over bytes, a panel for each data set.

    Args:
        found: the values of `points`, as lists.
    """
    figure = new_figure(9, 4.6)
    shown = [Point(*values) for values in found]
    methods = list(dict.fromkeys(point.method for point in shown))
    methods.sort(key=lambda method: not method.startswith(OURS))
    for panel, (data, title) in zip(figure.subplots(1, 2), TITLES.items(), strict=True):
        for place, method in enumerate(methods):
            mine = [point for point in shown if (point.method, point.data) == (method, data)]
            is_ours = method.startswith(OURS)
            style = {"marker": "*" if TRAINED in method else "o", "color": "tab:red", "s": 60} if is_ours else {}
            style = style or {"marker": "sDv^<>Px"[place % 8], "color": f"C{place % 10 if place != 3 else 9}", "s": 28}
            sizes, values = [point.num_bytes for point in mine], [100 * point.accuracy for point in mine]
            if mine:
                panel.scatter(sizes, values, label=method, **style)
        panel.set(title=title, xlabel="bytes of the file", ylabel="accuracy, %", xscale="log")
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(visible=True, alpha=0.3)
    handles = {
        text: handle for panel in figure.axes for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=3)
    return figure
