import signal
import threading
from pathlib import Path

import pytest

from tailcut.runs import Run
from tailcut.training.interruption import interrupted, listen_for_interruption, not_a_number


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
    message = interrupted(Run(Path("runs/a")), 2, 10)
    assert message.startswith("interrupted in epoch 3, step 11; 2 finished epochs are saved in runs/a")
    assert "--resume" in message
    message = not_a_number(float("inf"), 0, 0, 0.5)
    assert message.startswith("the loss is inf in epoch 1, step 1, at learning rate 0.5; there is no checkpoint yet")
    assert "Train anew in another folder with a lower optimizer.lr, " in message
