"""What `fuse` declares: which changes are followed, which are an error until `refresh`, and what runs densely."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.execution.networks import STRATEGIES, reasons_of, strategies_of
from torch import Tensor, nn
from torch.nn.utils import parametrize

import tailcut
from tailcut.errors import StructureError
from tailcut.execution import FusedNetwork, fuse
from tailcut.weights import truncated_tensors


def network(num_kept: int = 12) -> Any:
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64)), nn.Conv2d(64, 8, 1)
    )
    tailcut.regularize(model.double().eval(), num_kept=num_kept)
    return model


X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def assert_like_source(fused: FusedNetwork, *args: Any, **kwargs: Any) -> None:
    """Two calls, as the second one may be shorter."""
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fused(*args, **kwargs), fused.source(*args, **kwargs))


def trained(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(X).square().mean().backward()
    optimizer.step()


def loaded(model: Any, *, assign: bool = False) -> None:
    model.load_state_dict({key: value * 1.5 for key, value in model.state_dict().items()}, assign=assign)


def shortened(model: Any) -> None:
    schedule = tailcut.TailTruncation(model, num_kept=6, num_steps=1)
    schedule.step()
    schedule.compact()


FOLLOWED: dict[str, Callable[[Any], object]] = {
    "trained": trained,
    "loaded": loaded,
    "assigned": lambda model: loaded(model, assign=True),
    "cut": lambda model: truncated_tensors(model)[1].truncation.cut(5),
    "shortened": shortened,
    "in training": lambda model: model.train(),
    "partly in training": lambda model: model[2].train(),
    "a new bias": lambda model: setattr(model[3], "bias", nn.Parameter(torch.ones(8, dtype=torch.float64))),
    "converted there and back": lambda model: model.float().double(),
    "a part without layers": lambda model: setattr(model[1], "inplace", True),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("change", FOLLOWED)
def test_parameters_buffers_and_the_mode_may_change(change: str, strategy: str) -> None:
    fused = fuse(network())
    fused.strategy = strategy
    assert_like_source(fused, X)
    FOLLOWED[change](fused.source)
    with torch.no_grad():
        # Batch norm in training changes its buffers, and its answer in evaluation with them.
        torch.testing.assert_close(fused(X), copy.deepcopy(fused.source)(X))
        fused.eval()
        torch.testing.assert_close(fused(X), fused.source(X))


def doubled(layer: Any) -> None:
    own = layer.forward
    layer.forward = lambda x: 2 * own(x)


REPLACED = "modules of {} were replaced, added or removed [(]{}[)]"
# name -> (the change, what the error says)
REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "a layer replaced": (
        lambda model: setattr(model, "3", nn.Conv2d(64, 5, 1).double()),
        REPLACED.format("the network", "3"),
    ),
    "a plain part replaced": (lambda model: setattr(model, "1", nn.Tanh()), REPLACED.format("the network", "1")),
    "appended": (lambda model: model.append(nn.Sigmoid()), REPLACED.format("the network", "4")),
    "deleted": (lambda model: delattr(model, "3"), REPLACED.format("the network", "3")),
    "an inner part replaced": (lambda model: setattr(model[2], "1", nn.Identity()), REPLACED.format("'2'", "1")),
    "parametrisation removed": (
        lambda model: parametrize.remove_parametrizations(model[0], "weight"),
        REPLACED.format("'0'", "parametrizations"),
    ),
    "another truncation": (
        lambda model: setattr(model[0].parametrizations, "weight", network(num_kept=9)[0].parametrizations.weight),
        REPLACED.format("'0'", "weight"),
    ),
    "a hook on the network": (
        lambda model: model.register_forward_hook(lambda *results: 3 * results[2]),
        "hooks were added to the network",
    ),
    "a hook on a layer": (
        lambda model: model[0].register_forward_pre_hook(lambda module, args: (2 * args[0],)),
        "hooks were added to '0'",
    ),
    "a backward hook": (
        lambda model: model[0].register_full_backward_hook(lambda module, inner, outer: None),
        "hooks were added to '0'",
    ),
    "a forward set": (lambda model: doubled(model[3]), "forward of '3' was set"),
    "a forward of a container set": (lambda model: doubled(model[2]), "forward of '2' was set"),
    "a stride set": (lambda model: setattr(model[0], "stride", (2, 2)), "stride of '0' was set"),
    "a precision set": (
        lambda model: setattr(truncated_tensors(model)[0].truncation, "precision", "bfloat16"),
        "the precision of 0.weight was set to 'bfloat16'",
    ),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", REFUSED)
def test_other_changes_are_an_error_until_refresh(name: str, strategy: str) -> None:
    change, message = REFUSED[name]
    fused = fuse(network())
    fused.strategy = strategy
    assert_like_source(fused, X)
    change(fused.source)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients), pytest.raises(StructureError, match=message) as error:
            fused(X)
        assert "Call refresh()" in str(error.value)
    fused.refresh()
    assert_like_source(fused, X)


def test_a_layer_with_hooks_runs_densely_and_the_others_fused() -> None:
    model, seen = network(), []
    model[2][0].register_forward_hook(lambda module, args, output: seen.append((module, type(output))))
    fused = fuse(model)
    fused.strategy = "low_rank"
    with torch.no_grad():
        torch.testing.assert_close(fused(X), model(X))
    assert seen == [(model[2][0], Tensor)] * 2
    assert reasons_of(fused)["2.0"] == "'2.0' has hooks"
    assert strategies_of(fused)["0"] != "dense"


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # when torch loads its compiler
@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (
            lambda model: setattr(model, "2", torch.compile(model[2], backend="eager")),
            "'2' is compiled by torch.compile",
        ),
        (lambda model: model.compile(backend="eager"), "the network is compiled by torch.compile"),
        (lambda model: setattr(model, "2", fuse(model[2])), "'2' is a fused network itself"),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_networks_with_wrapped_parts_run_as_they_are(wrap: Callable[[Any], Any], reason: str, strategy: str) -> None:
    model = network()
    wrap(model)
    fused = fuse(model)
    fused.strategy = strategy
    assert_like_source(fused, X)
    assert set(reasons_of(fused).values()) == {reason}
    assert set(strategies_of(fused).values()) == {"dense"}


class Keeping(nn.Module):
    """Two layers, and code that keeps something of each call."""

    last: Tensor | None

    def __init__(self, keep: Callable[["Keeping", Tensor], object]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 8, 3)
        self.keep, self.calls, self.other = keep, 0, nn.Identity()
        self.register_buffer("last", None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self.keep(self, y)
        result: Tensor = self.b(torch.relu(y))
        return result


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda model, y: setattr(model, "calls", model.calls + 1), "its forward sets calls of the network"),
        (lambda model, y: setattr(model, "last", y), "its forward keeps a map in last of ''"),
        (lambda model, y: setattr(model.other, "seen", y), "its forward keeps a map in seen of 'other'"),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_networks_that_keep_state_run_as_they_are(keep: Any, reason: str, strategy: str) -> None:
    model = Keeping(keep)
    tailcut.regularize(model.double(), num_kept=12)
    fused = fuse(model)
    fused.strategy = strategy
    expected = copy.deepcopy(model)
    x = torch.randn(64, 3, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(fused(x), expected(x))
    assert model.calls == expected.calls
    for kept, wanted in (
        (model.last, expected.last),
        (vars(model.other).get("seen"), vars(expected.other).get("seen")),
    ):
        assert type(kept) is type(wanted)
        torch.testing.assert_close(kept, wanted)
    if strategy == "low_rank" or "sets" in reason:
        assert set(reasons_of(fused).values()) == {reason}


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor, *, cache: Any) -> Tensor:
        cache.append(x)
        result: Tensor = self.body(sum(cache.items if isinstance(cache, Cache) else cache))
        return result


class Cache:
    """What an attention keeps of the tokens before, in an object of a class of its own."""

    def __init__(self) -> None:
        self.items: list[Tensor] = []

    def append(self, item: Tensor) -> None:
        self.items.append(item)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (list, "its forward changes a list or dict among its arguments"),
        (Cache, "an argument is a Cache, which a forward may change"),
    ],
)
def test_what_a_forward_keeps_in_an_argument_is_kept_once(kind: Any, reason: str) -> None:
    model = Remembering()
    fused, mine, theirs = fuse(model), kind(), kind()
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(fused(X, cache=mine), model(X, cache=theirs))
    assert len(mine if kind is list else mine.items) == 3
    assert set(reasons_of(fused).values()) == {reason}


@pytest.mark.parametrize("engine", ["torch", "compiled"])
@pytest.mark.parametrize("gradients", [False, True])
def test_the_same_input_gives_the_same_bits_in_twenty_calls(engine: str, gradients: bool) -> None:
    """Also after other shapes, and in another wrapper; work done before must not choose the engine."""
    if engine == "compiled":
        pytest.importorskip("numba")
    full = nn.Sequential(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 64, 3, padding=1))
    tailcut.regularize(full, num_kept=40)
    # 2^20 numbers between the layers: enough for compiled loops; and a network that is too small for anything.
    for model, x in ((full, torch.randn(2, 64, 64, 64)), (network().float(), torch.randn(1, 3, 12, 12))):
        fused = fuse(model.eval(), engine=engine)
        with torch.set_grad_enabled(gradients):
            first = fused(x)
            assert ("dense" in strategies_of(fused).values()) == (model is not full)
            for number in range(20):
                fused(x[..., : 8 + number % 3])
                assert torch.equal(fused(x), first)
            assert torch.equal(fuse(model, engine=engine)(x), first)
            assert fused.report().engine == engine


def test_the_first_call_runs_once_where_all_layers_are_dense_and_twice_at_most() -> None:
    calls: list[int] = []
    model = network()
    model[1].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        fuse(model)(X)
        assert len(calls) == 1
        large = torch.randn(1, 3, 40, 40, dtype=torch.float64)
        fused = fuse(model)
        for _ in range(3):
            fused(large)
    assert len(calls) <= 5


def test_a_forward_that_writes_to_its_input_does_so_once() -> None:
    class Adding(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            result: Tensor = super().forward(input.add_(1))  # type: ignore[no-untyped-call]
            return result

    for mode in (torch.no_grad, torch.inference_mode):
        model = Adding(*network())
        with mode():
            x = torch.zeros(1, 3, 40, 40, dtype=torch.float64)
            result = fuse(model)(x)
            assert torch.equal(x, torch.ones_like(x))
            torch.testing.assert_close(result, model(torch.zeros_like(x)))


def test_buffers_and_random_numbers_of_a_probe_are_put_back(tmp_path: Path) -> None:
    model = nn.Sequential(*network(), nn.Dropout(0.3), nn.BatchNorm2d(8, dtype=torch.float64)).train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fused = fuse(model, X)
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    plain = copy.deepcopy(model)
    for _ in range(2):
        torch.manual_seed(1)
        found = fused(X)
        torch.manual_seed(1)
        torch.testing.assert_close(found, plain(X))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[key])


def test_attributes_of_the_network_are_had_from_the_network() -> None:
    model = network()
    model.config = {"width": 64}
    fused = fuse(model, X)
    with pytest.raises(AttributeError, match=r"no attribute 'config'; of the network itself it is .source.config"):
        _ = fused.config
    fused.source = network()
    with pytest.raises(StructureError, match="make another one"):
        fused(X)
