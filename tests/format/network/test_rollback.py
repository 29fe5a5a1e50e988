"""Every torch call of `load(into=)` and every system call of `save` fails once: nothing is ever half done."""

import contextlib
import os
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


class FailsOnce(TorchFunctionMode):
    """Raises MemoryError at the call of torch with this number, once."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # Switching gradients on and off takes no memory; were it to fail, they would stay off after the test.
        self.left -= getattr(func, "__name__", "") != "_set_grad_enabled"
        if self.left == 0:
            self.left = -1
            raise MemoryError
        return func(*args, **(kwargs or {}))


def image(model: nn.Module) -> list[Any]:
    """All that a network is: classes, attributes, hooks, names, and the identity and numbers of its tensors."""
    found: list[Any] = [record_of(model), list(model.state_dict())]
    for name, module in model.named_modules():
        found.append((name, type(module), sorted(vars(module)), module.training))
        found += [(key, dict(value)) for key, value in vars(module).items() if key.endswith("_hooks") and value]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        gradient = None if tensor.grad is None else tensor.grad.clone()
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
def test_load_into_fails_at_every_call(case: Any, tmp_path: Path) -> None:
    path, make = case(tmp_path)
    network = randomize(make(), 3).train()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, values = str(image(network)), numbers(network)
    calls = 0
    while True:
        calls += 1
        try:
            with FailsOnce(calls):
                tailcut.load(path, into=network)
            break
        except (MemoryError, tailcut.TailcutError) as error:
            found = str(error)
        # A copy that cannot be made is told as such.
        assert not found or "cannot be copied" in found
        assert str(image(network)) == before, calls
        after = numbers(network)
        assert all(same_bits(after[name], values[name]) for name in values), calls
    assert calls > 50
    assert record_of(network).edits
    sound = tailcut.load(path, into=make())
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
def test_save_fails_at_every_call(dtype: str, tmp_path: Path) -> None:
    model = randomize(OwnNet(), 1)
    tailcut.regularize(model, num_kept=4)
    path = tmp_path / "a.tailcut"
    path.write_bytes(b"old")
    before, values, calls = str(image(model)), numbers(model), 0
    while True:
        calls += 1
        try:
            with FailsOnce(calls):
                tailcut.save(model, path, dtype=dtype)
            break
        except (MemoryError, tailcut.TailcutError):
            assert path.read_bytes() == b"old", calls
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.tailcut"], calls
        assert str(image(model)) == before, calls
        assert all(same_bits(value, values[name]) for name, value in numbers(model).items()), calls
    assert calls > 20
    tailcut.load(path, into=OwnNet())
