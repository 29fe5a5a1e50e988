import signal
import threading
from pathlib import Path

import pytest
import torch

from tailcut.runs import Run
from tailcut.runtime.signals import (
    interrupted,
    is_lost_connection,
    listen_for_interruption,
    lost_connection,
    not_a_number,
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_stops(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with listen_for_interruption() as interruption:
        assert not interruption.wanted
        signal.raise_signal(number)
        assert interruption.wanted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_other_threads_change_no_handler() -> None:
    handlers = []

    def listen() -> None:
        with listen_for_interruption() as interruption:
            handlers.append((signal.getsignal(signal.SIGINT), interruption.wanted))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert handlers == [(signal.getsignal(signal.SIGINT), False)]


def test_messages_count_from_one_and_say_what_to_do() -> None:
    message = interrupted(Run(Path("runs/a")), 2, 10, 2)
    assert message.startswith("interrupted in epoch 3, step 11; 2 finished epochs are saved in runs/a")
    assert "--resume" in message
    message = not_a_number(float("inf"), 0, 0, 0.5, 0)
    assert message.startswith("the loss is inf in epoch 1, step 1, at learning rate 0.5; there is no checkpoint yet")
    assert "Train anew in another folder with a lower optimizer.lr, " in message


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:20133"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("Connection closed by peer"), False),
    ],
)
def test_a_lost_connection_is_known_by_what_pytorch_raises(error: Exception, lost: bool) -> None:
    assert is_lost_connection(error) is lost
    assert str(error) in lost_connection(error)
