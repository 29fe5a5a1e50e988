import threading
import warnings

import pytest
import torch
from tests.channels.slim_networks import EXACT, Auxiliary, Gated, Plain, WidthOfTraining, same_state, state_of
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tailcut.channels.graph.tracing import trace
from tailcut.channels.scoring.forward import run, undisturbed
from tailcut.errors import ArgumentError
from tailcut.model_inputs import ModelInputs

X = torch.rand(2, 3, 16, 16)


@pytest.mark.parametrize("kind", EXACT)
def test_the_network_is_left_as_it_was(kind: str) -> None:
    model = EXACT[kind].build().train()
    before, random_state = state_of(model), torch.get_rng_state()
    found = trace(model, (EXACT[kind].example().float(),))
    assert same_state(before, state_of(model))
    assert torch.equal(random_state, torch.get_rng_state())
    assert found.idle == []
    assert found.trains


def test_layers_are_in_the_order_in_which_they_run() -> None:
    assert list(trace(Gated(), (X,)).layers) == ["conv", "norm", "squeeze", "excite", "gate", "head"]


def test_parameters_outside_of_layers_are_followed() -> None:
    found = trace(Gated(), (X,))
    outer = found.layers["conv"].outer
    assert outer is not None
    assert list(found.free) == ["scale"]
    assert torch.equal(found.coupling.roots(found.free["scale"]).flatten(), found.coupling.roots(outer))


def test_training_mode_is_tried_for_layers_that_did_not_run() -> None:
    model = Auxiliary()
    before = state_of(model)
    found = trace(model, (X[:1],))
    assert found.trains
    assert found.idle == []
    assert found.layers["auxiliary.0"].positions == 0
    assert found.layers["conv"].positions == 256
    assert same_state(before, state_of(model))
    assert found.outputs == [(1, 3, 16, 16)]


def test_a_training_mode_that_fails_leaves_the_layers_idle() -> None:
    class Fails(Auxiliary):
        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            if self.training:
                raise RuntimeError("no")
            return super().forward(x)

    found = trace(Fails(), (X,))
    assert found.idle == ["auxiliary.0", "auxiliary.1", "auxiliary.2"]
    assert not found.trains


@pytest.mark.parametrize(("slopes", "idle"), [(1, []), (8, ["3"])])
def test_a_prelu_of_one_slope_has_no_channels_that_could_be_idle(slopes: int, idle: list[str]) -> None:
    class Half(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for module in list(self)[:-1]:
                x = module(x)
            return x

    model = Half(nn.Conv2d(3, 8, 3), nn.PReLU(slopes), nn.Conv2d(8, 3, 3), nn.PReLU(slopes))
    assert trace(model, (X,)).idle == idle


class DropPath(nn.Module):
    """Leaves out an image's whole map, in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.8).div_(0.8) if self.training else x


def test_training_mode_is_followed_only_where_it_does_something_else() -> None:
    dropping = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), DropPath(), nn.Dropout2d(), nn.Conv2d(8, 3, 3))
    for model, is_alike in [(Plain(), True), (dropping, True), (Auxiliary(), False), (WidthOfTraining(), False)]:
        found = trace(model, (X[:1],))
        assert found.is_alike == is_alike, model
        assert found.trains
        assert len(found.flows) == (1 if is_alike else 2)


class Functional(nn.Module):
    """Uses the weight of a layer outside of it, and a weight of its own."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.conv, self.layer, self.own = nn.Conv2d(3, 4, 1), nn.Linear(4, 5), own
        self.weight = nn.Parameter(torch.rand(5, 4))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        y = functional.linear(x, self.weight) if self.own else self.layer(x) + functional.linear(x, self.layer.weight)
        z: Tensor = self.head(y)
        return z


def test_weights_used_outside_of_layers_lock_what_meets_them() -> None:
    found = trace(Functional(own=True), (X,))
    reasons = found.coupling.locked_units()
    outer = found.layers["conv"].outer
    assert outer is not None
    assert all("weights outside of a layer" in reasons[unit] for unit in found.coupling.roots(outer).tolist())
    found = trace(Functional(own=False), (X,))
    for axes in found.layers["layer"].axes["weight"].values():
        assert set(found.coupling.roots(axes).tolist()) <= set(found.coupling.locked_units())


def test_a_weight_that_is_looked_at_elsewhere_is_locked() -> None:
    class Penalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x)) + self.first.weight.square().sum()
            return y

    found = trace(Penalised(), (X,))
    outer = found.layers["first"].outer
    assert outer is not None
    reasons = {found.coupling.locked_units()[unit] for unit in found.coupling.roots(outer).tolist()}
    assert reasons == {"the weight of first is used outside of it, in the network's forward"}


def test_outputs_of_any_structure_are_locked() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 2, 1) for _ in range(3))

        def forward(self, x: Tensor) -> dict[str, object]:
            return {"a": self.a(x), "rest": [self.b(x), (self.c(x).mean(), "text", None)]}

    found = trace(Many(), (X,))
    assert found.outputs == [(2, 2, 16, 16), (2, 2, 16, 16), ()]
    units = found.coupling.locked_units()
    locked = {name: layer.outer is not None and int(found.coupling.roots(layer.outer)[0]) in units
              for name, layer in found.layers.items()}  # fmt: skip
    assert locked == {"a": True, "b": True, "c": False}


def test_computed_weights_are_reported() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    parametrizations.spectral_norm(model[1])
    found = trace(model, (X,))
    assert "parametrised (_SpectralNorm)" in str(found.layers["1"].why)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model[2])
    assert "computed by a hook" in str(trace(model, (X,)).layers["2"].why)


def test_tied_weights_are_cut_together_or_not_at_all() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.hidden, self.head = nn.Embedding(9, 5), nn.Linear(5, 5), nn.Linear(5, 9, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.hidden(self.table(x)))
            return y

    found = trace(Tied(), (torch.randint(9, (2, 4)),))
    roots = found.coupling.roots
    table, hidden, head = (found.layers[name].outer for name in ("table", "hidden", "head"))
    assert table is not None
    assert hidden is not None
    assert head is not None
    assert torch.equal(roots(table), roots(hidden))  # the width of the table is what the head takes
    assert set(roots(head).tolist()) <= set(found.coupling.locked_units())


def test_failures_are_told_with_the_shapes() -> None:
    with pytest.raises(ArgumentError, match=r"Conv2d does not run on an input of shape \(2, 5, 16, 16\): Given groups"):
        run(nn.Conv2d(3, 4, 1), ModelInputs((torch.rand(2, 5, 16, 16),)))
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    before = state_of(model)
    with pytest.raises(ArgumentError, match="Sequential does not run"):
        trace(model, (torch.rand(2, 5, 16, 16),))
    assert same_state(before, state_of(model))


def test_undisturbed_brings_back_buffers_modes_and_random_state() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    model[1].eval()
    state = torch.get_rng_state()
    before = state_of(model)
    with undisturbed(model):
        assert not model.training
        assert not torch.backends.mha.get_fastpath_enabled()
        model.train()
        model(X)
    assert torch.backends.mha.get_fastpath_enabled()
    assert same_state(before, state_of(model))
    assert torch.equal(state, torch.get_rng_state())


def test_threads_of_the_forward_are_fine() -> None:
    """A forward may do what it likes between its layers."""

    class Threads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: torch.ones(3) * 2)
            thread.start()
            thread.join()
            y: Tensor = self.head(self.conv(x) if float(x.sum()) > 0 else x)
            return y

    found = trace(Threads(), (X,))
    assert set(found.layers) == {"conv", "head"}
