from functools import partial
from typing import Any

import pytest
import torch
from tests.inputs import networks
from torch import nn

from tailcut.errors import ArgumentError, StructureError
from tailcut.inputs.selection.gate import FrequencyGate
from tailcut.inputs.selection.selection import Selection
from tailcut.inputs.stem.edit import GateEntry, Projection, ReplaceStemEdit, Resized, Setting
from tailcut.inputs.stem.trial import found, noise, runs_transform

EMPTY = ReplaceStemEdit(Selection.of(24))
PIXELS = torch.rand(1, 3, 16, 16)


def test_an_edit_is_completed_by_what_the_forwards_show() -> None:
    edit = found(EMPTY, networks.PreActivation().eval(), "norm", PIXELS)
    assert edit.removed == ("stem.0", "stem.1")
    assert edit.map_size == (4, 4)
    assert edit.resized == (
        Resized("norm", 24, 24, 0),
        Resized("depthwise", 24, 48, 24),
        Resized("pointwise", 48, 5, 1),
    )
    assert not edit.inside
    edit = found(EMPTY, networks.Residual(has_attribute=True).eval(), "block", PIXELS)
    assert edit.projections == (Projection("block", "shortcut", 24, 6),)
    assert edit.resized == (Resized("block.conv", 24, 6, 1),)
    edit = found(EMPTY, networks.sequence().eval(), "2", PIXELS)
    assert edit.inside
    assert edit.removed == ("0", "1")


def test_what_is_given_stays() -> None:
    given = ReplaceStemEdit(Selection.of(6), entry=GateEntry(2.0), settings=(Setting("body", "stride", 2),))
    edit = found(given, networks.SharedReLU().eval(), "relu", PIXELS)
    assert (edit.entry, edit.settings, edit.removed, edit.resized) == (given.entry, given.settings, ("conv",), ())


def test_a_layer_that_is_called_with_several_widths() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 1)
            self.norm = nn.BatchNorm2d(6)
            self.conv = nn.Conv2d(6, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.norm(self.conv(self.norm(self.stem(x))))
            return y

    with pytest.raises(StructureError, match="norm is called with different numbers of channels"):
        found(EMPTY, Twice().eval(), "norm", PIXELS)


def test_places_that_are_missing() -> None:
    with pytest.raises(StructureError, match="nothing runs before conv, so that a gate has no place"):
        found(ReplaceStemEdit(Selection.of(24), entry=GateEntry(1.0)), networks.Functional().eval(), "conv", PIXELS)
    with pytest.raises(StructureError, match="nothing runs before 0, so that the transform has no place"):
        found(EMPTY, networks.sequence().eval(), "0", PIXELS)
    unused = nn.Sequential(nn.Conv2d(3, 3, 1))
    unused[0].more = nn.Identity()
    with pytest.raises(ArgumentError, match=r"0\.more does not run"):
        found(EMPTY, unused.eval(), "0.more", PIXELS)


def test_whether_children_are_run() -> None:
    pixels = torch.rand(1, 3, 32, 32)
    for model, runs in ((networks.sequence(), True), (networks.AllInOrder(), True), (networks.Functional(), False)):
        modules = len(list(model.modules()))
        assert runs_transform(model, partial(model, pixels)) is runs
        assert len(list(model.modules())) == modules


def test_noise_is_always_the_same_and_leaves_the_random_state() -> None:
    state = torch.random.get_rng_state()
    one, other = noise((2, 3), torch.empty(0, dtype=torch.float64)), noise((2, 3), torch.empty(0, dtype=torch.float64))
    assert torch.equal(one, other)
    assert one.dtype == torch.float64
    assert 0 <= float(one.min()) < float(one.max()) <= 1
    assert torch.equal(torch.random.get_rng_state(), state)
    assert noise((2,), torch.empty(0, device="meta")).is_meta


def test_a_gate_counts_its_channels() -> None:
    assert FrequencyGate(EMPTY.selection).num_channels == 24


def test_what_to_do_about_channels_that_do_not_fit() -> None:
    residual = networks.Residual(has_attribute=False).eval()
    message = r"in block: .*size of tensor.*the stem gave block 6 channels: give as many \(inputs.square\(6\)\), name"
    with pytest.raises(StructureError, match=message):
        found(EMPTY, residual, "block", PIXELS)

    class Early(nn.Sequential):
        def forward(self, x: Any) -> Any:
            return self[1](self[0](x - torch.zeros(1, 3, 1, 1)))

    early = Early(nn.Conv2d(3, 6, 4, stride=4), nn.Conv2d(6, 8, 1)).eval()
    with pytest.raises(StructureError, match=r"in its own forward: .*; 1 was not reached: before it the forward does"):
        found(EMPTY, early, "1", PIXELS)


def test_maps_with_their_channels_last_are_refused() -> None:
    class Last(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1)

    stem = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), Last(), nn.LayerNorm(6))
    model = nn.Sequential(stem, nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 2)).eval()
    with pytest.raises(StructureError, match=r"1 was called with \(1, 4, 4, 6\), and no layer .* reads 4 channels"):
        found(EMPTY, model, "1", PIXELS)
