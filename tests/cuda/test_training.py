"""Training and evaluation on a CUDA device, on the digits that come with scikit-learn."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.small_recipe import MakeRecipe

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
