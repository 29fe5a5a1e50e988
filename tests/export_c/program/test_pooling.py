"""Convolutions that store their output pooled, or are made in parts."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

import tailcut
from tailcut.export_c.export import lower
from tailcut.export_c.program.memory import scratch_floats
from tailcut.export_c.program.program import Program
from tailcut.export_c.writing.text import features


def pooled(*between: nn.Module, stride: int = 2, **settings: Any) -> Program:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 5), *between, nn.MaxPool2d(2, stride), nn.Conv2d(12, 10, 5)).eval()
    if settings:
        tailcut.regularize(model, **settings)
    program, _ = lower(model, tailcut.to_dense(model).eval(), torch.rand(1, 3, 24, 18))
    return program


def test_outputs_are_stored_pooled() -> None:
    """Where the order of numbers is kept up to the pooling, its windows are tiles, and all channels cost no more."""
    for program in (pooled(), pooled(nn.ReLU()), pooled(nn.LeakyReLU(0.1)), pooled(keep_ratio=1.0, axes=(0, 1))):
        (first, second, _) = program.stages
        assert first.out is not None
        assert (first.pool, first.out.channels, first.out.height, first.out.width) == ((2, 2), 12, 10, 7)
        assert second.value.is_plain
    negative = nn.BatchNorm2d(12)
    nn.init.constant_(negative.weight, -1.0)
    few = pooled(num_kept=4)
    for program in (pooled(negative), pooled(nn.SiLU()), pooled(stride=1), few):
        assert not program.stages[0].is_pooled
    assert few.stages[0].out is not None
    assert few.stages[0].out.channels < 12


def test_cores_larger_than_all_else_are_made_in_parts() -> None:
    whole, parts = pooled(num_kept=4), pooled(keep_ratio=1.0)
    assert [stage.part for stage in whole.stages] == [0, 0, 0]
    (_, second, _) = parts.stages
    assert 0 < second.part < 10
    whole_core = replace(second, part=0)
    assert scratch_floats(whole_core) - scratch_floats(second) == (10 - second.part) * 12 * 5 * 5
    assert parts.arena_floats < scratch_floats(whole_core)
    assert "#define TAILCUT_HAS_PARTS 1" in features(parts)
    assert "#define TAILCUT_HAS_PARTS 0" in features(whole)
