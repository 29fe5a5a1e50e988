"""Spectrum of weights: the energy of each tensor over the frequencies of each axis."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from torch import Tensor, nn

from tailcut.reports.html.drawing import drawing, label_values, series_color
from tailcut.reports.html.elements import PageSection, element, figure
from tailcut.reports.networks import ReportedNetwork
from tailcut.transform import dct
from tailcut.weights import truncated_tensors
from tailcut.weights.layers import candidates, find_layer

# Parts of the energy below this are not drawn.
SMALLEST = 1e-8
# A line has at most so many points; of a longer axis each is the mean of several neighbouring frequencies.
MAX_POINTS = 128


def spectrum_section(networks: Sequence[ReportedNetwork]) -> PageSection:
    """Return a drawing per weight."""
    section = PageSection(
        "Spectrum of the weights",
        "spectrum",
        "The part of a weight's energy (its sum of squares) that lies at each frequency of an axis, summed over all "
        "other axes, logarithmic. Frequency 0 is the constant. Weights that are not truncated are transformed along "
        "all axes; of long axes a point is the mean of neighbouring frequencies.",
    )
    for network in networks:
        if network.model is None:
            section.skipped[network.name] = network.missing["model"]
            continue
        roles = axis_roles(network.model)
        drawings = [
            spectrum_figure(name, energies, roles.get(name, ())) for name, energies in axis_energies(network.model)
        ]
        if drawings:
            section.body += [element("h3", network.name), element("div", *drawings, class_="grid")]
        else:
            section.skipped[network.name] = "it has no weights that could be truncated"
    return section


def axis_energies(model: nn.Module) -> Iterator[tuple[str, dict[int, Tensor]]]:
    """Yield the energy at each frequency of each transformed axis, tensor by tensor; the model is not changed.

    Yields:
        Name of a weight, and by axis its energies: (frequencies,), float64. Of truncated tensors those of the
        corner (all others are zero), of other weights those of the whole DCT.
    """
    for tensor in truncated_tensors(model):
        corner = tensor.corner().detach().double()
        yield tensor.name, {axis: _energy(corner, axis) for axis in tensor.axes}
    for candidate in candidates(model):
        if candidate.is_weight and candidate.obstacle is None:
            coefficients = dct(candidate.parameter.detach().float())
            axes = range(coefficients.ndim)
            yield candidate.names[0], {axis: _energy(coefficients.double(), axis) for axis in axes}


def axis_roles(model: nn.Module) -> Mapping[str, tuple[str, ...]]:
    """Return the role of each axis (`output`, `input`, `kernel`) of each weight of a known layer, by name."""
    roles = {}
    for path, module in model.named_modules():
        layer = find_layer(module)
        for name in _parameter_names(module):
            axes = None if layer is None else layer.roles(name)
            if axes is not None:
                roles[f"{path}.{name}" if path else name] = axes
    return roles


def _parameter_names(module: nn.Module) -> list[str]:
    """Also of those that became coefficients."""
    lists = module._modules.get("parametrizations")
    return [*module._parameters, *([] if lists is None else lists._modules)]


def spectrum_figure(name: str, energies: Mapping[int, Tensor], roles: Sequence[str]) -> Element:
    """Return the drawing of one weight with its caption; see `axis_energies` and `axis_roles`. Roles may be empty."""
    return figure(
        drawing(
            f"energy over the frequencies of each axis of {name}", lambda canvas: show_energies(canvas, energies, roles)
        ),
        element("strong", name),
    )


def _energy(coefficients: Tensor, axis: int) -> Tensor:
    return coefficients.square().movedim(axis, 0).reshape(coefficients.shape[axis], -1).sum(dim=1)


def show_energies(canvas: Any, energies: Mapping[int, Tensor], roles: Sequence[str]) -> None:
    """Draw energies by axis (see `axis_energies`) on an empty matplotlib figure."""
    from matplotlib.ticker import MaxNLocator

    panel = canvas.subplots()
    for number, (axis, energy) in enumerate(energies.items()):
        parts = energy / (float(energy.sum()) or 1.0)
        groups = parts.split(-(-len(parts) // MAX_POINTS))
        middles = [number * len(groups[0]) + (len(group) - 1) / 2 for number, group in enumerate(groups)]
        means = [value if value > SMALLEST else math.nan for value in (float(group.mean()) for group in groups)]
        label = f"axis {axis}, {roles[axis]}" if roles else f"axis {axis}"
        marker = "o" if len(parts) <= 16 else ""
        panel.plot(middles, means, color=series_color(number), label=label, linewidth=1.2, marker=marker, markersize=3)
    panel.set(yscale="log", xlabel="frequency", ylabel="part of the energy")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    label_values(panel)
    panel.legend()
