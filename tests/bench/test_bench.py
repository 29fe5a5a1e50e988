"""The benchmarks run and print: sizes are tiny and no time is looked at, only that there is one."""

import contextlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bench.__main__ import SCALES, TOPICS, main
from bench.scale import FULL, TINY
from bench.tables import Table
from bench.timing import CLOCKS, compare, num_threads
from bench.transform import KEPT, check_agreement, make_weights

from bench import inputs, microcontroller

TABLES_PER_TOPIC = {
    "transform": 2,
    "sweeps": 3,
    "training": 2,
    "for_bytes": 1,
    "matrix_unit": 1,
    "files": 3,
    "coding": 2,
    "execution": 6,
    "inputs": 1,
    "loading": 1,
    "channels": 3,
    "table5": 1,
    "widths": 1,
    "exporting": 1,
    "microcontroller": 1,
    "integers": 1,
    "layers_in_c": 1,
    "c_speed": 1,
    "combined": 1,
    "cuda": 3,
    "cuda_graph": 1,
}
RATIOS = {
    "transform": "torch-dct / tailcut",
    "sweeps": "FFT / basis",
    "training": "step / plain",
    "for_bytes": "for bytes / plain",
    "matrix_unit": "times faster",
    "files": "bytes / tailcut",
    "coding": "numbers",
    "execution": "times faster",
    "inputs": "/ published",
    "loading": "/ pixels",
    "channels": "loops / tailcut",
    "table5": "images/s",
    "widths": "times faster",
    "exporting": "open: times torch",
    "microcontroller": "million instructions",
    "integers": "million instructions",
    "layers_in_c": "million instructions",
    "c_speed": "C / fused",
    "combined": "times faster",
    "cuda": "times faster",
    "cuda_graph": "times faster",
}


@dataclass(frozen=True)
class Outcome:
    topic: str
    printed: str
    content: dict[str, Any]


@pytest.fixture(scope="module", params=list(TOPICS))
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One topic, run on one thread without any data."""
    if request.param in ("microcontroller", "integers", "layers_in_c") and microcontroller.missing_tools():
        pytest.skip(f"needs {' and '.join(microcontroller.missing_tools())}")
    if request.param in ("cuda", "cuda_graph") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    folder = tmp_path_factory.mktemp("bench")
    arguments = ["--scale", "tiny", "--threads", "1", "--machine", "a machine", "--json", str(folder / "bench.json")]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("TAILCUT_DATA", str(folder))
        assert main([request.param, *arguments]) == 0
    content = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    return Outcome(request.param, printed.getvalue(), content)


def test_topic_prints_its_tables(outcome: Outcome) -> None:
    assert list(outcome.content["topics"]) == [outcome.topic]
    tables = outcome.content["topics"][outcome.topic]
    assert len(tables) == TABLES_PER_TOPIC[outcome.topic]
    assert any(RATIOS[outcome.topic] in row for table in tables for row in table["rows"])
    for table in tables:
        assert table["title"] in outcome.printed
        # Networks of libraries that cannot be imported here are left out, and the table says so.
        assert table["rows"] or any(note.startswith("Left out: ") for note in table["notes"])
        for row in table["rows"]:
            for key, value in row.items():
                if value is not None and not isinstance(value, str):
                    assert math.isfinite(value), key
                    assert value >= 0, key
                    assert value > 0 or RATIOS[outcome.topic] not in key, key


def test_machine_and_its_limits_are_named(outcome: Outcome) -> None:
    machine = outcome.content["machine"]
    assert machine["note"] == "a machine"
    assert machine["num_threads"] == 1
    assert machine["copy_rate"] > 0
    assert machine["product_rate"] > 0
    assert machine["processor"] in outcome.printed
    assert "GFLOP/s" in outcome.printed
    assert (outcome.content["scale"], outcome.content["clock"]) == ("tiny", "wall")


def test_missing_published_network_is_said(outcome: Outcome) -> None:
    is_said = "no data root has carvana/published/unet_fr.tar.xz" in outcome.printed
    assert is_said == (outcome.topic == "files")


def test_all_is_the_default_and_full_the_scale() -> None:
    assert set(TABLES_PER_TOPIC) == set(TOPICS)
    assert SCALES["full"] is FULL
    assert sum(FULL.unet_widths) == 1984


def test_processor_time_needs_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["transform", "--scale", "tiny", "--clock", "processor", "--threads", "2"])
    assert caught.value.code == 2
    assert "one thread" in capsys.readouterr().err


def test_candidates_run_in_turn() -> None:
    calls: list[str] = []
    candidates: dict[str, Callable[[], object]] = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = compare(candidates, TINY)
    assert "".join(calls) == "ab" * (1 + TINY.max_repetitions)
    assert {timing.num_repetitions for timing in timings.values()} == {TINY.max_repetitions}


def test_median_and_best(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 5.0, 10.0, 11.0, 20.0, 23.0])
    monkeypatch.setitem(CLOCKS, "wall", lambda: next(ticks))
    scale = SCALES["quick"]
    timing = compare({"a": lambda: None}, scale, share=0.0)["a"]
    assert (timing.median_s, timing.best_s, timing.num_repetitions) == (3.0, 1.0, 3)


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    with num_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_wrong_answer_has_no_speed() -> None:
    weights = make_weights(TINY, KEPT["33"])
    check_agreement(weights)
    weights.padded[0].add_(1)
    with pytest.raises(AssertionError):
        check_agreement(weights)


def test_other_channels_have_no_speed() -> None:
    channels = torch.zeros(24, 2, 2)
    inputs.check_agreement(channels, channels + 0.5)
    for other in (channels + 2, channels[:23], channels + float("nan")):
        with pytest.raises(AssertionError, match="differ from the published pipeline's"):
            inputs.check_agreement(channels, other)


def test_missing_values_are_dashes() -> None:
    table = Table(
        "Title", {"name": "", "size": ",d"}, [{"name": "x", "size": None}, {"name": "y", "size": 1234}], ["Note."]
    )
    assert str(table).splitlines() == [
        "Title",
        "",
        "name   size",
        "----  -----",
        "x         -",
        "y     1,234",
        "",
        "Note.",
    ]
