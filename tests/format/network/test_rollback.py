"""Each place of `load(into=)` and `save` that calls torch or the system fails once: nothing is ever half done."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.format.networks import OwnNet, randomize, same_bits
from torch import nn
from torch.overrides import TorchFunctionMode

import tailcut
from tailcut.format.network.rollback import unchanged_on_error
from tailcut.structure import record_of


class CountsCalls(TorchFunctionMode):
    """Calls of torch, from 1 on, by the lines of ours that lead to them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.places: dict[object, list[int]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Switching gradients on and off takes no memory; were it to fail, they would stay off after the test.
        if getattr(func, "__name__", "") != "_set_grad_enabled":
            self.count += 1
            self.called(self.count)
        return func(*args, **(kwargs or {}))

    def called(self, number: int) -> None:
        frame, lines = sys._getframe(2), []
        while frame.f_back is not None:
            if "tailcut" in frame.f_globals["__name__"]:
                lines.append((frame.f_globals["__name__"], frame.f_lineno))
            frame = frame.f_back
        self.places.setdefault(tuple(lines), []).append(number)

    def first_and_last(self) -> list[int]:
        """Of each place, the calls with nothing and with all done of what a loop there does for each tensor."""
        return sorted({number for numbers in self.places.values() for number in (numbers[0], numbers[-1])})


class FailsOnce(CountsCalls):
    """Raises MemoryError at the call of torch with this number, once."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def called(self, number: int) -> None:
        if number == self.at:
            raise MemoryError


def image(model: nn.Module) -> list[Any]:
    """All that a network is: classes, attributes, hooks, names, and the identity and numbers of its tensors."""
    found: list[Any] = [record_of(model), list(model.state_dict())]
    for name, module in model.named_modules():
        found.append((name, type(module), sorted(vars(module)), module.training))
        found += [(key, dict(value)) for key, value in vars(module).items() if key.endswith("_hooks") and value]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        gradient = None if tensor.grad is None else tensor.grad.numpy().tobytes()  # torch prints slowly, and rounds
        found.append((name, id(tensor), tensor.requires_grad, tuple(tensor.shape), gradient))
    return found


def numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def pruned(folder: Path) -> tuple[Path, Callable[[], nn.Module]]:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))

    model = randomize(make(), 2).eval()
    example = torch.zeros(1, 3, 8, 8)
    tailcut.channels.prune(model, example, {"0": torch.arange(8.0)}, {"0": 0.5})
    tailcut.regularize(model, num_kept=5)
    tailcut.save(model, folder / "cut.tailcut", metadata={"class_names": ["a", "b"]})
    return folder / "cut.tailcut", make


def regularised(folder: Path) -> tuple[Path, Callable[[], nn.Module]]:
    model = randomize(OwnNet(), 1)
    tailcut.regularize(model, num_kept=5)
    tailcut.save(model, folder / "own.tailcut")
    return folder / "own.tailcut", OwnNet


def quantised(folder: Path) -> tuple[Path, Callable[[], nn.Module]]:
    model = randomize(OwnNet(), 1)
    tailcut.regularize(model, num_kept=5)
    tailcut.save(model, folder / "small.tailcut", dtype="quantized")
    return folder / "small.tailcut", OwnNet


@pytest.mark.parametrize("case", [regularised, pruned, quantised])
def test_load_into_fails_at_each_place(case: Any, tmp_path: Path) -> None:
    path, make = case(tmp_path)
    sound = tailcut.load(path, into=make())  # what is computed once is there when calls are counted
    network, other = (randomize(make(), 3).train() for _ in range(2))
    for parameter in (*network.parameters(), *other.parameters()):
        parameter.grad = torch.ones_like(parameter)
    with CountsCalls() as calls:
        tailcut.load(path, into=other)
    before, values = str(image(network)), numbers(network)
    for number in calls.first_and_last():
        with pytest.raises((MemoryError, tailcut.TailcutError)) as caught, FailsOnce(number):
            tailcut.load(path, into=network)
        # A copy that cannot be made is told as such.
        assert not str(caught.value) or "cannot be copied" in str(caught.value)
        assert str(image(network)) == before, number
        after = numbers(network)
        assert all(same_bits(after[name], values[name]) for name in values), number
    assert len(calls.places) > 100
    tailcut.load(path, into=network)
    assert record_of(network).edits
    assert all(same_bits(value, sound.state_dict()[name]) for name, value in network.state_dict().items())


def test_an_interruption_leaves_the_network_too() -> None:
    network = OwnNet()
    before = str(image(network))

    def interrupted() -> None:
        with unchanged_on_error(network):
            tailcut.regularize(network, num_kept=3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert str(image(network)) == before
    tailcut.regularize(network, num_kept=3)


@pytest.mark.parametrize("name", ["fsync", "replace", "chmod", "fdopen"])
def test_save_fails_at_a_system_call(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tailcut"
    model = randomize(OwnNet(), 1)
    tailcut.save(model, path)
    old, before = path.read_bytes(), str(image(model))
    failed = []

    def fail(*_: object, **__: object) -> None:
        failed.append(name)
        raise OSError(28, "No space left on device")

    tailcut.regularize(other := randomize(OwnNet(), 2), num_kept=4)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        if name in ("replace", "chmod", "rename"):
            patch.setattr(Path, name, fail)
        with contextlib.suppress(OSError):
            tailcut.save(other, path)
    assert failed
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tailcut"]
    assert str(image(model)) == before
    tailcut.save(other, path)
    assert path.read_bytes() != old


@pytest.mark.parametrize("dtype", ["float32", "quantized"])
def test_save_fails_at_each_place(dtype: str, tmp_path: Path) -> None:
    model = randomize(OwnNet(), 1)
    tailcut.regularize(model, num_kept=4)
    before, values = str(image(model)), numbers(model)
    path = tmp_path / "a.tailcut"
    tailcut.save(model, path, dtype=dtype)  # what is computed once is there when calls are counted
    with CountsCalls() as calls:
        tailcut.save(model, path, dtype=dtype)
    path.write_bytes(b"old")
    for number in calls.first_and_last():
        with pytest.raises((MemoryError, tailcut.TailcutError)), FailsOnce(number):
            tailcut.save(model, path, dtype=dtype)
        assert path.read_bytes() == b"old", number
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.tailcut"], number
        assert str(image(model)) == before, number
        assert all(same_bits(value, values[name]) for name, value in numbers(model).items()), number
    assert len(calls.places) > 40
    tailcut.save(model, path, dtype=dtype)
    tailcut.load(path, into=OwnNet())
