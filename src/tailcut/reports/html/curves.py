"""Training curves of a report: loss, metrics, kept coefficients and learning rate over the epochs."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any

from tailcut.reports.html.drawing import NUM_SERIES, drawing, label_values, series_color, series_style
from tailcut.reports.html.elements import PageSection, clean, element
from tailcut.reports.networks import ReportedNetwork

Line = dict[str, Any]
# Gets a quantity from a line, None where the line has it not.
Quantity = Callable[[Line], Any]
# What a line of metrics.jsonl may hold, beside its metrics: title, and whether its axis is logarithmic.
_QUANTITIES = {
    "loss": ("training loss", True),
    "num_kept": ("kept coefficients", True),
    "lr": ("learning rate", False),
}


def curves_section(networks: Sequence[ReportedNetwork]) -> PageSection:
    """Return the curves of all networks in one drawing per quantity."""
    section = PageSection(
        "Training curves",
        "curves",
        "Over the epochs: the mean training loss, the figures on the split named above each, the kept coefficients "
        "and the learning rate.",
        skipped={network.name: network.missing["lines"] for network in networks if not network.lines},
    )
    shown = [network for network in networks if network.lines]
    if not shown:
        return section
    if len(shown) > 1:
        section.body.append(_legend([network.name for network in shown]))
    drawings = [_drawing(shown, title, of, logarithmic=log) for title, of, log in _quantities(shown)]
    section.body.append(element("div", *(element("figure", image) for image in drawings), class_="grid"))
    return section


def _quantities(networks: Sequence[ReportedNetwork]) -> list[tuple[str, Quantity, bool]]:
    """Title, way to get it from a line, and whether its axis is logarithmic, of each quantity that there is."""
    lines = [line for network in networks for line in network.lines]
    metrics = dict.fromkeys((str(line.get("split", "")), name) for line in lines for name in line.get("metrics") or {})
    figures = [
        (clean(f"{split} {name}".strip()), partial(_metric, split=split, name=name), False) for split, name in metrics
    ]
    plain = [
        (title, methodcaller("get", key), logarithmic)
        for key, (title, logarithmic) in _QUANTITIES.items()
        if any(line.get(key) is not None for line in lines)
    ]
    return [*plain[:1], *figures, *plain[1:]]


def _metric(line: Line, split: str, name: str) -> Any:
    return (line.get("metrics") or {}).get(name) if str(line.get("split", "")) == split else None


def _drawing(networks: Sequence[ReportedNetwork], title: str, of: Quantity, *, logarithmic: bool) -> Any:
    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        panel = figure.subplots()
        positive = True
        for number, network in enumerate(networks):
            points = [(line.get("epoch", place), of(line)) for place, line in enumerate(network.lines, start=1)]
            points = [point for point in points if point[1] is not None]
            positive = positive and all(value > 0 for _, value in points)
            marker = "o" if len(points) < 2 else ""  # a line needs two points
            if points:
                look = {"color": series_color(number), "linestyle": series_style(number), "marker": marker}
                panel.plot(*zip(*points, strict=True), **look, linewidth=1.4)
        panel.set(title=title, xlabel="epoch", yscale="log" if logarithmic and positive else "linear")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        label_values(panel)

    names = ", ".join(network.name for network in networks)
    return drawing(f"{title} over the epochs: {names}", draw)


def _legend(names: Sequence[str]) -> Any:
    lines = [f"{series_style(number)} var(--series-{number % NUM_SERIES})" for number in range(len(names))]
    entries = [
        element("li", element("span", style=f"border-top: 0.25rem {line}"), name)
        for line, name in zip(lines, names, strict=True)
    ]
    return element("ul", *entries, class_="legend")
