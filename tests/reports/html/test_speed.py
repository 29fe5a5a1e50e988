import dataclasses

import pytest
import torch
from torch import nn

from tailcut.errors import ArgumentError
from tailcut.reports.html.speed import MOST_ROUNDS, measure_speed, speed_section
from tailcut.reports.networks import ReportedNetwork
from tailcut.structure import create_model
from tailcut.weights import regularize


def test_a_truncated_network_runs_both_ways() -> None:
    torch.manual_seed(0)
    model = create_model("lenet300")
    regularize(model, num_kept=100)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    speed = measure_speed("a", model)
    assert speed.input_shape == (1, 1, 28, 28)
    assert speed.fused_seconds is not None
    assert speed.largest_difference is not None
    assert 0 < speed.fused_seconds < 60
    assert 0 < speed.dense_seconds < 60
    assert 0 <= speed.largest_difference < 1e-3
    assert 1 <= speed.num_rounds <= MOST_ROUNDS
    assert speed.num_threads == torch.get_num_threads()
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_plain_network_has_one_way() -> None:
    speed = measure_speed("a", create_model("lenet300").eval())
    assert (speed.fused_seconds, speed.largest_difference) == (None, None)
    assert speed.dense_seconds > 0


def test_several_outputs_are_fine() -> None:
    model = create_model("vae", hidden=16)
    regularize(model, num_kept=30)
    speed = measure_speed("a", model.eval())
    assert speed.largest_difference is not None
    assert speed.largest_difference < 1e-3


def test_an_own_class_does_not_tell_its_input() -> None:
    with pytest.raises(ArgumentError, match="registered family"):
        measure_speed("a", nn.Linear(2, 2))


def test_the_table_says_how_it_was_measured(networks: list[ReportedNetwork]) -> None:
    broken = dataclasses.replace(networks[0], name="broken", model=nn.Linear(2, 2))
    missing = dataclasses.replace(networks[0], name="missing", model=None, missing={"model": "not there"})
    section, speeds = speed_section([*networks, broken, missing])
    assert [speed.name for speed in speeds] == [network.name for network in networks]
    text = "".join(section.body[0].itertext())
    assert "no layer is truncated" in text
    assert f"{1000 * speeds[0].dense_seconds:.2f} ms" in text
    assert f"{torch.get_num_threads()} of torch's threads" in section.introduction
    assert section.skipped["missing"] == "not there"
    assert "registered family" in section.skipped["broken"]


@pytest.mark.parametrize("error", [ValueError("too small"), AssertionError(), IndexError("no such axis"), KeyError(3)])
def test_whatever_a_users_network_raises_is_named(
    error: Exception, networks: list[ReportedNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(type(networks[1].model), "forward", refuse)
    section, speeds = speed_section(networks[1:2])
    assert speeds == []
    assert section.skipped == {"zoo:lenet5-776": f"its example input does not run: {str(error) or 'AssertionError'}"}


def test_outputs_that_are_not_finite_have_no_difference(networks: list[ReportedNetwork]) -> None:
    model = create_model("lenet300")
    regularize(model, num_kept=100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e30)
    section, (speed,) = speed_section([dataclasses.replace(networks[0], model=model.eval())])
    assert speed.largest_difference is None
    assert '"largest_difference": null' in speed.to_json()
    assert "not finite" in "".join(section.body[0].itertext())
