from pathlib import Path
from typing import Any

import pytest
import tests.torchvision_operators  # noqa: F401
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

import tailcut
from tailcut.data import open_dataset
from tailcut.weights import kept_counts

pytest.importorskip("transformers", reason="needs the extra transformers")
pytest.importorskip("accelerate", reason="needs the extra transformers")

from transformers import Trainer, TrainerCallback, TrainingArguments

from tailcut.integrations.transformers import PackCallback, RateLossCallback, TruncationCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
]


class Digits(nn.Module):
    """A network as `Trainer` takes it: keywords in, a dict with the loss out."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tailcut.load("zoo:lenet5-776")  # knows MNIST's digits, but not these

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(images)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Items(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.images, self.labels = open_dataset("digits", "train").batch(range(1024))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"images": self.images[place], "labels": self.labels[place]}


class StopAfter(TrainerCallback):
    """Ends a training early, as a job that is cut off."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or state.epoch >= self.epochs


def train(
    model: nn.Module,
    folder: Path,
    callbacks: list[Any],
    epochs: int,
    optimizer: Any,
    *,
    resume: str | bool = False,
    **settings: Any,
) -> None:
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=64,
        **{"save_strategy": "epoch", "save_total_limit": 1, **settings},
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        seed=1,
    )
    trainer = Trainer(model, arguments, train_dataset=Items(), callbacks=callbacks, optimizers=(optimizer, None))
    trainer.train(resume_from_checkpoint=resume)


def accuracy(file: Path) -> float:
    images, labels = open_dataset("digits", "train").batch(range(1024, 1280))
    with torch.no_grad():
        return float((tailcut.load(file)(images).argmax(1) == labels).float().mean())


def test_tails_are_cut_and_each_checkpoint_has_its_file(tmp_path: Path) -> None:
    model = Digits()
    callbacks = [
        TruncationCallback(model.network, num_kept=100, num_steps=3),
        PackCallback(model.network, dtype="float16"),
    ]
    train(model, tmp_path, callbacks, 8, torch.optim.Adam(model.parameters(), lr=0.02))
    assert set(kept_counts(model.network).values()) == {100}
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert tailcut.inspect(checkpoint / "model.tailcut").num_kept == 400
    assert (tmp_path / "model.tailcut").read_bytes() == (checkpoint / "model.tailcut").read_bytes()
    assert accuracy(tmp_path / "model.tailcut") > 0.5


def test_training_for_bytes_ends_at_the_size(tmp_path: Path) -> None:
    model = Digits()
    rate_loss = tailcut.RateLoss(model.network, target_bytes=700, num_steps=8 * 16)
    callbacks = [RateLossCallback(rate_loss), PackCallback(model.network, rate_loss=rate_loss)]
    train(model, tmp_path, callbacks, 8, rate_loss.optimizer(torch.optim.Adam, lr=0.1))
    assert not rate_loss.is_rounded
    assert 600 < (tmp_path / "model.tailcut").stat().st_size <= 700
    assert accuracy(tmp_path / "model.tailcut") > 0.5


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return truncated(tmp_path_factory.mktemp("uncut"))


def truncated(folder: Path, *callbacks: TrainerCallback, resume: bool = False) -> Digits:
    model = Digits()
    cuts = TruncationCallback(model.network, num_kept=60, num_steps=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    train(model, folder, [cuts, *callbacks], 4, optimizer, resume=resume)
    return model


def test_cuts_go_on_where_a_checkpoint_was_written(
    uncut: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = truncated(tmp_path, StopAfter(2))
    assert "the training ended before its last cut" in caplog.text
    assert min(kept_counts(stopped.network).values()) > 60
    caplog.clear()
    resumed = truncated(tmp_path, resume=True)
    assert not caplog.text
    assert set(kept_counts(resumed.network).values()) == {60}
    assert same(resumed, uncut)


@pytest.mark.parametrize("step", [1, 4, 8, 16])
def test_a_checkpoint_behind_the_last_step_of_an_epoch_loses_no_cut(
    step: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is written before the cut of its epoch, and on resuming that epoch counts as finished."""

    def run(folder: Path, resume: str | bool = False) -> Digits:
        model = Digits()
        cuts = TruncationCallback(model.network, num_kept=60, num_steps=4)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        steps = {"save_strategy": "steps", "save_steps": step, "save_total_limit": None}
        train(model, folder, [cuts], 4, optimizer, resume=resume, **steps)
        return model

    whole = run(tmp_path)
    again = run(tmp_path / "again", resume=str(tmp_path / f"checkpoint-{step}"))
    assert not caplog.text
    assert kept_counts(again.network) == kept_counts(whole.network)
    assert same(again, whole)


def trained_for_bytes(folder: Path, *callbacks: TrainerCallback, resume: bool = False) -> tailcut.RateLoss:
    model = Digits()
    rate_loss = tailcut.RateLoss(model.network, target_bytes=700, num_steps=3 * 16)
    optimizer = rate_loss.optimizer(torch.optim.Adam, lr=0.05)
    train(model, folder, [RateLossCallback(rate_loss), *callbacks], 3, optimizer, resume=resume)
    return rate_loss


def test_a_training_for_bytes_goes_on_where_a_checkpoint_was_written(tmp_path: Path) -> None:
    whole = trained_for_bytes(tmp_path / "whole")
    trained_for_bytes(tmp_path / "cut", StopAfter(1))
    resumed = trained_for_bytes(tmp_path / "cut", resume=True)
    assert resumed.target.num_done == whole.target.num_done == 48
    assert torch.equal(resumed.log_steps, whole.log_steps)


class Interrupted(TrainerCallback):
    """Pressing Ctrl-C within a step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def test_after_an_interrupt_within_a_step_the_network_has_its_numbers_again(tmp_path: Path) -> None:
    model = Digits()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    rate_loss = tailcut.RateLoss(model.network, target_bytes=700, num_steps=32)
    callback = RateLossCallback(rate_loss)
    optimizer = rate_loss.optimizer(torch.optim.Adam, lr=0.05)
    with pytest.raises(KeyboardInterrupt):
        train(model, tmp_path, [callback, Interrupted()], 1, optimizer)
    assert rate_loss.is_rounded
    callback.close()
    assert not rate_loss.is_rounded
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())

    with pytest.raises(KeyboardInterrupt):
        train(model, tmp_path, [callback, Interrupted()], 1, optimizer)
    train(model, tmp_path, [callback], 2, optimizer)  # where the last one is open still
    assert not rate_loss.is_rounded
    assert rate_loss.target.num_done == 32


def test_a_checkpoint_without_the_state_of_a_callback_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Digits()
    train(model, tmp_path, [StopAfter(1)], 4, torch.optim.Adam(model.parameters(), lr=0.02))
    truncated(tmp_path, resume=True)
    assert "the checkpoint has no state of TruncationCallback: it begins anew" in caplog.text
