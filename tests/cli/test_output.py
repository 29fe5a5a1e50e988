import io
import logging
import sys

import pytest

from tailcut.cli import main
from tailcut.cli.output import is_first_process, messages_on_stderr

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
    assert main(["inspect", "nowhere.tailcut", "--json"]) == 1
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert is_first_process()


def test_messages_follow_standard_error_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with messages_on_stderr():
        other = io.StringIO()
        monkeypatch.setattr(sys, "stderr", other)
        logger.info("hello")
    assert other.getvalue() == "hello\n"
