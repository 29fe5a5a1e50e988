import signal
import threading
from pathlib import Path

import pytest
import torch

from tailcut.errors import TrainingError
from tailcut.runs import Run
from tailcut.runtime.signals import (
    divergence_message,
    interrupted_after_message,
    interrupted_message,
    is_lost_connection,
    listen_for_interruption,
    lost_connection_message,
    stopping_at_once,
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "^interrupted; nothing is saved yet: the same command with --resume begins again$"),
        ("checkpoints/last.pt", "^interrupted; what is finished is saved in .*run: .* with --resume goes on$"),
        ("stages/a/result.json", "^interrupted; what is finished is saved in .*run: .* with --resume goes on$"),
    ],
)
def test_outside_of_the_steps_the_first_signal_stops_and_says_how_to_go_on(
    number: signal.Signals, written: str, message: str, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    if written:
        (run.path / written).parent.mkdir(parents=True)
        (run.path / written).touch()
    before = signal.getsignal(number)
    assert_stops(run, number, message)
    assert signal.getsignal(number) is before
    assert_stops(run.stage("b"), number, message.replace("interrupted", "interrupted in stage b"))


def assert_stops(run: Run, number: signal.Signals, message: str) -> None:
    went_on = []

    def work() -> None:
        with stopping_at_once(run):
            signal.raise_signal(number)
            went_on.append(True)

    with pytest.raises(TrainingError, match=message):
        work()
    assert not went_on


def test_a_second_signal_within_the_steps_says_how_to_go_on_too(tmp_path: Path) -> None:
    def work() -> None:
        with stopping_at_once(Run(tmp_path)), listen_for_interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
            assert interruption.wanted
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; .* with --resume begins again$"):
        work()


class LosesErrors:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_error_python_drops_stops_at_the_end(tmp_path: Path) -> None:
    ended = []

    def work() -> None:
        with stopping_at_once(Run(tmp_path)):
            LosesErrors()
            ended.append(True)

    with pytest.raises(TrainingError, match="interrupted"):
        work()
    assert ended


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
    message = interrupted_message(Run(Path("runs/a")), 2, 10, 2)
    assert message.startswith("interrupted in epoch 3, step 11; 2 finished epochs are saved in runs/a")
    assert "--resume" in message
    message = interrupted_after_message(Run(Path("runs/a")).stage("b"), 3, 2)
    assert message.startswith("interrupted after stage b, epoch 3; 2 finished epochs are saved in ")
    assert message.endswith(": the same command with --resume goes on")
    assert "no epoch is saved yet" in interrupted_after_message(Run(Path("runs/a")), 3, 0)
    message = divergence_message(float("inf"), 0, 0, 0.5, 0)
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
    assert str(error) in lost_connection_message(error)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts jobs in the background
    try:
        with listen_for_interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
        assert not interruption.wanted
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
