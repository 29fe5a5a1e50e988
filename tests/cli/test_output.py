import io
import logging
import sys

import pytest

from tailcut.cli import main
from tailcut.cli.output import LauncherError, is_first_process, messages_on_stderr, say_error
from tailcut.errors import DivergedError, TrainingError

logger = logging.getLogger("tailcut.somewhere")


def test_messages_are_shown_within_the_block_only(capsys: pytest.CaptureFixture[str]) -> None:
    with messages_on_stderr():
        logger.info("half of %d", 4)
        logger.warning("careful")
        logger.debug("detail")
    logger.info("later")
    captured = capsys.readouterr()
    assert captured.err == "half of 4\nwarning: careful\n"
    assert captured.out == ""


def test_only_the_first_process_of_a_training_talks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_process()
    with messages_on_stderr():
        logger.warning("careful")
    assert main(["inspect", "--json"]) == 2
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert is_first_process()


@pytest.mark.parametrize(
    ("variables", "mark"),
    [
        ({"LOCAL_RANK": "1"}, "[rank 1]"),
        ({"RANK": "5", "LOCAL_RANK": "1"}, "[rank 5]"),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, "[node 1, rank 0]"),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "3"}, "[rank 3]"),
    ],
)
def test_other_processes_tell_their_own_errors_with_their_rank(
    variables: dict[str, str], mark: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["inspect", "nowhere.tailcut", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{mark} tailcut inspect: error: no such file: nowhere.tailcut\n"


@pytest.mark.parametrize(
    "error", [LauncherError("twice"), DivergedError("nan"), TrainingError("lost"), KeyboardInterrupt()]
)
def test_what_ends_all_processes_is_said_once(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_error("tailcut train", "why", error)
    assert capsys.readouterr().err == "tailcut train: error: why\n"
    monkeypatch.setenv("RANK", "1")
    say_error("tailcut train", "why", error)
    assert capsys.readouterr().err == ""


def test_variables_of_slurm_count_only_where_it_tells_processes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert is_first_process()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert not is_first_process()
    monkeypatch.setenv("RANK", "0")  # torchrun within a task of srun
    assert is_first_process()


def test_messages_follow_standard_error_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with messages_on_stderr():
        other = io.StringIO()
        monkeypatch.setattr(sys, "stderr", other)
        logger.info("hello")
    assert other.getvalue() == "hello\n"
