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
from tailcut.integrations.companion import COMPANION
from tailcut.weights import kept_counts

pytest.importorskip("transformers", reason="needs the extra transformers")
pytest.importorskip("accelerate", reason="needs the extra transformers")

from transformers import Trainer, TrainingArguments

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


def train(model: nn.Module, folder: Path, callbacks: list[Any], epochs: int, optimizer: Any) -> None:
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=64,
        save_strategy="epoch",
        save_total_limit=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        seed=1,
    )
    Trainer(model, arguments, train_dataset=Items(), callbacks=callbacks, optimizers=(optimizer, None)).train()


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
    assert tailcut.inspect(checkpoint / COMPANION).num_kept == 400
    assert (tmp_path / COMPANION).read_bytes() == (checkpoint / COMPANION).read_bytes()
    assert accuracy(tmp_path / COMPANION) > 0.5


def test_training_for_bytes_ends_at_the_size(tmp_path: Path) -> None:
    model = Digits()
    rate = tailcut.RateLoss(model.network, target_bytes=700, num_steps=8 * 16)
    callbacks = [RateLossCallback(rate), PackCallback(model.network, rate=rate)]
    train(model, tmp_path, callbacks, 8, rate.optimizer(torch.optim.Adam, lr=0.1))
    assert not rate.is_rounded
    assert 600 < (tmp_path / COMPANION).stat().st_size <= 700
    assert accuracy(tmp_path / COMPANION) > 0.5
