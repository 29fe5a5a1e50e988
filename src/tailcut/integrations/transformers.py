"""Callbacks for Hugging Face's `Trainer`: cut tails, train for bytes, pack (extra `transformers`)."""

import base64
import importlib.util
import io
import logging
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tailcut.compression import RateLoss
from tailcut.errors import MissingExtraError
from tailcut.format.conversion.checkpoints import load_plain
from tailcut.integrations.companion import EpochCuts, check_settings, warn_if_unfinished, write_companion
from tailcut.structure import check_module
from tailcut.weights import TailTruncation

if importlib.util.find_spec("transformers") is None:
    raise MissingExtraError("tailcut.integrations.transformers", "transformers", "transformers")

from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


EPOCH_ROUNDING = 1e-6  # of the state's epoch, a sum of parts

_log = logging.getLogger(__name__)


class _Resumable(TrainerCallback):
    """Keeps what it knows in the trainer's state, which is in each checkpoint and comes back with it.

    Which callback an entry belongs to follows from their order, so that there may be several of a kind.
    """

    _key: str

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Go on where a checkpoint was written, if the training resumes from one."""
        place = getattr(state, "_tailcut_callbacks", 0)
        state._tailcut_callbacks = place + 1  # type: ignore[attr-defined]
        self._key = f"tailcut {place} {type(self).__name__}"
        entry = _entries(state).get(self._key)
        if entry is not None:
            self._restore(load_plain(io.BytesIO(base64.b64decode(entry))))
        elif state.global_step:
            _log.warning("the checkpoint has no state of %s: it begins anew", type(self).__name__)
        self._begin(state)
        self._note(state)  # for a checkpoint before the first is noted

    def _begin(self, state: "TrainerState") -> None:
        """Begin where the training is, after what there is to go on from."""

    def _note(self, state: "TrainerState") -> None:
        content = io.BytesIO()
        torch.save(self._content(), content)
        _entries(state)[self._key] = base64.b64encode(content.getvalue()).decode()

    def _content(self) -> dict[str, Any]:
        raise NotImplementedError

    def _restore(self, content: dict[str, Any]) -> None:
        raise NotImplementedError


def _entries(state: "TrainerState") -> dict[str, Any]:
    entries: Any = state.stateful_callbacks  # a dict once the state is made
    return entries  # type: ignore[no-any-return]


class TruncationCallback(_Resumable):
    """Cuts the tails of a regularised network's tensors after each epoch, see `tailcut.TailTruncation`.

    Vectors keep their length while training, so that checkpoints fit; the end of the training shortens them. A training
    that resumes from a checkpoint goes on with its cuts.

        tailcut.regularize(model)
        Trainer(model, arguments, callbacks=[TruncationCallback(model, keep_ratio=0.05, num_steps=5)], ...)

    Args:
        model: the regularised network, or the regularised part of it.
        settings: of `TailTruncation`: `num_kept` or `keep_ratio`, `num_steps`, `spacing` and so on.
    """

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        check_module("TruncationCallback", model)
        self.schedule = TailTruncation(model, **settings)
        self._cuts = EpochCuts(self.schedule)

    def on_epoch_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Cut once (changes the network)."""
        self._cuts.end_epoch()
        self._note(state)

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Shorten the vectors to what is kept (changes the network)."""
        warn_if_unfinished(self.schedule)
        self.schedule.compact()

    def _begin(self, state: "TrainerState") -> None:
        self._cuts.begin(math.floor((state.epoch or 0) + EPOCH_ROUNDING))

    def _content(self) -> dict[str, Any]:
        return self._cuts.state_dict()

    def _restore(self, content: dict[str, Any]) -> None:
        self._cuts.load_state_dict(content)


class RateLossCallback(_Resumable):
    """Trains a network for the bytes of its file, see `tailcut.RateLoss`.

        rate_loss = tailcut.RateLoss(model, target_bytes=20_000, num_steps=steps)
        Trainer(model, arguments, optimizers=(rate_loss.optimizer(torch.optim.Adam, lr=0.01), None),
                callbacks=[RateLossCallback(rate_loss), PackCallback(model, rate_loss=rate_loss)], ...)

    The network computes with the numbers of its file in each step. Gradients are clipped before those of the bytes are
    added. Evaluation sees the numbers behind the rounding; evaluate the packed file. A training that resumes from a
    checkpoint goes on with its steps.
    """

    def __init__(self, rate_loss: RateLoss) -> None:
        self.rate_loss = rate_loss
        self._block = ExitStack()

    def close(self) -> None:
        """Give the network the numbers behind the rounding, where a training was interrupted within a step.

        The next training does so by itself.
        """
        self._block.close()

    def _begin(self, state: "TrainerState") -> None:
        self.close()

    def on_step_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Give the network the numbers of its file."""
        if not self.rate_loss.is_rounded:
            self._block.enter_context(self.rate_loss.rounded())

    def on_pre_optimizer_step(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Add the gradients of the bytes, and give the network the numbers behind the rounding again."""
        self.rate_loss().backward()
        self._block.close()

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Note the steps learned so far, for a checkpoint."""
        self.rate_loss.zero_grad()  # the trainer empties only the gradients of its model
        self._note(state)

    def _content(self) -> dict[str, Any]:
        return self.rate_loss.state_dict()

    def _restore(self, content: dict[str, Any]) -> None:
        self.rate_loss.load_state_dict(content)


class PackCallback(TrainerCallback):
    """Packs the network to `model.tailcut` in the folder of each checkpoint, and in the output folder at the end.

    Args:
        model: the network.
        rate_loss: of a training for bytes; its steps are those of the file.
        settings: of `tailcut.save`, such as `dtype="float16"`; with `rate_loss` those of `RateLoss.save`.
    """

    def __init__(self, model: nn.Module, *, rate_loss: RateLoss | None = None, **settings: Any) -> None:
        check_module("PackCallback", model)
        check_settings(rate_loss, settings)
        self.model, self.rate_loss, self.settings = model, rate_loss, settings

    def on_save(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Pack beside the checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
            write_companion(self.model, folder, self.rate_loss, self.settings)

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Pack the network as it is in the end."""
        if state.is_world_process_zero:
            write_companion(self.model, args.output_dir or ".", self.rate_loss, self.settings)
