"""Levels of a network; what a file makes of them is in tests/format/test_levels.py."""

import copy
from pathlib import Path

import pytest
import torch
from tests.format.networks import resnet20
from torch import nn

import tailcut
from tailcut.channels import recalibrate

LEVELS = (0.25, 0.5)


@pytest.mark.parametrize("dtypes", [("float32", None), ("quantized", None), ("float16", "quantized")])
def test_each_level_has_statistics_of_its_own(dtypes: tuple[str, str | None], tmp_path: Path) -> None:
    model, path = resnet20(), tmp_path / "a.tailcut"
    inputs = [torch.rand(8, 3, 32, 32) for _ in range(2)]
    settings = {"dtype": dtypes[0], "other_dtype": dtypes[1], "step": 0.01 if "quantized" in dtypes else None}
    before = copy.deepcopy(model.state_dict())
    tailcut.save(model, path, levels=LEVELS, loader=inputs, **settings)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for level in (1, 2, 3):
        found = tailcut.load(path, level=level)
        expected = copy.deepcopy(found)
        if level < 3:
            recalibrate(expected, inputs)
        for name, value in expected.named_buffers():
            wanted = value if level < 3 else model.get_buffer(name)
            if name.endswith(("running_mean", "running_var")):
                torch.testing.assert_close(found.get_buffer(name), wanted, rtol=0.1, atol=0.02)


def test_without_calibration_batch_norm_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tailcut.save(resnet20(), tmp_path / "a.tailcut", levels=LEVELS)
    assert "give loader=" in caplog.text


def test_statistics_that_are_kept_as_they_are_are_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`recalibrate` leaves them too: a loader would change nothing."""
    model = resnet20()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    tailcut.save(model, tmp_path / "a.tailcut", levels=LEVELS, registered=False)
    assert "give loader=" not in caplog.text
