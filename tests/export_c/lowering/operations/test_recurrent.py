"""GRU, LSTM and plain recurrent layers beside torch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.export_c.lowering.many import SMALL
from tests.export_c.networks import enliven, lively
from tests.export_c.running import compare
from torch import Tensor, nn

import tailcut
from tailcut.errors import StructureError
from tailcut.export_c.export import export_c
from tailcut.export_c.lowering.operations import recurrent

CLOSE = 5e-6
KINDS = (nn.GRU, nn.LSTM, nn.RNN)


class Recurrent(nn.Module):
    """A recurrent layer of (1, length, 5), and what networks take of its outputs."""

    def __init__(self, kind: Any = nn.GRU, takes: str = "last", **settings: Any) -> None:
        super().__init__()
        self.layer = kind(5, 6, batch_first=True, **settings)
        width = 6 * (1 + self.layer.bidirectional)
        self.head, self.takes = nn.Linear(width, 3), takes

    def forward(self, x: Tensor) -> Any:
        y, state = self.layer(x)
        state = state[0] if isinstance(state, tuple) else state
        if self.takes == "all":
            return self.head(y)
        if self.takes == "both":
            return y.relu(), state[-1]
        if self.takes == "state":
            return self.head(torch.cat([state[-2], state[-1]], 1) if self.layer.bidirectional else state[-1])
        if self.takes == "mean":
            return self.head(y.mean(1))
        if self.takes == "largest":
            return self.head(y.amax(1) + y.sum(dim=1))
        return self.head(y[:, -1])


def check(model: nn.Module, folder: Path, length: int = 9, options: tuple[str, ...] = ()) -> int:
    found, report = compare(model, folder, options=options, example_input=torch.rand(1, length, 5))
    assert found < CLOSE
    return report.arena_bytes


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_layers_and_directions(kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check(lively(Recurrent(kind, "all", num_layers=2, bidirectional=True)), tmp_path / "both")
    check(lively(Recurrent(kind, "both", bias=False)), tmp_path / "one", options=SMALL)


def test_the_last_state_alone_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arenas = [check(lively(Recurrent(takes=takes)), tmp_path / takes, 40) for takes in ("last", "state", "all")]
    assert arenas[0] == arenas[1] < arenas[2] - 4 * 6 * 38


@pytest.mark.parametrize("takes", ["mean", "largest"])
def test_states_are_pooled_over_time(takes: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check(lively(Recurrent(nn.LSTM, takes, bidirectional=True)), tmp_path)


def test_plain_layers_with_relu_and_last_states_of_both_directions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    check(lively(Recurrent(nn.RNN, "state", nonlinearity="relu", bidirectional=True)), tmp_path)


@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_random_layers(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whole or truncated along any axes, in loops for speed and for size."""
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    model = Recurrent(
        data.draw(st.sampled_from(KINDS)),
        data.draw(st.sampled_from(["all", "last", "state", "both"])),
        num_layers=data.draw(st.integers(1, 2)),
        bidirectional=data.draw(st.booleans()),
    )
    lively(model)
    axes = data.draw(st.sampled_from([None, (0, 1), (0,), (1,)]))
    if axes is not None:
        tailcut.regularize(model, keep_ratio=data.draw(st.sampled_from([0.2, 0.6, 1.0])), axes=axes)
        enliven(model)
    options = data.draw(st.sampled_from([(), SMALL]))
    check(model, tmp_path_factory.mktemp("c"), data.draw(st.integers(1, 12)), options)


class First(nn.Module):
    """A first state, or the cells of an LSTM."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.layer, self.start, self.function = (
            nn.LSTM(5, 6, batch_first=True),
            nn.Parameter(torch.ones(1, 1, 6)),
            function,
        )

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (First(lambda net, x: net.layer(x, (net.start, net.start))[0]), "a first state that is not zero"),
        (First(lambda net, x: net.layer(x)[1][1][0]), "the cells of an LSTM; C code gives its states"),
        (Recurrent(nn.LSTM, "both", proj_size=2), "proj_size"),
    ],
)
def test_what_has_no_form_is_named(model: nn.Module, message: str, tmp_path: Path) -> None:
    assert recurrent.HANDLERS
    with pytest.raises(StructureError, match=message):
        export_c(model, tmp_path / "c", example_input=torch.rand(1, 9, 5))


def test_integers_name_the_layer(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"gru .*: integers have no form of gru; export with"):
        export_c(Recurrent(), tmp_path / "c", example_input=torch.rand(1, 9, 5), arithmetic="integer")


class BatchSecond(nn.Module):
    """A recurrent layer as torch makes it, of (length, 1, features), and outputs as it gives them."""

    def __init__(self, *takes: Any) -> None:
        super().__init__()
        self.layer, self.head, self.takes = nn.GRU(8, 5), nn.Linear(5, 3), takes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y, _ = self.layer(x.permute(2, 0, 1))
        return tuple(take(self, y) for take in self.takes)


def test_outputs_whose_batch_is_the_second_axis_are_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(
        BatchSecond(
            lambda model, y: y,
            lambda model, y: model.head(y),
            lambda model, y: y.relu().permute(0, 2, 1),
            lambda model, y: y.permute(1, 2, 0),
            lambda model, y: y[-1],
        )
    )
    difference, report = compare(model, tmp_path / "floats", example_input=torch.rand(1, 8, 10))
    assert difference < CLOSE
    assert report.output_shapes == ((10, 5), (10, 3), (10, 5), (5, 10), (5,))
