"""Callbacks for PyTorch Lightning: cut tails, train for bytes, pack (extra `lightning`)."""

import importlib
import importlib.util
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tailcut.compression import RateLoss
from tailcut.errors import ArgumentError, MissingExtraError, importing_torchvision
from tailcut.integrations.companion import EpochCuts, check_settings, warn_if_unfinished, write_companion
from tailcut.structure import check_module
from tailcut.weights import TailTruncation

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    # The same callbacks under two names: "lightning" is the newer one.
    _PACKAGE = next((name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name)), None)
    if _PACKAGE is None:
        raise MissingExtraError("tailcut.integrations.lightning", "pytorch_lightning", "lightning")
    with importing_torchvision("tailcut.integrations.lightning", _PACKAGE, "lightning"):  # which torchmetrics imports
        Callback = importlib.import_module({"lightning": "lightning.pytorch"}.get(_PACKAGE, _PACKAGE)).Callback


class TruncationCallback(Callback):
    """Cuts the tails of a regularised network's tensors after each epoch, see `tailcut.TailTruncation`.

    Vectors keep their length while training, so that checkpoints fit; `on_fit_end` shortens them. Checkpoints have the
    schedule.

        tailcut.regularize(module.network)                       # before the optimiser is made
        trainer = Trainer(callbacks=[TruncationCallback(module.network, num_kept=200, num_steps=5)])

    Args:
        model: the regularised network, a part of the `LightningModule`.
        settings: of `TailTruncation`: `num_kept` or `keep_ratio`, `num_steps`, `spacing` and so on.
    """

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        check_module("TruncationCallback", model)
        self.schedule = TailTruncation(model, **settings)
        self._cuts = EpochCuts(self.schedule)

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Make up the cut that a checkpoint at the end of an epoch does not have (changes the network).

        Here, since a training that resumes there does not say that its next epoch starts.
        """
        self._cuts.begin(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Cut once (changes the network)."""
        self._cuts.end_epoch()
        pl_module.log("num_kept", float(sum(self.schedule.num_kept.values())))

    def on_fit_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Shorten the vectors to what is kept (changes the network)."""
        self._cuts.begin(trainer.current_epoch)
        warn_if_unfinished(self.schedule)
        self.schedule.compact()

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the steps done, and the counts."""
        return self._cuts.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint (changes the network: its masks)."""
        self._cuts.load_state_dict(state_dict)


class RateLossCallback(Callback):
    """Trains a network for the bytes of its file, see `tailcut.RateLoss`.

    The `LightningModule` makes the `RateLoss` an attribute, and its optimiser with `rate_loss.optimizer`; the rest is
    done here: the network computes with the numbers of its file in training and evaluation, and the bytes are added to
    the loss.

        self.rate_loss = tailcut.RateLoss(self.network, target_bytes=2000, num_steps=epochs * batches)

        def configure_optimizers(self):
            return self.rate_loss.optimizer(torch.optim.Adam, lr=0.01)

        pack = PackCallback(module.network, rate_loss=module.rate_loss)
        Trainer(callbacks=[RateLossCallback(module.rate_loss), pack])

    Needs automatic optimisation, and a gradient step for each batch.
    """

    def __init__(self, rate_loss: RateLoss) -> None:
        self.rate_loss = rate_loss
        self._block = ExitStack()

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Refuse what would let the networks of the processes drift apart."""
        if trainer.world_size > 1 and trainer.accumulate_grad_batches > 1:
            raise ArgumentError(
                f"training for bytes in {trainer.world_size} processes needs a gradient step for each batch, got "
                f"accumulate_grad_batches={trainer.accumulate_grad_batches}: set it to 1, and take larger batches"
            )

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Give the network the numbers of its file."""
        self._open()

    def on_before_backward(self, trainer: "Trainer", pl_module: "LightningModule", loss: Tensor) -> None:
        """Add the gradients of the bytes."""
        cost = self.rate_loss()
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # of 16-mixed, whose optimiser divides again
        (cost if scaler is None else scaler.scale(cost)).backward()
        pl_module.log("rate_loss", cost.detach())
        pl_module.log("file_bytes", float(self.rate_loss.target.num_bytes))

    def on_after_backward(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Give the network the numbers behind the rounding again, for the optimiser."""
        self._block.close()

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do the same after a batch that was left out, which has no backward."""
        self._block.close()

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Do the same where the rest of an epoch was left out."""
        self._block.close()

    def on_validation_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Evaluate the network of the file."""
        self._open()

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Go on with the numbers behind the rounding."""
        self._block.close()

    on_test_start, on_test_end = on_validation_start, on_validation_end

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        """Leave the network with its own numbers."""
        self._block.close()

    def _open(self) -> None:
        if not self.rate_loss.is_rounded:
            self._block.enter_context(self.rate_loss.rounded())


class PackCallback(Callback):
    """Packs the network to `model.tailcut` beside the checkpoints, whenever one is saved and at the end.

    Args:
        model: the network, a part of the `LightningModule`.
        folder: where to; the folder of the trainer's checkpoints when None.
        rate_loss: of a training for bytes; its steps are those of the file.
        settings: of `tailcut.save`, such as `dtype="float16"`; with `rate_loss` those of `RateLoss.save`.
    """

    def __init__(
        self, model: nn.Module, *, folder: str | Path | None = None, rate_loss: RateLoss | None = None, **settings: Any
    ) -> None:
        check_module("PackCallback", model)
        check_settings(rate_loss, settings)
        self.model, self.folder, self.rate_loss, self.settings = model, folder, rate_loss, settings

    def on_save_checkpoint(self, trainer: "Trainer", pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        """Pack."""
        self._pack(trainer)

    def on_fit_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Pack the network as it is in the end."""
        self._pack(trainer)

    def _pack(self, trainer: "Trainer") -> None:
        if not trainer.is_global_zero:
            return
        saver = trainer.checkpoint_callback
        folder = self.folder or getattr(saver, "dirpath", None) or trainer.default_root_dir
        write_companion(self.model, folder, self.rate_loss, self.settings)
