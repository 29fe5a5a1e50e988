import copy
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tests.execution.networks import ResNet
from torch import Tensor, nn

import tailcut
from tailcut.execution import fuse, pays_in_training
from tailcut.execution.ir import cost
from tailcut.execution.wrapper.snapshot import ModelSnapshot, try_out


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x) + torch.rand(3)
        return result


def test_a_trial_leaves_statistics_and_random_numbers_as_they_were() -> None:
    model, x = Noisy(), torch.randn(8, 3)
    state, random = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    try_out(model, lambda: model(x))
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_it_is_known_whether_somebody_wrote_to_an_input() -> None:
    x = torch.ones(3)
    before = ModelSnapshot(nn.Identity(), (x,))
    assert before.can_be_taken_back()
    x.add_(1)
    assert not before.can_be_taken_back()


def test_a_call_with_a_cache_of_its_own_kind_cannot_be_taken_back() -> None:
    assert not ModelSnapshot(nn.Identity(), (torch.ones(3),), {"cache": Cache()}).can_be_taken_back()


def test_random_numbers_of_numpy_are_put_back() -> None:
    before = np.random.get_state()
    try_out(nn.Identity(), lambda: np.random.rand())
    for one, two in zip(np.random.get_state(), before, strict=True):
        assert np.array_equal(one, two)


class Mixed(nn.Module):
    """Much that runs densely, and a little that would gain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 256, 1, bias=False)
        self.norm = nn.BatchNorm2d(256)
        self.depthwise = nn.Sequential(*[nn.Conv2d(256, 256, 3, padding=1, groups=256) for _ in range(12)])
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.depthwise(self.dropout(torch.relu(self.norm(self.stem(x)))))
        return result


def test_a_network_that_gains_too_little_as_a_whole_runs_densely(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Mixed().train()
    tailcut.regularize(model, num_kept=20)
    x = torch.randn(4, 3, 24, 24)
    monkeypatch.setattr(cost, "MARGIN_WITH_GRADIENTS", 10.0)  # each layer alone would run narrowly
    fused, plain = fuse(model), copy.deepcopy(model)
    torch.manual_seed(1)
    first = fused(x)
    assert {layer.strategy for layer in fused.report().layers} == {"dense"}
    assert "as a whole" in fused.report().layers[0].reason
    torch.manual_seed(1)
    torch.testing.assert_close(first, plain(x))
    assert torch.equal(model.get_buffer("norm.running_mean"), plain.get_buffer("norm.running_mean"))
    assert int(model.norm.num_batches_tracked or 0) == 1
    torch.manual_seed(1)
    assert torch.equal(fused(x), first)  # what the first call gave is what all later ones give


def test_a_network_that_writes_to_its_input_does_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Mixed()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.body(x.add_(1))
            return result

    monkeypatch.setattr(cost, "MARGIN", 10.0)
    model = Adding().eval()
    tailcut.regularize(model, num_kept=20)
    x = torch.zeros(1, 3, 24, 24)
    with torch.no_grad():
        result = fuse(model)(x)
        assert torch.equal(x, torch.ones_like(x))
        torch.testing.assert_close(result, model(torch.zeros_like(x)))


class Cache:
    """What an attention keeps of the images before, in an object of a class of its own."""

    def __init__(self) -> None:
        self.items: list[Tensor] = []

    def append(self, item: Tensor) -> None:
        self.items.append(item)


class LockedCache(Cache):
    def __deepcopy__(self, memo: dict[int, Any]) -> "LockedCache":
        raise TypeError("it holds a lock")


class Remembering(nn.Module):
    """Its answer depends on all images that were kept before."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, *, cache: Any) -> Tensor:
        if isinstance(cache, dict):
            cache["sum"] = cache.get("sum", 0) + x
            return self.body(cache["sum"])  # type: ignore[no-any-return]
        cache.append(x)
        return self.body(sum(cache.items if isinstance(cache, Cache) else cache))  # type: ignore[no-any-return]


def paying() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 512, 3), nn.ReLU(), nn.Conv2d(512, 512, 3), nn.ReLU(), nn.Conv2d(512, 4, 1))


def writing_below_a_view() -> nn.Module:
    """It writes to a map whose view it reads afterwards, which the narrow program cannot follow."""

    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = paying()

        def forward(self, x: Tensor) -> Tensor:
            first, _, second, _, last = self.body
            y = first(x)
            view = y.transpose(2, 3)
            y.relu_()
            result: Tensor = last(second(view))
            return result

    return Writing()


@pytest.mark.parametrize("kind", [list, dict, Cache, LockedCache])
@pytest.mark.parametrize("body", [Mixed, paying, writing_below_a_view])
def test_what_a_forward_keeps_in_an_argument_is_kept_once(kind: Any, body: Any) -> None:
    model = Remembering(body()).eval()
    tailcut.regularize(model, num_kept=20)
    fused, mine, theirs = fuse(model), kind(), kind()
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(1, 3, 32, 32)
            torch.testing.assert_close(fused(x, cache=mine), model(x, cache=theirs))
    if kind is not dict:
        items = [cache.items if isinstance(cache, Cache) else cache for cache in (mine, theirs)]
        assert [len(entry) for entry in items] == [3, 3]
    strategies = {layer.strategy for layer in fused.report().layers}
    assert ("fused" in strategies) == (body is paying and kind is not LockedCache)
    if kind is LockedCache:
        assert "it holds a lock" in fused.report().layers[0].reason


class Knowing(nn.Module):
    """It knows an argument by its identity, as code does that has a constant for "not given"."""

    NOT_GIVEN: Any = object()

    def __init__(self) -> None:
        super().__init__()
        self.body = paying()

    def forward(self, x: Tensor, other: Any = NOT_GIVEN) -> Tensor:
        if other is not self.NOT_GIVEN:
            raise ValueError("expected nothing else")
        result: Tensor = self.body(x)
        return result


class Settled:
    """A constant that stays itself in copies."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Settled":
        return self


def test_what_goes_wrong_with_copies_of_arguments_only_is_no_error() -> None:
    model = Knowing().eval()
    tailcut.regularize(model, num_kept=20)
    fused, x = fuse(model), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(fused(x, Knowing.NOT_GIVEN), model(x))
    assert "tried on copies of its arguments (ValueError: expected nothing else)" in fused.report().layers[0].reason


def test_a_call_that_is_wrong_itself_settles_nothing() -> None:
    model = Knowing().eval()
    tailcut.regularize(model, num_kept=20)
    fused, x = fuse(model), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        with pytest.raises(ValueError, match="expected nothing else"):
            fused(x, iter([1]))
        Knowing.NOT_GIVEN, before = Settled(), Knowing.NOT_GIVEN
        try:
            torch.testing.assert_close(fused(x, Knowing.NOT_GIVEN), model(x, Knowing.NOT_GIVEN))
        finally:
            Knowing.NOT_GIVEN = before
    assert "fused" in {layer.strategy for layer in fused.report().layers}


class Installing(nn.Module):
    """It puts hooks on a layer in the first forward that wants them, as networks do that give their hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.body = paying()
        self.is_installed = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_installed:
            self.body[0].register_forward_hook(lambda module, args, output: output + 1)
            self.is_installed = True
        result: Tensor = self.body(x)
        return result


def test_hooks_that_a_forward_installs_are_there_once() -> None:
    model = Installing().eval()
    tailcut.regularize(model, num_kept=20)
    expected = copy.deepcopy(model)(x := torch.randn(1, 3, 6, 6))
    torch.testing.assert_close(fuse(model, x)(x), expected)
    assert len(model.body[0]._forward_hooks) == 1
    torch.testing.assert_close(model(x), expected)


def test_autocast_is_forgotten_afterwards() -> None:
    model, x = ResNet().eval(), torch.randn(ResNet.example)
    tailcut.regularize(model, num_kept=20)
    fused = fuse(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fused(x)
    assert "autocast" in fused.report().layers[0].reason
    with torch.no_grad():
        fused(x)
    assert "autocast" not in fused.report().layers[0].reason


def test_a_regularised_module_around_others_runs_densely_too() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.randn(1, 32, 16))
            self.body = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.body(x + self.position)
            return result

    model = Around()
    tailcut.regularize(model, num_kept={"position": 20, "body.0.weight": 10, "body.2.weight": 10})
    fused, x = fuse(model), torch.randn(2, 32, 16)
    for _ in range(3):
        torch.testing.assert_close(fused(x), model(x))
    fused(x).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
    with torch.no_grad():
        for strategy in ("auto", "narrow", "dense", "auto"):
            fused.strategy = strategy
            torch.testing.assert_close(fused(x), model(x))


def test_sparse_buffers_are_put_back() -> None:
    model = nn.Module()
    model.register_buffer("links", torch.eye(3).to_sparse())
    try_out(model, lambda: model.get_buffer("links").mul_(2))
    assert torch.equal(model.get_buffer("links").to_dense(), torch.eye(3))


class Counting(nn.Module):
    """Buffers and attributes that are assigned, buffers that come and go."""

    count: Tensor
    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(64, 128, 3, padding=1)
        self.last = nn.Conv2d(128, 128, 3, padding=1)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("average", torch.zeros(128))
        self.register_buffer("cache", None)
        self.calls = 0
        self.state = torch.ones(3)
        self.log: list[int] = []
        self.is_first: bool = True

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        self.count = self.count + 1
        self.average = 0.9 * self.average + 0.1 * y.mean((0, 2, 3)).detach()
        if "cache" in self._buffers:
            del self.cache
        self.register_buffer("extra", torch.zeros(2))
        self.state.mul_(0.5)
        self.calls += 1
        self.log.append(self.calls)
        self.draw = random.random()
        if hasattr(self, "is_first"):
            del self.is_first
        result: Tensor = self.last(torch.relu(y))
        return result


def test_a_trial_binds_names_as_they_were() -> None:
    model, x = Counting(), torch.randn(1, 64, 6, 6)
    attributes, buffers, numbers = dict(vars(model)), dict(model._buffers), random.getstate()
    try_out(model, lambda: model(x))
    assert vars(model) == attributes
    assert model._buffers.keys() == buffers.keys()
    assert all(model._buffers[name] is buffer for name, buffer in buffers.items())
    assert random.getstate() == numbers
    assert torch.equal(model.state, torch.ones(3))
    assert model.log == [1]  # what it does to objects of its own is done


@pytest.mark.parametrize("example", [None, torch.zeros(1, 64, 12, 12)])
def test_assigned_buffers_and_attributes_count_calls_and_not_trials(example: Tensor | None) -> None:
    model, x = Counting(), torch.randn(2, 64, 12, 12)
    tailcut.regularize(model, num_kept=12)
    plain = copy.deepcopy(model)
    fused = fuse(model, example, engine="torch")
    assert (int(model.count), model.calls) == (0, 0)
    with torch.no_grad():
        for number in range(1, 4):
            random.seed(number)
            found = fused(x)
            random.seed(number)
            torch.testing.assert_close(found, plain(x))
            assert (int(model.count), model.calls, model.draw) == (number, number, plain.draw)
            torch.testing.assert_close(model.average, plain.average)
            torch.testing.assert_close(model.state, plain.state)
    assert {layer.reason for layer in fused.report().layers} == {"the network as a whole would gain too little"}
    pays_in_training(model, x)
    assert (int(model.count), model.calls) == (3, 3)


def test_layers_that_find_their_sizes_in_a_trial_keep_them() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    try_out(model, lambda: model(torch.ones(2, 3)))
    assert type(model[0]) is nn.Linear
    assert model(torch.ones(5, 3)).shape == (5, 4)


def test_buffers_of_scripts_are_put_back() -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        model = torch.jit.script(nn.BatchNorm1d(3))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try_out(model, lambda: model(torch.randn(8, 3)))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])
