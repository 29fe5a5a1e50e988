from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import tailcut
from tailcut.data import open_dataset
from tailcut.errors import ArgumentError, StructureError
from tailcut.format.container.numbers import QUANTIZED_DTYPE
from tailcut.weights import kept_counts

pytest.importorskip("pytorch_lightning", reason="needs the extra lightning")

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import ModelCheckpoint

from tailcut.integrations.lightning import PackCallback, RateLossCallback, TruncationCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory"),
    pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def network() -> nn.Module:
    """LeNet-5 with 194 coefficients in each of 4 layers, which knows MNIST's digits but not these."""
    return tailcut.load("zoo:lenet5-776").train()


class Digits(lightning.LightningModule):
    """A LightningModule as users write it."""

    def __init__(self, target_bytes: int | None = None) -> None:
        super().__init__()
        self.network = network()
        self.rate_loss = None
        if target_bytes is not None:
            self.rate_loss = tailcut.RateLoss(self.network, target_bytes=target_bytes, num_steps=8 * 16)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("accuracy", (self.network(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.rate_loss is not None:
            return self.rate_loss.optimizer(torch.optim.Adam, lr=0.1)
        return torch.optim.Adam(self.parameters(), lr=0.02)


def loader(part: range) -> DataLoader[tuple[Tensor, ...]]:
    images, labels = open_dataset("digits", "train").batch(part)
    return DataLoader(TensorDataset(images, labels), batch_size=64)


def trainer(folder: Path, callbacks: list[Any], max_epochs: int) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        default_root_dir=folder,
        callbacks=[*callbacks, ModelCheckpoint(dirpath=folder, save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(folder: Path, callbacks: list[Any], module: Digits, max_epochs: int, **settings: Any) -> lightning.Trainer:
    made = trainer(folder, callbacks, max_epochs)
    torch.manual_seed(1)
    made.fit(module, loader(range(1024)), loader(range(1024, 1280)), **settings)
    return made


def test_tails_are_cut_epoch_by_epoch_and_the_file_lies_beside_the_checkpoint(tmp_path: Path) -> None:
    module = Digits()
    cut = TruncationCallback(module.network, num_kept=100, num_steps=3)
    made = fit(tmp_path, [cut, PackCallback(module.network, dtype="float16")], module, 8)
    assert set(kept_counts(module.network).values()) == {100}
    assert all(len(parameter) == 100 for parameter in module.network.parameters())
    packed = tailcut.load(tmp_path / "model.tailcut")
    images, _ = open_dataset("digits", "train").batch(range(64))
    torch.testing.assert_close(packed(images), module.network.eval()(images), rtol=0.02, atol=0.02)
    assert float(made.callback_metrics["accuracy"]) > 0.4
    assert float(made.callback_metrics["num_kept"]) == 400


def test_a_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def run(folder: Path, max_epochs: int, **settings: Any) -> Digits:
        module = Digits()
        fit(folder, [TruncationCallback(module.network, num_kept=100, num_steps=4)], module, max_epochs, **settings)
        return module

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "part", 2)
    again = run(tmp_path / "part", 4, ckpt_path=tmp_path / "part" / "last.ckpt", weights_only=False)
    assert kept_counts(again.network) == kept_counts(whole.network)
    for one, other in zip(again.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("step", [16, 32, 64])
def test_a_checkpoint_behind_the_last_step_of_an_epoch_loses_no_cut(step: int, tmp_path: Path) -> None:
    """It is written before the cut of its epoch, and on resuming that epoch counts as finished."""

    def run(folder: Path, **settings: Any) -> Digits:
        module = Digits()
        cut = TruncationCallback(module.network, num_kept=100, num_steps=4)
        saver = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=16, save_top_k=-1)
        fit(folder, [cut, saver], module, 4, **settings)
        return module

    whole = run(tmp_path)
    again = run(tmp_path / "again", ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=False)
    assert kept_counts(again.network) == kept_counts(whole.network)
    for one, other in zip(again.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_training_for_bytes_ends_at_the_size(tmp_path: Path) -> None:
    module = Digits(target_bytes=700)
    assert module.rate_loss is not None
    callbacks = [RateLossCallback(module.rate_loss), PackCallback(module.network, rate_loss=module.rate_loss)]
    made = fit(tmp_path, callbacks, module, 8)
    assert not module.rate_loss.is_rounded
    assert 600 < (tmp_path / "model.tailcut").stat().st_size <= 700
    report = tailcut.inspect(tmp_path / "model.tailcut")
    assert {tensor.dtype for tensor in report.tensors} == {QUANTIZED_DTYPE}
    images, labels = open_dataset("digits", "train").batch(range(1024, 1280))
    with torch.no_grad():
        accuracy = float((tailcut.load(tmp_path / "model.tailcut")(images).argmax(1) == labels).float().mean())
    assert accuracy > 0.5
    assert abs(float(made.callback_metrics["accuracy"]) - accuracy) < 0.05, "validation sees the network of the file"


def test_the_gradients_of_the_bytes_are_scaled_like_those_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """As 16-mixed does it, on a GPU, whose optimiser divides all gradients by the scale again."""
    monkeypatch.setattr(Digits, "log", lambda *args: None)
    images, labels = open_dataset("digits", "train").batch(range(8))
    found = []
    for scale in (1.0, 4.0):
        torch.manual_seed(0)
        module = Digits(target_bytes=700)
        assert module.rate_loss is not None
        callback, scaler = RateLossCallback(module.rate_loss), SimpleNamespace(scale=lambda loss, by=scale: by * loss)
        trainer: Any = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler if scale > 1 else None))
        callback.on_train_batch_start(trainer, module, None, 0)
        loss = module.training_step((images, labels))
        callback.on_before_backward(trainer, module, loss)
        (scale * loss).backward()
        callback.on_after_backward(trainer, module)
        found.append([parameter.grad for parameter in module.network.parameters()])
    for plain, scaled in zip(*found, strict=True):
        torch.testing.assert_close(scaled, 4 * plain)


def test_each_step_has_its_own_gradients(tmp_path: Path) -> None:
    """Lightning calls `zero_grad` while the network is rounded."""

    class Still(Digits):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            assert self.rate_loss is not None
            return self.rate_loss.optimizer(torch.optim.SGD, lr=0.0, step_lr=0.0)

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            gradient = self.network.get_parameter("conv1.parametrizations.weight.original").grad
            assert gradient is not None
            norms.append(float(gradient.norm()))

    norms: list[float] = []
    images, labels = open_dataset("digits", "train").batch(range(64))
    alike = DataLoader(TensorDataset(images.repeat(4, 1, 1, 1), labels.repeat(4)), batch_size=64)
    module = Still(target_bytes=700)
    assert module.rate_loss is not None
    trainer(tmp_path, [RateLossCallback(module.rate_loss)], 1).fit(module, alike)
    assert len(norms) == 4
    assert max(norms) < 1.1 * min(norms)  # the noise and the weight of the bytes differ


def test_no_module(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        PackCallback("network")  # type: ignore[arg-type]
    with pytest.raises(StructureError, match="not regularised"):
        TruncationCallback(nn.Linear(3, 3), num_kept=5)


@pytest.mark.parametrize("way", ["batch", "epoch"])
def test_batches_that_are_left_out_leave_no_rounded_network(way: str, tmp_path: Path) -> None:
    class Skipping(Digits):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if way == "epoch" and batch_idx == 3 else None

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:  # type: ignore[override]
            return None if way == "batch" and batch_idx == 3 else super().training_step(batch)

    module = Skipping(target_bytes=700)
    assert module.rate_loss is not None
    made = trainer(
        tmp_path, [RateLossCallback(module.rate_loss), PackCallback(module.network, rate_loss=module.rate_loss)], 1
    )
    made.fit(module, loader(range(256)))
    assert not module.rate_loss.is_rounded
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    numbers = state["network.conv1.parametrizations.weight.original"]
    assert len(numbers.unique()) > 0.9 * len(numbers)  # those behind the rounding


def test_cutting_and_bytes_exclude_each_other(tmp_path: Path) -> None:
    module = Digits(target_bytes=700)
    assert module.rate_loss is not None
    cut = TruncationCallback(module.network, num_kept=100, num_steps=1)
    with pytest.raises(ArgumentError, match="coefficients must keep their number, so cut them before"):
        fit(
            tmp_path,
            [cut, RateLossCallback(module.rate_loss), PackCallback(module.network, rate_loss=module.rate_loss)],
            module,
            1,
        )


def test_several_batches_to_a_step_are_refused_in_several_processes() -> None:
    module = Digits(target_bytes=700)
    assert module.rate_loss is not None
    callback = RateLossCallback(module.rate_loss)
    for world_size, batches in ((1, 4), (2, 1)):
        trainer: Any = SimpleNamespace(world_size=world_size, accumulate_grad_batches=batches)
        callback.on_train_start(trainer, module)
    several: Any = SimpleNamespace(world_size=2, accumulate_grad_batches=4)
    with pytest.raises(ArgumentError, match=r"in 2 processes .* got accumulate_grad_batches=4: set it to 1"):
        callback.on_train_start(several, module)
