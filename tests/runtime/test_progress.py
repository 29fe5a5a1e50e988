import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailcut.runs import Run
from tailcut.runtime.progress import Throughput, epoch_line, live_progress, log_to_file


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with live_progress(True, "images", 10) as bar:
        bar.show(4, "loss 0.5")
    assert isinstance(sys.stderr, Terminal)
    assert "images" in sys.stderr.getvalue()
    assert "4/10" in sys.stderr.getvalue()


@pytest.mark.parametrize(("wanted", "interval"), [(True, None), (False, 0.0)])
def test_elsewhere_nothing_is_written_unasked(
    wanted: bool, interval: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), live_progress(wanted, "images", 10, interval=interval) as bar:
        bar.show(4)
    assert caplog.text == ""


def test_elsewhere_a_line_is_written_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), live_progress(True, "images", 10, interval=-1) as bar:
        bar.show(4, "fine")
    assert caplog.messages == ["4 of 10 images  fine"]
    with live_progress(True, "images", 10, interval=1000) as bar:
        bar.show(5)
    assert len(caplog.messages) == 1


def test_the_log_has_messages_and_the_error_that_ends_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    logger = logging.getLogger("tailcut.runtime.progress")

    def fail() -> None:
        with log_to_file(run):
            logger.info("began with %d", 3)
            raise ValueError("too late")

    with pytest.raises(ValueError, match="too late"):
        fail()
    logger.info("after the end")
    lines = run.log.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO began with 3", "ERROR too late"]


def test_a_line_tells_an_epoch() -> None:
    line = {
        "epoch": 3,
        "loss": 0.12345,
        "split": "validation",
        "metrics": {"accuracy": 0.9876},
        "lr": 0.01,
        "num_kept": 7668,
        "seconds": 3.21,
    }
    assert epoch_line(line, 30) == (
        "epoch 3/30  loss 0.1235  validation accuracy 98.76 %  lr 1.00e-02  kept 7,668  3.2 s"
    )
    assert "accuracy" not in epoch_line({**line, "split": "", "metrics": {}}, 30)
    coarse = epoch_line({**line, "coarse": 2}, 30)
    assert "98.76 %  (trained on images 2 times smaller so far)  lr" in coarse
    assert "smaller" not in epoch_line({**line, "coarse": 1}, 30)
    fast = epoch_line({**line, "images_per_second": 1234.5, "waiting_ratio": 0.251}, 30)
    assert fast.endswith("3.2 s  (1,234 images/s, 25 % of the time waiting)")
    assert epoch_line({**line, "images_per_second": 2.25, "waiting_ratio": 1.0}, 30).endswith(
        "(2.2 images/s, 100 % of the time waiting)"
    )


def test_throughput_tells_work_from_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("tailcut.runtime.progress.time.perf_counter", lambda: now[0])

    def batches() -> Iterator[int]:
        for number in range(3):
            now[0] += 0.5  # is read
            yield number
        now[0] += 0.5  # the end is found out

    throughput = Throughput()
    assert throughput.figures() == {"images_per_second": 0.0, "waiting_ratio": 0.0}
    found = []
    for number in throughput.waiting_for(batches()):
        now[0] += 1.0  # is worked on
        throughput.count(4)
        found.append(number)
    assert found == [0, 1, 2]
    assert throughput.figures() == {"images_per_second": 2.4, "waiting_ratio": 0.4}
    assert str(throughput) == "2.4 images/s, 40 % of the time waiting"
    with pytest.raises(RuntimeError, match="damaged"):
        list(throughput.waiting_for(_damaged()))


def _damaged() -> Iterator[int]:
    raise RuntimeError("damaged")
    yield 0


def test_a_distance_is_no_percentage() -> None:
    metrics = {"fid": 407.363, "elbo": -108.376}
    line = {"epoch": 1, "loss": 110.0, "split": "test", "metrics": metrics, "lr": 0.1, "num_kept": 5, "seconds": 1.0}
    assert "test fid 407.36  test elbo -108.38  lr" in epoch_line(line, 3)
