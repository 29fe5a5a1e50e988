"""Training and evaluation on a CUDA device, on the digits that come with scikit-learn."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.small_recipe import MakeRecipe
from torch import Tensor
from torch.nn.functional import cross_entropy

import tailcut
from tailcut.data import open_dataset
from tailcut.evaluation import evaluate
from tailcut.runs import Run
from tailcut.runtime.devices import Devices
from tailcut.runtime.share import Share
from tailcut.structure import create_model
from tailcut.training.batches import batches as batches_of_an_epoch
from tailcut.training.train import train
from tailcut.training.trainer import base
from tailcut.training.trainer.cuda_graph import WARM_UP, RecordedGradients

DEVICE = torch.device("cuda")

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Of a backward pass that is the first to multiply.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning"),
]


def test_metrics() -> None:
    network, digits = create_model("lenet5"), open_dataset("digits", "test")
    tailcut.regularize(network, num_kept=300)
    expected = evaluate(network, digits)
    found = evaluate(network, digits, share=Share(DEVICE), warn=True)
    # A digit whose two best classes are equal up to rounding may change.
    assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=0.01)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "override", ["training.precision=bf16", "optimizer.ema_decay=0.9", "regularization.initialization=lsuv"]
)
def test_a_training_that_is_interrupted_and_resumed(
    override: str, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, recipe = Devices(DEVICE.type), make_recipe("training.epochs=2", override)
    whole = train(recipe, tmp_path / "whole", devices=devices)

    def batches(*args: Any, **settings: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches_of_an_epoch(*args, **settings)):
            if settings["epoch"] == 1 and number == 3:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(base, "batches", batches)
        with pytest.raises(tailcut.TailcutError, match="1 finished epoch is saved"):
            train(recipe, tmp_path / "parts", devices=devices)
    resumed = train(recipe, tmp_path / "parts", resume=True, devices=devices)

    # Not bit for bit: sums of gradients on a GPU have no fixed order.
    assert resumed.file_bytes == pytest.approx(whole.file_bytes, rel=0.05)
    assert resumed.metrics["accuracy"] == pytest.approx(whole.metrics["accuracy"], abs=0.2)
    assert next(tailcut.load(Run(tmp_path / "parts").model).parameters()).device.type == "cpu"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("override", ["training.precision=bf16", "training.round_from=0.5", "training.precision=fp32"])
def test_steps_replayed_as_a_cuda_graph_train_alike(override: str, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    devices = Devices(DEVICE.type)
    found = []
    for recorded in ("false", "true"):
        recipe = make_recipe(override, "training.execution=dense", f"training.cuda_graph={recorded}")
        train(recipe, tmp_path / recorded, devices=devices)
        found.append([line["loss"] for line in Run(tmp_path / recorded).read_metrics()])
    launched, replayed = found
    # Cuts, shortened vectors and the learning rate of each step are the same; sums of gradients have no fixed order.
    assert replayed == pytest.approx(launched, rel=0.1)


def test_gradients_replayed_as_a_cuda_graph() -> None:
    torch.manual_seed(0)
    network = create_model("lenet5").to(DEVICE)
    tailcut.regularize(network, num_kept=300)
    parameters = list(network.parameters())
    calls = []

    def compute(images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        calls.append(len(places))
        loss = cross_entropy(network(images), targets)
        loss.backward()
        return loss.detach()

    def launched(images: Tensor, targets: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        loss = cross_entropy(network(images), targets)
        return loss.item(), torch.autograd.grad(loss, parameters)

    recorded = RecordedGradients(compute, parameters, DEVICE)
    for size in (8, 5):  # another form is recorded anew
        calls.clear()
        for number in range(WARM_UP + 4):
            images, targets = torch.rand(size, 1, 28, 28, device=DEVICE), torch.randint(10, (size,), device=DEVICE)
            with torch.no_grad():  # the numbers of the network change between steps
                for parameter in parameters:
                    parameter.mul_(0.9)
            loss = recorded(images, targets, torch.arange(size))
            found = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
            expected_loss, expected = launched(images, targets)
            assert loss.item() == pytest.approx(expected_loss, rel=1e-5), number
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
        assert calls == [size] * (WARM_UP + 1)


def test_what_cannot_be_recorded_is_told() -> None:
    network = torch.nn.Linear(4, 4, device=DEVICE)

    def compute(images: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        loss: Tensor = network(images).square().mean()
        loss = loss * float(loss.detach().item() > -1)  # waits for the device
        loss.backward()
        return loss.detach()

    recorded = RecordedGradients(compute, list(network.parameters()), DEVICE)
    batch = torch.rand(2, 4, device=DEVICE), torch.zeros(2, device=DEVICE), torch.arange(2)
    for _ in range(WARM_UP):
        recorded(*batch)
    with pytest.raises(tailcut.TailcutError, match=r"training\.cuda_graph: a step of this network cannot be recorded"):
        recorded(*batch)
