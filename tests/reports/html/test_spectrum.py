import re

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import nn

from tailcut.reports.html.spectrum import MAX_POINTS, axis_energies, axis_roles, spectrum_figure, spectrum_section
from tailcut.reports.networks import ReportedNetwork
from tailcut.weights import regularize, to_dense


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 4))


@pytest.mark.parametrize("num_kept", [None, 11])
def test_energies_are_those_of_scipys_dct_of_the_dense_weights(num_kept: int | None) -> None:
    model = small_network()
    if num_kept is not None:
        regularize(model, num_kept=num_kept)
    dense = to_dense(model).state_dict()
    found = dict(axis_energies(model))
    assert set(found) == {"0.weight", "3.weight"}
    for name, energies in found.items():
        square = dctn(dense[name].double().numpy(), norm="ortho") ** 2
        assert list(energies) == list(range(square.ndim))
        for axis, energy in energies.items():
            expected = square.sum(axis=tuple(other for other in range(square.ndim) if other != axis))
            np.testing.assert_allclose(expected[len(energy) :], 0, atol=1e-10)
            np.testing.assert_allclose(energy.numpy(), expected[: len(energy)], rtol=1e-4, atol=1e-10)


def test_only_transformed_axes_have_frequencies() -> None:
    model = small_network()
    regularize(model, keep_ratio=0.5, axes=(2, 3), include=["0.weight"])
    energies = dict(axis_energies(model))
    assert list(energies["0.weight"]) == [2, 3]
    total = to_dense(model).state_dict()["0.weight"].double().square().sum()
    assert float(energies["0.weight"][2].sum()) == pytest.approx(float(total), rel=1e-5)


def test_a_bias_has_one_axis() -> None:
    model = nn.Linear(3, 6)
    regularize(model, num_kept=4, include=["bias"])
    energies = dict(axis_energies(model))
    assert list(energies["bias"]) == [0]
    expected = dctn(to_dense(model).state_dict()["bias"].double().numpy(), norm="ortho")[:4] ** 2
    np.testing.assert_allclose(energies["bias"][0].numpy(), expected, rtol=1e-4, atol=1e-12)


def test_the_network_is_left_as_it_was() -> None:
    model = small_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dict(axis_energies(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_roles_are_those_of_the_layers() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Linear(3, 3))
    assert axis_roles(model)["0.weight"] == ("input", "output", "kernel", "kernel")
    assert axis_roles(model)["1.weight"] == ("output", "input")


def test_a_line_per_axis_with_few_points() -> None:
    energies = {0: torch.rand(1000, dtype=torch.float64) + 0.1, 1: torch.tensor([3.0, 1.0, 0.0])}
    made = spectrum_figure("fc", energies, ("output", "input"))
    paths = {
        series: path.attrib["d"]
        for path in made.iter("path")
        for series in re.findall(r"stroke: var\(--series-(\d)\)", path.attrib.get("style", ""))
        if "clip-path" in path.attrib
    }
    assert 0.9 * MAX_POINTS < len(re.findall("[ML]", paths["0"])) <= MAX_POINTS
    assert len(re.findall("[ML]", paths["1"])) == 2  # no energy, no point
    texts = [part.text for part in made.iter("text")]
    assert "axis 0, output" in texts
    assert "axis 1, input" in texts


def test_networks_without_truncated_weights_have_spectra_too(networks: list[ReportedNetwork]) -> None:
    section = spectrum_section(networks)
    assert section.skipped == {}
    titles = [part.text for part in section.body if part.tag == "h3"]
    assert titles == [network.name for network in networks]
    assert sum(len(list(part.iter("figure"))) for part in section.body) == 3 + 4 + 3


def test_a_point_of_many_frequencies_is_the_mean_of_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from tailcut.reports.html.spectrum import show_energies

    energy = torch.zeros(2 * MAX_POINTS, dtype=torch.float64)
    energy[0] = energy[2] = energy[3] = 1.0
    canvas = Figure()
    show_energies(canvas, {0: energy}, ())
    (line,) = canvas.axes[0].get_lines()
    assert np.asarray(line.get_ydata())[:2] == pytest.approx([1 / 6, 1 / 3])
