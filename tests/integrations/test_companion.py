"""What the callbacks of all trainers share."""

from pathlib import Path

import pytest
import torch
from torch import nn

import tailcut
from tailcut.errors import ArgumentError
from tailcut.integrations.companion import EpochCuts, check_settings, warn_if_unfinished, write_companion


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20))
    tailcut.regularize(model, num_kept=400, warn=False)
    return model


def test_a_cut_between_an_epoch_s_last_step_and_its_checkpoint_is_made_up() -> None:
    schedule = tailcut.TailTruncation(network(), num_kept=100, num_steps=3, spacing="geometric")
    cuts = EpochCuts(schedule)
    cuts.begin(0)
    cuts.end_epoch()
    state, kept = cuts.state_dict(), dict(schedule.num_kept)

    other = tailcut.TailTruncation(network(), num_kept=100, num_steps=3, spacing="geometric")
    resumed = EpochCuts(other)
    resumed.load_state_dict(state)
    assert dict(other.num_kept) == kept
    resumed.begin(1)  # the epoch that was cut: nothing is missing
    assert dict(other.num_kept) == kept
    resumed.load_state_dict(state)
    resumed.begin(2)  # one epoch more was trained, but not cut
    cuts.end_epoch()
    assert dict(other.num_kept) == dict(schedule.num_kept) != kept


def test_a_training_that_ends_before_its_cuts_is_told(caplog: pytest.LogCaptureFixture) -> None:
    schedule = tailcut.TailTruncation(network(), num_kept=100, num_steps=2)
    schedule.step()
    warn_if_unfinished(schedule)
    assert "100 were asked for; train more epochs" in caplog.text
    caplog.clear()
    schedule.finish()
    warn_if_unfinished(schedule)
    assert not caplog.text


def test_the_file_lies_in_the_folder_which_is_made(tmp_path: Path) -> None:
    model = network()
    write_companion(model, tmp_path / "a" / "b", None, {"dtype": "float16"})
    assert tailcut.inspect(tmp_path / "a" / "b" / "model.tailcut").tensors[0].dtype == "float16"
    rate_loss = tailcut.RateLoss(model, target_bytes=700, num_steps=2)
    write_companion(model, tmp_path, rate_loss, {})
    assert tailcut.inspect(tmp_path / "model.tailcut").tensors[0].dtype == "quantized"


def test_settings_that_the_file_does_not_take_are_told_before_the_training() -> None:
    check_settings(None, {"dtype": "float16", "other_dtype": "float16", "metadata": {"a": 1}})
    with pytest.raises(ArgumentError, match=r"PackCallback takes no folder; it takes dtype, .*levels"):
        check_settings(None, {"folder": "a", "dtype": "float16"})
    loss = tailcut.RateLoss(network(), target_bytes=300, num_steps=10)
    check_settings(loss, {"loader": [torch.rand(2, 30)], "num_gradients": 20})
    with pytest.raises(ArgumentError, match="PackCallback takes no dtype; it takes loader, num_gradients"):
        check_settings(loss, {"dtype": "float16"})
