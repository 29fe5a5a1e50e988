"""Planning for bytes: the parts add up, and a network so planned has a file of about that size."""

from pathlib import Path

import pytest
import torch
from torch import nn

import tailcut
from tailcut.errors import ArgumentError, StructureError
from tailcut.weights import kept_counts
from tailcut.weights.planning.byte_budget import byte_budget


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


def made() -> nn.Sequential:
    model = network()
    model(torch.randn(2, 3, 12, 12))
    return model


def test_the_parts_are_the_whole() -> None:
    plan = byte_budget(made(), 2000)
    assert sum(plan.bytes_by_kind.values()) == pytest.approx(2000, abs=2)
    assert plan.bytes_by_kind["batch norm"] == round((2 * 32 * 5 + 2 * 32 * 1) / 8)
    assert plan.bytes_by_kind["biases"] == round((64 + 10) * 5 / 8)
    assert list(plan.num_kept) == ["0.weight", "3.weight", "5.weight"]
    assert sum(plan.num_kept.values()) == pytest.approx(2 * plan.bytes_by_kind["coefficients"], abs=1)


def test_regularize_takes_it_and_says_what_takes_most() -> None:
    model = made()
    plan = byte_budget(made(), 2000)
    report = tailcut.regularize(model, target_bytes=2000, warn=False)
    assert kept_counts(model) == plan.num_kept
    assert report.planned == plan
    assert str(report).splitlines()[-1].startswith("of 2,000 bytes about: coefficients 1,8")
    assert tailcut.regularize(made(), num_kept=5, warn=False).planned is None


def test_the_file_can_have_that_size_at_about_four_bits(tmp_path: Path) -> None:
    """Written at the size that was planned, the coefficients have 3 to 6 bits each."""
    model = made()
    tailcut.regularize(model, target_bytes=2000, warn=False)
    tailcut.save(model, tmp_path / "a.tailcut", dtype="quantized", max_bytes=2000, registered=False)
    found = tailcut.inspect(tmp_path / "a.tailcut").tensors
    bits = sum((entry.bits or 0) * entry.num_kept for entry in found) / sum(entry.num_kept for entry in found)
    assert 3 < bits < 6


def test_what_is_left_is_left_for_the_same_reasons_as_without_a_plan() -> None:
    planned, plain = (
        tailcut.regularize(made(), **amount, warn=False) for amount in ({"target_bytes": 2000}, {"keep_ratio": 0.5})
    )
    assert [(entry.name, entry.reason) for entry in planned.skipped] == [
        (entry.name, entry.reason) for entry in plain.skipped
    ]
    assert {entry.reason for entry in planned.skipped} >= {"not a layer weight; name it in include"}


def test_no_more_than_there_is() -> None:
    model = made()
    report = tailcut.regularize(model, target_bytes=10_000_000, warn=False)
    assert "all coefficients are kept, in" in str(report)
    assert "all coefficients are kept" not in str(byte_budget(made(), 2000))
    assert all(
        count == weight.numel()
        for count, weight in zip(
            kept_counts(model).values(), (p for p in made().parameters() if p.ndim > 1), strict=True
        )
    )


def test_patterns_choose_the_tensors() -> None:
    plan = byte_budget(made(), 30_000, exclude="5.*")
    assert list(plan.num_kept) == ["0.weight", "3.weight"]
    assert plan.bytes_by_kind["other tensors"] == round(10 * 64 * 8 * 8 * 5 / 8)


def test_extra_state_takes_no_bytes() -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

    assert byte_budget(Counting(40, 20), 400) == byte_budget(nn.Linear(40, 20), 400)


def test_what_has_no_room_is_said() -> None:
    with pytest.raises(
        ArgumentError, match=r"target_bytes 90 has no room .* about \d+ bytes, \d+ of them for structure; ask for"
    ):
        byte_budget(made(), 90)
    with pytest.raises(ArgumentError, match="of them for other tensors"):
        byte_budget(made(), 2000, exclude="5.*")
    with pytest.raises(ArgumentError, match="give either keep_ratio or num_kept, or target_bytes"):
        tailcut.regularize(made(), target_bytes=1000, num_kept=5)
    with pytest.raises(ArgumentError, match="target_bytes must be"):
        byte_budget(made(), 0)
    model = made()
    tailcut.regularize(model, num_kept=5, warn=False)
    with pytest.raises(StructureError, match="regularised already"):
        tailcut.regularize(model, target_bytes=1000)


def test_sizes_must_be_known() -> None:
    with pytest.raises(ArgumentError, match=r"5\.weight is not initialised yet: run one forward first"):
        tailcut.regularize(network(), target_bytes=2000)


def test_tied_parameters_take_their_bytes_once() -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model[1].bias = model[0].bias
    assert byte_budget(model, 1000).bytes_by_kind["biases"] == round(40 * 5 / 8)
