import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.format.networks import BARE_UNET, regularized

from tailcut.format import load, save
from tailcut.weights import kept_counts, to_dense

Tailcut = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = regularized("unet", num_kept=12, arguments={"widths": (16, 32), **BARE_UNET})
    save(model, tmp_path / "a.tailcut")
    return tmp_path / "a.tailcut"


def test_json_has_exactly_the_promised_keys(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.tailcut"
    outcome = tailcut("resample", file, "--set-argument", "widths=[8, 20]", "-o", out, "--json")
    assert outcome.code == 0
    assert list(outcome.json) == [
        "source",
        "out",
        "file_bytes",
        "num_parameters_before",
        "num_parameters_after",
        "resampling",
    ]
    assert list(outcome.json["resampling"]) == ["tensors", "interpolated"]
    assert list(outcome.json["resampling"]["tensors"][0]) == [
        "name",
        "before",
        "after",
        "num_before",
        "num_after",
        "energy_lost",
    ]
    assert outcome.json["file_bytes"] == out.stat().st_size
    narrow: Any = load(out)
    dense = sum(value.numel() for value in to_dense(narrow).parameters())
    assert outcome.json["num_parameters_after"] == dense < outcome.json["num_parameters_before"]
    assert narrow.inc.double_conv[0].out_channels == 8
    assert set(kept_counts(narrow).values()) == {12}


def test_what_is_printed(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    outcome = tailcut("resample", file, "--set-argument", "widths=[8, 20]", "-o", tmp_path / "b.tailcut")
    assert "inc.double_conv.0.weight" in outcome.out
    assert "16 x 3 x 3 x 3" in outcome.out
    assert "Measure it: tailcut evaluate" in outcome.out


def test_dtypes_arrive(tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    sizes = []
    for dtype in ("float16", "float32"):
        outcome = tailcut(
            "resample", file, "--set-argument", "widths=[8,16]", "--dtype", dtype, "-o", tmp_path / dtype, "--json"
        )
        sizes.append(outcome.json["file_bytes"])
    assert sizes[0] < sizes[1]


def test_the_examples_of_the_help_are_complete(tailcut: Tailcut) -> None:
    shown = tailcut("resample", "--help").out.partition("example:\n")[2]
    examples = [shlex.split(line)[1:] for line in shown.splitlines() if line.startswith("  tailcut ")]
    assert [words[0] for words in examples] == ["resample", "export"]
    for words in examples:
        words[1] = "nowhere.tailcut"  # the only thing wrong with it
        outcome = tailcut(*words)
        assert (outcome.code, "nowhere.tailcut" in outcome.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set-argument", "width=8"], "has no argument 'width'; its arguments: "),
        (["--set-argument", "widths=8"], "argument 'widths' must be"),
        (["--set-argument", "widths=[8,16,32]"], "only the channels within a network"),
        (["--set-argument", "widths"], "expected KEY=VALUE"),
        ([], "required: --set-argument"),
    ],
)
def test_bad_arguments(words: list[str], message: str, tailcut: Tailcut, file: Path, tmp_path: Path) -> None:
    outcome = tailcut("resample", file, *words, "-o", tmp_path / "b.tailcut")
    assert outcome.code in (1, 2)
    assert message in outcome.err
    assert not (tmp_path / "b.tailcut").exists()
