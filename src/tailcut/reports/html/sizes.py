"""Bytes of a packed file, layer by layer."""

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from tailcut.format import InspectReport
from tailcut.reports.html.elements import Child, PageSection, element, table
from tailcut.reports.networks import ReportedNetwork

FRAME = "head, names of edits, checksum"


def sizes_section(networks: Sequence[ReportedNetwork]) -> PageSection:
    """Return a table per network."""
    section = PageSection(
        "Bytes per layer",
        "bytes",
        "What the packed file spends on each layer: coefficients, and other numbers (biases, batch norm, weights "
        "that are not truncated). A payload is packed as one; a layer's bytes are its share of it.",
    )
    for network in networks:
        if network.stored is None:
            section.skipped[network.name] = network.missing["stored"]
        else:
            section.body += [element("h3", network.name), _table(network.name, network.stored)]
    return section


def layer_bytes(stored: InspectReport) -> dict[str, tuple[int, int, int]]:
    """By layer: coefficients and other numbers that the file holds, and their bytes. All bytes add up to the file.

    The layer of a tensor is its name without the last part; what belongs to no tensor stands under `FRAME`.
    """
    layers: dict[str, tuple[int, int, int]] = {}

    def add(name: str, num_kept: int, num_other: int, num_bytes: int) -> None:
        path, _, attribute = name.rpartition(".")
        kept, other, size = layers.get(path or attribute, (0, 0, 0))
        layers[path or attribute] = (kept + num_kept, other + num_other, size + num_bytes)

    for tensor in stored.tensors:
        add(tensor.name, tensor.num_kept, 0, tensor.bytes)
    for plain in stored.other_tensors:
        add(plain.name, 0, math.prod(plain.shape), plain.bytes)
    layers[FRAME] = (0, 0, stored.file_bytes - sum(size for _, _, size in layers.values()))
    return layers


def _table(name: str, stored: InspectReport) -> Element:
    layers = layer_bytes(stored)
    largest = max(1, *(size for _, _, size in layers.values()))
    rows: list[list[Child]] = [
        [
            layer,
            f"{kept:,}" if kept else "",
            f"{other:,}" if other else "",
            f"{size:,}",
            f"{100 * size / stored.file_bytes:.1f} %",
            element(
                "div", element("div", style=f"width: {100 * size / largest:.1f}%"), class_="bar", aria_hidden="true"
            ),
        ]
        for layer, (kept, other, size) in layers.items()
    ]
    rows.append(["the file", f"{stored.num_kept:,}", "", f"{stored.file_bytes:,}", "100.0 %", ""])
    header = ["layer", "coefficients", "other numbers", "bytes", "of the file", ""]
    return table(f"bytes per layer of {name}", header, rows, align="<>>>><")
