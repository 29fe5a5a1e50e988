import dataclasses
import math
from pathlib import Path

import pytest
import torch
from tests.reports.html.pages import check_page
from torch import nn

from tailcut.format import inspect, save
from tailcut.reports.html.elements import write_page
from tailcut.reports.html.sizes import FRAME, layer_bytes, sizes_section
from tailcut.reports.networks import ReportedNetwork
from tailcut.weights import regularize


def test_layers_have_the_bytes_of_their_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))
    regularize(model, num_kept=10, include=["0.weight"])
    save(model, tmp_path / "a.tailcut")
    stored = inspect(tmp_path / "a.tailcut")
    layers = layer_bytes(stored)
    assert set(layers) == {"0", "1", "2", FRAME}
    assert layers["0"][:2] == (10, 8)
    assert layers["2"][:2] == (0, 32 + 4)
    assert layers["1"][:2] == (0, 4 * 8 + 1)
    assert layers["1"][2] == sum(tensor.bytes for tensor in stored.other_tensors if tensor.name.startswith("1."))
    assert sum(size for _, _, size in layers.values()) == (tmp_path / "a.tailcut").stat().st_size


def test_a_parameter_of_the_network_itself_is_its_own_layer(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    save(model, tmp_path / "a.tailcut")
    assert set(layer_bytes(inspect(tmp_path / "a.tailcut"))) == {"weight", "bias", FRAME}


def test_the_table_adds_up(networks: list[ReportedNetwork]) -> None:
    section = sizes_section(networks[1:2])
    page = check_page(write_page("a page", [], [section]))
    stored = networks[1].stored
    assert stored is not None
    assert f"{stored.file_bytes:,}" in page.text
    assert "fc1" in page.text
    widths = [float(box["style"].removeprefix("width: ").rstrip("%")) for box in page.all("div") if "style" in box]
    sizes = [size for _, _, size in layer_bytes(stored).values()]
    assert widths == [pytest.approx(100 * size / max(sizes), abs=0.051) for size in sizes]
    assert math.isclose(max(widths), 100)


def test_a_run_without_a_file_says_why(networks: list[ReportedNetwork]) -> None:
    network = dataclasses.replace(networks[0], stored=None, missing={"stored": "not finished"})
    section = sizes_section([network])
    assert (section.body, section.skipped) == ([], {network.name: "not finished"})
